"""Canonical names <-> the names and shapes that a layout stores a trunk under.

Canonical are torchvision's names for a ResNet and timm's for a ViT.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from pretrain.common.lookup import find
from transfer.checkpoints import names_foreign as foreign
from transfer.checkpoints import names_vit as vit
from transfer.checkpoints.architectures import Split, whole
from transfer.checkpoints.names import (
    from_detectron2,
    from_numeric,
    same,
    to_detectron2,
    to_numeric,
)
from transfer.checkpoints.names_vits import FAMILIES, VitTable

Rename = Callable[[str], str | None]
# A folded norm computes x * scale + bias; this variance makes a norm with eps 1e-5 do so.
FOLDED = {"running_mean": 0.0, "running_var": 1.0 - 1e-5}


def _as_stored(name: str, tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Layout:
    """One way to store a trunk.

    Attributes:
        forth: canonical name -> its name; None where the layout does not store it.
        back: its name -> canonical name; None for a name outside the layout.
        landmarks: names of which a file has at least one, whatever else it lost.
        convert: (canonical name, stored tensor) -> the tensor in canonical shape.
        fills: last part of a canonical name -> value of the tensors that the layout lacks.
        split: canonical shapes -> shapes of what the layout stores, in pieces or in other sizes.
        join: what the layout stores, all of it -> canonical tensors.
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
)
_SIMPLE = {
    "canonical": Layout("canonical", same, same, _CANONICAL),
    # As outputs: the same names, called by what reads them.
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


def _vit(name: str, names: Collection[str]) -> Layout:
    table = VitTable(FAMILIES[name], names)
    names_and_marks = (table.forth, table.back.get, table.landmarks)
    return Layout(name, *names_and_marks, split=table.split, join=table.join, adds=table.added())


# Names in a file -> the layout: some layouts number layers over the whole network.
LAYOUTS: dict[str, Callable[[Collection[str]], Layout]] = {
    **{name: partial(lambda layout, names: layout, layout) for name, layout in _SIMPLE.items()},
    "simclr": partial(_table, "simclr", foreign.simclr, foreign.to_torch, {}),
    "simclr_tf2": partial(_table, "simclr_tf2", foreign.simclr_tf2, foreign.to_torch, {}),
    "byol": partial(_table, "byol", foreign.byol, foreign.to_torch, {}),
    "separius": partial(_table, "separius", foreign.separius, _as_stored, {}),
    "msra": partial(_table, "msra", foreign.msra, _as_stored, {}),
    "msra_folded": partial(_table, "msra_folded", foreign.msra_folded, _as_stored, FOLDED),
    **{name: partial(_vit, name) for name in FAMILIES},
}


def layout_of(name: str, names: Collection[str] = ()) -> Layout:
    """The layout `name` of a file with these names, the trunk's prefix removed.

    Raises:
        InputError: no such layout.
    """
    return find(name, LAYOUTS, "layout")(names)


def to_layout(state: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Renames canonical tensors for an output layout; the tensors are shared, not copied."""
    rename = layout_of(layout).forth
    renamed = {rename(name): tensor for name, tensor in state.items()}
    assert None not in renamed and len(renamed) == len(state), "a name is outside the table"
    return renamed
