"""ConvNeXt backbones by name: sizes, names and shapes of their tensors, timm's network.

Canonical names are timm's. The small ones (atto to nano) have 1x1 convolutions, the others
linear layers, as in timm; V1 has a layer scale, and ConvNeXt V2 a response normalisation instead.
Sources: arXiv 2201.03545 and 2301.00808, timm's models/convnext.py.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

if TYPE_CHECKING:
    from timm.models.convnext import ConvNeXt

Shapes = dict[str, tuple[int, ...]]

# by size: blocks of each stage, width of the first stage
V1 = {
    "atto": ((2, 2, 6, 2), 40),
    "femto": ((2, 2, 6, 2), 48),
    "pico": ((2, 2, 6, 2), 64),
    "nano": ((2, 2, 8, 2), 80),
    "tiny": ((3, 3, 9, 3), 96),
    "small": ((3, 3, 27, 3), 96),
    "base": ((3, 3, 27, 3), 128),
    "large": ((3, 3, 27, 3), 192),
    "xlarge": ((3, 3, 27, 3), 256),
}
V2 = {name: size for name, size in V1.items() if name != "xlarge"}
V2["huge"] = ((3, 3, 27, 3), 352)
LAST_NORM = ("head.norm.weight", "head.norm.bias")


class ConvNext(NamedTuple):
    """Describes a ConvNeXt.

    Attributes:
        depths: the number of blocks in each stage.
        width: channels of the first stage; each later stage has twice as many.
        version: 1 or 2.
    """

    depths: tuple[int, ...]
    width: int
    version: int

    @property
    def widths(self) -> tuple[int, ...]:
        """Returns the channels of each stage."""
        return tuple(self.width * 2**stage for stage in range(len(self.depths)))

    @property
    def pointwise_convolutions(self) -> bool:
        """Returns whether timm's network of this size has 1x1 convolutions in place of linear
        layers.
        """
        return self.depths[0] == 2


def parse_convnext(backbone: str) -> ConvNext | None:
    """Parses a name such as convnext_tiny or convnextv2_base; None for a different backbone."""
    match = re.fullmatch(r"convnext(v2)?_(\w+)", backbone)
    sizes = V2 if match and match[1] else V1
    if not match or match[2] not in sizes:
        return None
    return ConvNext(*sizes[match[2]], version=2 if match[1] else 1)


def convnext_shapes(network: ConvNext) -> Shapes:
    """Returns the shapes of its tensors by canonical name (convnext_tiny: 180)."""
    shapes: Shapes = {"stem.0.weight": (network.width, 3, 4, 4), "stem.0.bias": (network.width,)}
    shapes |= _pair("stem.1", network.width)
    inputs = network.width
    for stage, width in enumerate(network.widths):
        if stage:
            shapes |= _pair(f"stages.{stage}.downsample.0", inputs)
            shapes[f"stages.{stage}.downsample.1.weight"] = (width, inputs, 2, 2)
            shapes[f"stages.{stage}.downsample.1.bias"] = (width,)
        for number in range(network.depths[stage]):
            shapes |= _block(f"stages.{stage}.blocks.{number}", width, network)
        inputs = width
    return shapes | _pair("head.norm", inputs)


def _pair(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _block(name: str, width: int, network: ConvNext) -> Shapes:
    kernel = (1, 1) if network.pointwise_convolutions else ()
    shapes: Shapes = {f"{name}.gamma": (width,)} if network.version == 1 else {}
    shapes |= {f"{name}.conv_dw.weight": (width, 1, 7, 7), f"{name}.conv_dw.bias": (width,)}
    shapes |= _pair(f"{name}.norm", width)
    if network.version == 2:
        shapes |= _pair(f"{name}.mlp.grn", 4 * width)
    for layer, outputs, inputs in (("fc1", 4 * width, width), ("fc2", width, 4 * width)):
        shapes[f"{name}.mlp.{layer}.weight"] = (outputs, inputs, *kernel)
        shapes[f"{name}.mlp.{layer}.bias"] = (outputs,)
    return shapes


def convnext_candidates(found: Shapes) -> list[str]:
    """Returns the names of the ConvNeXts that fit the tensors, by version and first width."""
    if not any(re.match(r"stages\.\d+\.blocks\.\d+\.conv_dw\.", name) for name in found):
        return []
    second = any(".mlp.grn." in name for name in found)
    known = [f"convnextv2_{size}" for size in V2] if second else [f"convnext_{size}" for size in V1]
    width = (found.get("stem.0.weight") or found.get("stem.1.weight") or (0,))[0]
    sizes = {name: parse_convnext(name) for name in known}
    return [name for name, size in sizes.items() if size and size.width == width] or known


def build_convnext(network: ConvNext, architecture: Mapping[str, Any]) -> ConvNeXt:
    """Returns timm's ConvNeXt of these sizes, without classifier: the normalised mean map."""
    from timm.models.convnext import ConvNeXt

    trunk = ConvNeXt(
        num_classes=0,
        depths=network.depths,
        dims=network.widths,
        conv_mlp=network.pointwise_convolutions,
        use_grn=network.version == 2,
        ls_init_value=1e-6 if network.version == 1 else None,
    )
    norm = trunk.get_submodule("head.norm")
    assert isinstance(norm, nn.LayerNorm)
    norm.eps = float(architecture.get("last_norm_eps", norm.eps))
    setattr(trunk, "out_dim", network.widths[-1])  # an attribute of ours on timm's class
    return trunk


def said_of(fills: Mapping[str, float]) -> tuple[str, ...]:
    """Returns warnings about parts that a file lacks."""
    if LAST_NORM[0] not in fills:
        return ()
    return (
        "the file has no norm after pooling (FCMAE and SparK have none): features are normalised "
        "over their channels without scale and shift, as timm does",
    )


def missing_parts(names: Collection[str]) -> dict[str, float]:
    """Returns the values of a layer scale or last norm that a file does not have.

    Args:
        names: the canonical names of the file's tensors.

    Returns:
        the values by the last part of a name, or by a complete name. A layer scale of 1 changes
        nothing (VICRegL's have none). For the last norm (FCMAE and SparK train none) timm takes a
        norm that normalises only, and so do we.
    """
    fills: dict[str, float] = {}
    if not any(name.endswith((".gamma", ".mlp.grn.weight", ".mlp.grn.bias")) for name in names):
        fills["gamma"] = 1.0
    if not any(name in names for name in LAST_NORM):
        fills |= dict(zip(LAST_NORM, (1.0, 0.0)))
    return fills
