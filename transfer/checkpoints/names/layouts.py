"""Canonical names, and the names and shapes that a layout stores a trunk under.

The canonical names are torchvision's for a ResNet, and timm's for a ViT and all other ConvNets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from pretrain.common.lookup import find
from transfer.checkpoints.names import convnext, efficientnet_lite
from transfer.checkpoints.names import other_frameworks as foreign
from transfer.checkpoints.names import vit
from transfer.checkpoints.names.resnet import (
    from_detectron2,
    from_hf,
    from_numeric,
    same,
    to_detectron2,
    to_hf,
    to_numeric,
)
from transfer.checkpoints.names.vit_projects import FAMILIES, VitTable
from transfer.checkpoints.networks.architectures import Split, whole
from transfer.checkpoints.networks.convnext import missing_parts

Rename = Callable[[str], str | None]
# A folded norm computes x * scale + bias; this variance makes a norm with eps 1e-5 do so.
FOLDED = {"running_mean": 0.0, "running_var": 1.0 - 1e-5}


def _as_stored(name: str, tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Layout:
    """Describes one way to store a trunk.

    Attributes:
        forth: returns the layout's name for a canonical one; None if the layout does not store it.
        back: returns the canonical name for the layout's; None for a name outside the layout.
        landmarks: names of which even a damaged file has at least one.
        convert: takes a canonical name and the stored tensor; returns the tensor in canonical
            shape.
        fills: values of the tensors that the layout lacks, by canonical name or its last part.
        split: returns, from the canonical shapes, the shapes of what the layout stores, in pieces
            or in different sizes.
        join: returns the canonical tensors, from everything that the layout stores.
        adds: tensors that the layout leaves out because every network has the same.
    """

    name: str
    forth: Rename
    back: Rename
    landmarks: tuple[str, ...]
    convert: Callable[[str, Tensor], Tensor] = _as_stored
    fills: Mapping[str, float] = field(default_factory=dict)
    split: Split = whole
    join: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    adds: Mapping[str, Tensor] = field(default_factory=dict)


_CANONICAL = (
    *("conv1.weight", "layer1.0.conv1.weight", "layer2.0.conv1.weight", "layer1.0.bn1.weight"),
    *("cls_token", "blocks.0.attn.qkv.weight", "blocks.0.norm1.weight"),
    *convnext.landmarks("timm_convnext"),
)
_SIMPLE = {
    "canonical": Layout("canonical", same, same, _CANONICAL),
    # Layouts of outputs: the same names, each under the name of the program that reads them.
    "torchvision": Layout("torchvision", same, same, _CANONICAL),
    "timm": Layout("timm", same, same, _CANONICAL),
    "detectron2": Layout(
        "detectron2",
        to_detectron2,
        from_detectron2,
        ("stem.conv1.weight", "res2.0.conv1.weight", "res3.0.conv1.norm.weight"),
    ),
    "numeric": Layout(
        "numeric", to_numeric, from_numeric, ("0.weight", "4.0.conv1.weight", "4.0.bn1.weight")
    ),
    "hf_resnet": Layout(
        "hf_resnet",
        to_hf,
        from_hf,
        tuple(
            name
            for canonical in ("conv1.weight", "layer1.0.conv1.weight", "layer2.0.conv1.weight")
            if (name := to_hf(canonical))
        ),
    ),
    "vitdet": Layout(
        "vitdet",
        vit.to_vitdet,
        vit.from_vitdet,
        tuple(vit.VITDET + name for name in ("pos_embed", "blocks.0.attn.qkv.weight")),
    ),
    "mm_vit": Layout(
        "mm_vit", vit.to_mm, vit.from_mm, ("layers.0.attn.qkv.weight", "layers.0.ln1.weight")
    ),
}


def _table(
    name: str,
    stored: foreign.Stored,
    convert: Callable[[str, Tensor], Tensor],
    fills: Mapping[str, float],
    names: Collection[str],
) -> Layout:
    forth = foreign.table(stored, names)
    back = {theirs: ours for ours, theirs in forth.items()}
    landmarks = tuple(stored(conv)[0] for conv in list(foreign.walk((1,)))[:4])
    return Layout(name, forth.get, back.get, landmarks, convert, fills)


def _convnext(name: str, names: Collection[str]) -> Layout:
    forth, back = convnext.table(name), convnext.table_back(name)
    ours = {back[own] for own in names if own in back}
    # In timm, networks of two blocks in the first stage have 1x1 convolutions.
    fitted = partial(convnext.to_timm, "stages.0.blocks.2.conv_dw.weight" not in ours)
    marks = convnext.landmarks(name)
    return Layout(name, forth.get, back.get, marks, fitted, missing_parts(ours))


def _canonical(names: Collection[str]) -> Layout:
    """Brings a ConvNeXt's tensors into canonical shapes; its names are canonical already."""
    if convnext.is_timms(names):
        return _convnext("timm_convnext", names)
    return _SIMPLE["canonical"]


