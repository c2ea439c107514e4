"""EfficientNet-Lite's tensors: timm's names (canonical), and lukemelas' (EfficientNet-PyTorch).

lukemelas numbers the blocks through the network, timm within each of the seven stages. A block has
up to three convolutions (1x1 that widens, depthwise, 1x1 that narrows), each before a norm; the
first block of the network does not widen, and timm calls its parts differently.
Read in efficientnet_pytorch/model.py (MBConvBlock) and timm's models/_efficientnet_blocks.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from transfer.checkpoints.networks.efficientnet_lite import REPEATS

_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LATER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_BLOCK = r"_blocks\.(\d+)\..*"
LANDMARKS = ("_conv_stem.weight", "_blocks.0._depthwise_conv.weight", "_conv_head.weight")


def table(names: Collection[str]) -> dict[str, str]:
    """Returns canonical names by lukemelas', for the Lite network with the blocks in `names`."""
    modules = dict(_OUTSIDE)
    for number, place in enumerate(_places(names)):
        for part, canonical in (_LATER if number else _FIRST).items():
            modules[f"_blocks.{number}.{part}"] = f"blocks.{place}.{canonical}"
    return {
        f"{own}.{leaf}": f"{canonical}.{leaf}"
        for own, canonical in modules.items()
        for leaf in _LEAVES
    }


def _places(names: Collection[str]) -> list[str]:
    """Returns "STAGE.NUMBER" in timm for each block, for the shallowest network that has as many
    blocks as the names.
    """
    numbers = [int(block[1]) for name in names if (block := re.fullmatch(_BLOCK, name))]
    deepest = max(numbers, default=0)
    fitting = (stages for stages in sorted(REPEATS.values()) if sum(stages) > deepest)
    stages = next(fitting, max(REPEATS.values()))
    return [f"{stage}.{number}" for stage, count in enumerate(stages) for number in range(count)]
