"""A ConvNeXt's tensors: timm's names and shapes (canonical), and those of the other spellings.

Read in facebookresearch/ConvNeXt models/convnext.py (also VICRegL's and DINOv3's), ConvNeXt-V2
models/{convnextv2,convnextv2_sparse,utils}.py and utils.py, torchvision's models/convnext.py,
transformers' models/{convnext,convnextv2,dinov3_convnext}, mmpretrain models/backbones/convnext.py.
D channels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

STAGES, BLOCKS = 4, 40  # a number above that of the blocks of any stage


class Spelling(NamedTuple):
    """Says how a project names the modules; the defaults are FAIR's names.

    Attributes:
        stem, down: the stem's convolution and norm; the norm and convolution before a stage.
        block: what a block's names begin with. `{s}` is the stage, `{b}` the block, both from 0;
            `{even}` is 2 * stage and `{odd}` 2 * stage + 1.
        conv_dw, norm, fc1, fc2, grn: modules of a block; gamma: its layer scale, a tensor.
        grn_leaves: the names of the response normalisation's scale and shift.
        last: the norm after pooling.
        sparse: kernels and norms are MinkowskiEngine's (FCMAE).
    """

    stem: tuple[str, str] = ("downsample_layers.0.0", "downsample_layers.0.1")
    down: tuple[str, str] = ("downsample_layers.{s}.0", "downsample_layers.{s}.1")
    block: str = "stages.{s}.{b}"
    conv_dw: str = "dwconv"
    norm: str = "norm"
    fc1: str = "pwconv1"
    fc2: str = "pwconv2"
    gamma: str = "gamma"
    grn: str = "grn"
    grn_leaves: tuple[str, str] = ("gamma", "beta")
    last: str = "norm"
    sparse: bool = False


_HF = Spelling(
    stem=("embeddings.patch_embeddings", "embeddings.layernorm"),
    down=("encoder.stages.{s}.downsampling_layer.0", "encoder.stages.{s}.downsampling_layer.1"),
    block="encoder.stages.{s}.layers.{b}",
    norm="layernorm",
    gamma="layer_scale_parameter",
    grn_leaves=("weight", "bias"),
    last="layernorm",
)


def _dinov3_of_hf(head: str) -> Spelling:
    """DINOv3 in transformers 5 has `model.` before the stages, but not before the last norm."""
    return Spelling(
        stem=(f"{head}stages.0.downsample_layers.0", f"{head}stages.0.downsample_layers.1"),
        down=(f"{head}stages.{{s}}.downsample_layers.0", f"{head}stages.{{s}}.downsample_layers.1"),
        block=f"{head}stages.{{s}}.layers.{{b}}",
        conv_dw="depthwise_conv",
        norm="layer_norm",
        fc1="pointwise_conv1",
        fc2="pointwise_conv2",
        last="layer_norm",
    )


SPELLINGS = {
    "timm_convnext": Spelling(
        stem=("stem.0", "stem.1"),
        down=("stages.{s}.downsample.0", "stages.{s}.downsample.1"),
        block="stages.{s}.blocks.{b}",
        conv_dw="conv_dw",
        fc1="mlp.fc1",
        fc2="mlp.fc2",
        grn="mlp.grn",
        grn_leaves=("weight", "bias"),
        last="head.norm",
    ),
    "fair_convnext": Spelling(),
    "fcmae": Spelling(
        down=("downsample_layers.{s}.0.ln", "downsample_layers.{s}.1"),
        norm="norm.ln",
        fc1="pwconv1.linear",
        fc2="pwconv2.linear",
        sparse=True,
    ),
    "torchvision_convnext": Spelling(
        stem=("features.0.0", "features.0.1"),
        down=("features.{even}.0", "features.{even}.1"),
        block="features.{odd}.{b}",
        conv_dw="block.0",
        norm="block.2",
        fc1="block.3",
        fc2="block.5",
        gamma="layer_scale",
        last="classifier.0",
    ),
    "mm_convnext": Spelling(
        conv_dw="depthwise_conv", fc1="pointwise_conv1", fc2="pointwise_conv2", last="norm3"
    ),
    "hf_convnext": _HF,
    "hf_dinov3_convnext": _dinov3_of_hf("model."),
    "hf4_dinov3_convnext": _dinov3_of_hf(""),
}
_TIMM = SPELLINGS["timm_convnext"]


@lru_cache
def table(spelling: str) -> dict[str, str]:
    """Returns the spelling's names by canonical tensor name, for any depth and both versions."""
    return dict(zip(_tensors(_TIMM), _tensors(SPELLINGS[spelling])))