def _vit(name: str, names: Collection[str]) -> Layout:
    table = VitTable(FAMILIES[name], names)
    names_and_marks = (table.forth, table.back.get, table.landmarks)
    return Layout(name, *names_and_marks, split=table.split, join=table.join, adds=table.added())


def _efficientnet_lite(names: Collection[str]) -> Layout:
    back = efficientnet_lite.table(names)
    forth = {canonical: own for own, canonical in back.items()}
    return Layout("efficientnet_lite", forth.get, back.get, efficientnet_lite.LANDMARKS)


def _timm_convnet(names: Collection[str]) -> Layout:
    """timm's own names: the name of the network decides which tensors there must be."""
    return Layout("timm_convnet", same, same, tuple(names))


# By name: what makes the layout from a file's names. Some layouts number layers over the complete
# network, so they depend on the file.
LAYOUTS: dict[str, Callable[[Collection[str]], Layout]] = {
    **{name: partial(lambda layout, names: layout, layout) for name, layout in _SIMPLE.items()},
    "canonical": _canonical,
    **{name: partial(_convnext, name) for name in convnext.SPELLINGS},
    "efficientnet_lite": _efficientnet_lite,
    "timm_convnet": _timm_convnet,
    "simclr": partial(_table, "simclr", foreign.simclr, foreign.to_torch, {}),
    "simclr_tf2": partial(_table, "simclr_tf2", foreign.simclr_tf2, foreign.to_torch, {}),
    "byol": partial(_table, "byol", foreign.byol, foreign.to_torch, {}),
    "separius": partial(_table, "separius", foreign.separius, _as_stored, {}),
    "msra": partial(_table, "msra", foreign.msra, _as_stored, {}),
    "msra_folded": partial(_table, "msra_folded", foreign.msra_folded, _as_stored, FOLDED),
    **{name: partial(_vit, name) for name in FAMILIES},
}


# Layouts of PyTorch trunks, for projects that train networks of any library.
TRUNKS = (
    *("canonical", "hf_resnet", "fair_convnext", "torchvision_convnext", "mm_convnext"),
    *("hf_convnext", "hf_dinov3_convnext", "hf4_dinov3_convnext"),
    *FAMILIES,
)


def layout_of(name: str, names: Collection[str] = ()) -> Layout:
    """Returns the layout `name` for a file with these names, without the trunk's prefix.

    Raises:
        InputError: no such layout.
    """
    return find(name, LAYOUTS, "layout")(names)


def to_layout(state: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Renames canonical tensors for an output layout; the tensors are shared, not copied."""
    rename = layout_of(layout).forth
    renamed = {}
    for canonical, tensor in state.items():
        name = rename(canonical)
        assert name is not None and name not in renamed, "a name is outside the table"
        renamed[name] = tensor
    return renamed
