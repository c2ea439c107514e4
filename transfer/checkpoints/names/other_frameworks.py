"""How other frameworks name each tensor of a ResNet-50, 101 or 152.

Each table goes over the network in order: the stem, then block by block, a projection shortcut
before the block's three convolutions. Kernels of TensorFlow and haiku are (height, width, in, out).
Sources: google-research/simclr resnet.py and tf2/resnet.py, deepmind-research
byol/utils/networks.py, Detectron2's checkpoint/c2_model_loading.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from torch import Tensor

# By the number of convolutions, shortcuts included: the number of blocks in each stage.
BLOCKS = {53: (3, 4, 6, 3), 104: (3, 4, 23, 3), 155: (3, 8, 36, 3)}
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class Conv(NamedTuple):
    """Names a convolution and its norm.

    Attributes:
        conv, norm: canonical modules; place: order in the network, from 0; stage: from 0,
            -1 the stem; block: from 0; part: "stem", "shortcut", "1", "2" or "3".
    """

    conv: str
    norm: str
    place: int
    stage: int
    block: int
    part: str


def walk(blocks: Collection[int]) -> Iterator[Conv]:
    """Yields the convolutions of a bottleneck ResNet in order."""
    yield Conv("conv1", "bn1", 0, -1, 0, "stem")
    place = 1
    for stage, count in enumerate(blocks):
        for block in range(count):
            head = f"layer{stage + 1}.{block}."
            if block == 0:
                names = (f"{head}downsample.0", f"{head}downsample.1")
                yield Conv(*names, place, stage, block, "shortcut")
                place += 1
            for part in "123":
                yield Conv(f"{head}conv{part}", f"{head}bn{part}", place, stage, block, part)
                place += 1


Stored = Callable[[Conv], tuple[str, tuple[str, ...]]]  # its kernel's name, its norm's in order


def table(stored: Stored, names: Collection[str]) -> dict[str, str]:
    """Returns the stored names by canonical name, for the depth that is nearest to `names`."""
    found = set(names)
    best: dict[str, str] = {}
    for blocks in BLOCKS.values():
        one = {}
        for conv in walk(blocks):
            kernel, norm = stored(conv)
            one[f"{conv.conv}.weight"] = kernel
            one.update(zip((f"{conv.norm}.{leaf}" for leaf in _NORM), norm))
        if not best or _likeness(one, found) > _likeness(best, found):
            best = one
    return best


def _likeness(one: dict[str, str], found: set[str]) -> float:
    theirs = set(one.values())
    return len(theirs & found) / len(theirs | found)


def simclr(conv: Conv) -> tuple[str, tuple[str, ...]]:
    """Returns TensorFlow 1's names (v1 and v2), numbered over the network."""
    number = f"_{conv.place}" if conv.place else ""
    norm = f"batch_normalization{number}"
    leaves = ("gamma", "beta", "moving_mean", "moving_variance")
    return f"conv2d{number}/kernel", tuple(f"{norm}/{leaf}" for leaf in leaves)


def simclr_tf2(conv: Conv) -> tuple[str, tuple[str, ...]]:
    """Returns the names of the kernel and of the norm's tensors: TensorFlow 2's object paths."""
    if conv.part == "stem":
        layers, at, norm_at = "initial_conv_relu_max_pool", 0, 2
    else:
        path = f"block_groups/{conv.stage}/layers/{conv.block}"
        shortcut = conv.part == "shortcut"
        at = 0 if shortcut else 3 * (int(conv.part) - 1)
        layers = f"{path}/{'projection_layers' if shortcut else 'conv_relu_dropblock_layers'}"
        norm_at = at + 1
    end = "/.ATTRIBUTES/VARIABLE_VALUE"
    leaves = ("gamma", "beta", "moving_mean", "moving_variance")
    norm = tuple(f"{layers}/{norm_at}/bn/{leaf}{end}" for leaf in leaves)
    return f"{layers}/{at}/conv2d/kernel{end}", norm


def byol(conv: Conv) -> tuple[str, tuple[str, ...]]:
    """Returns haiku's module paths of the parameters and of the norms' moving averages."""
    if conv.part == "stem":
        path, kernel, norm = "", "initial_conv", "initial_batchnorm"
    else:
        path = f"block_group_{conv.stage}/~/block_{conv.block}/~/"
        number = int(conv.part) - 1 if conv.part != "shortcut" else 0
        kernel = "shortcut_conv" if conv.part == "shortcut" else f"conv_{number}"
        norm = "shortcut_batchnorm" if conv.part == "shortcut" else f"batchnorm_{number}"
    kernel, norm = f"{path}{kernel}", f"{path}{norm}"
    averages = (f"{norm}/~/mean_ema/average", f"{norm}/~/var_ema/average")
    return f"{kernel}/w", (f"{norm}/scale", f"{norm}/offset", *averages)


def msra(conv: Conv) -> tuple[str, tuple[str, ...]]:
    """Returns Caffe2's blobs with complete norms, as in Detectron2's model zoo."""
    name, norm = _caffe2(conv)
    leaves = ("gamma", "beta", "running_mean", "running_var")
    return f"{name}_w", tuple(f"{norm}_{leaf}" for leaf in leaves)


def msra_folded(conv: Conv) -> tuple[str, tuple[str, ...]]:
    """Returns Caffe2's blobs in Detectron 1: scale and bias of a norm contain its statistics."""
    name, norm = _caffe2(conv)
    return f"{name}_w", (f"{norm}_s", f"{norm}_b")


def _caffe2(conv: Conv) -> tuple[str, str]:
    if conv.part == "stem":
        return "conv1", "res_conv1_bn"
    branch = "1" if conv.part == "shortcut" else f"2{'abc'[int(conv.part) - 1]}"
    name = f"res{conv.stage + 2}_{conv.block}_branch{branch}"
    return name, f"{name}_bn"


def separius(conv: Conv) -> tuple[str, tuple[str, ...]]:
    """Returns the names of Separius/SimCLRv2-Pytorch's resnet.py."""
    if conv.part == "stem":
        kernel, norm = "net.0.0", "net.0.1.0"
    else:
        block = f"net.{conv.stage + 1}.blocks.{conv.block}"
        if conv.part == "shortcut":
            kernel, norm = f"{block}.projection.shortcut", f"{block}.projection.bn.0"
        else:
            at = 2 * (int(conv.part) - 1)
            kernel, norm = f"{block}.net.{at}", f"{block}.net.{at + 1}.0"
    return f"{kernel}.weight", tuple(f"{norm}.{leaf}" for leaf in _NORM)


def to_torch(name: str, tensor: Tensor) -> Tensor:
    """Converts a kernel (h, w, in, out) to (out, in, h, w), and a norm's (1, 1, 1, C) to (C,)."""
    if tensor.dim() == 4 and not re.search(r"(bn\d|downsample\.1)\.", name):
        return tensor.permute(3, 2, 0, 1)
    return tensor.reshape(-1) if tensor.dim() == 4 else tensor
