"""EfficientNet-Lite's sizes, and those that a file's tensors may have.

An EfficientNet without squeeze and excitation and with ReLU6, for phones. Its convolutions are
padded as TensorFlow's, so timm's network is `tf_efficientnet_lite0`, not `efficientnet_lite0`,
whose tensors have equal names and shapes.
Source: tensorflow/tpu models/official/efficientnet/lite/efficientnet_lite_builder.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# by timm's name: blocks of each stage; the first and the last stage are not scaled in depth
REPEATS = {
    "tf_efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1),
    "tf_efficientnet_lite1": (1, 3, 3, 4, 4, 5, 1),
    "tf_efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1),
    "tf_efficientnet_lite3": (1, 3, 3, 5, 5, 6, 1),
    "tf_efficientnet_lite4": (1, 4, 4, 6, 6, 8, 1),
}


def efficientnet_lite_candidates(found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Returns all sizes if the tensors (canonical names) are an EfficientNet's, otherwise none."""
    block = re.compile(r"blocks\.\d+\.\d+\.conv_dw\.")
    return list(REPEATS) if any(map(block.match, found)) else []