@lru_cache
def table_back(spelling: str) -> dict[str, str]:
    """Inverts `table`."""
    return {own: canonical for canonical, own in table(spelling).items()}


def _tensors(names: Spelling) -> Iterator[str]:
    """Yields the names of all tensors in one fixed order."""
    kernel = "kernel" if names.sparse else "weight"
    yield from _pair(names.stem[0])
    yield from _pair(names.stem[1])
    for stage in range(STAGES):
        for part, leaf in zip(names.down if stage else (), ("weight", kernel)):
            yield from _pair(_place(part, stage), leaf)
        for block in range(BLOCKS):
            head = _place(names.block, stage, block)
            yield f"{head}.{names.gamma}"
            yield from _pair(f"{head}.{names.conv_dw}", kernel)
            for module in (names.norm, names.fc1, names.fc2):
                yield from _pair(f"{head}.{module}")
            yield from (f"{head}.{names.grn}.{leaf}" for leaf in names.grn_leaves)
    yield from _pair(names.last)


def _pair(module: str, leaf: str = "weight") -> tuple[str, str]:
    return f"{module}.{leaf}", f"{module}.bias"


def _place(pattern: str, stage: int, block: int = 0) -> str:
    return pattern.format(s=stage, b=block, even=2 * stage, odd=2 * stage + 1)


def landmarks(spelling: str) -> tuple[str, ...]:
    """Returns names of which a file has at least one."""
    own = table(spelling)
    return tuple(
        own[f"stages.{stage}.blocks.{block}.{part}"]
        for stage, block in ((0, 0), (1, 0))
        for part in ("conv_dw.weight", "conv_dw.bias")
    )


def is_timms(names: Collection[str]) -> bool:
    """Returns whether these are names of a ConvNeXt in timm's spelling."""
    return any(mark in names for mark in landmarks("timm_convnext"))


def to_timm(pointwise: bool, name: str, tensor: Tensor) -> Tensor:
    """Returns a stored tensor in timm's shape; an unknown shape is kept, and is an error later.

    Args:
        pointwise: the network's linear layers are 1x1 convolutions in timm.
    """
    if name.endswith(("mlp.fc1.weight", "mlp.fc2.weight")):
        return _linear(tensor, pointwise)
    if name.endswith(("conv_dw.weight", "downsample.1.weight")):
        return _dense(tensor)
    if name.endswith(".gamma"):  # (D, 1, 1) in torchvision
        return tensor.flatten() if set(tensor.shape[1:]) == {1} else tensor
    if tensor.dim() > 1 and name != "stem.0.weight":  # (1, D), (1, 1, 1, D)
        return tensor.flatten() if set(tensor.shape[:-1]) == {1} else tensor
    return tensor


def _linear(tensor: Tensor, pointwise: bool) -> Tensor:
    if tensor.dim() == 2 and pointwise:
        return tensor[:, :, None, None]
    if tensor.dim() == 4 and not pointwise and tensor.shape[2:] == (1, 1):
        return tensor[:, :, 0, 0]
    return tensor


def _dense(kernel: Tensor) -> Tensor:
    """Returns MinkowskiEngine's kernel, (k * k, D) or (k * k, in, out), in torch's shape.

    Its places go down the columns: the first k are those of the first column.
    """
    if kernel.dim() not in (2, 3):
        return kernel
    side = round(len(kernel) ** 0.5)
    if side * side != len(kernel):
        return kernel
    if kernel.dim() == 2:
        kernel = kernel[:, None]
    return kernel.permute(2, 1, 0).unflatten(2, (side, side)).transpose(2, 3)
