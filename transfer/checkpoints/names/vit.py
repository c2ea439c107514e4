"""Names of a ViT's tensors: timm's (canonical), and those of other layouts.

ViTDet's are Detectron2's modeling/backbone/vit.py below `backbone.net.`, written in full because
`norm.weight` alone would match many of its detector's names. mm's are those of mmpretrain's
models/backbones/vision_transformer.py.
"""

from __future__ import annotations

import re

VITDET = "backbone.net."
UNUSED = ("cls_token", "norm.")  # the tensors of a ViT that ViTDet does not use
# mmpretrain's names of the parts of a block, by timm's.
MM_BLOCK = {
    "norm1": "ln1",
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
    "norm2": "ln2",
    "mlp.fc1": "ffn.layers.0.0",
    "mlp.fc2": "ffn.layers.1",
}
MM_REST = {
    "cls_token": "cls_token",
    "pos_embed": "pos_embed",
    "patch_embed.proj.weight": "patch_embed.projection.weight",
    "patch_embed.proj.bias": "patch_embed.projection.bias",
    "norm.weight": "ln1.weight",
    "norm.bias": "ln1.bias",
}
_MM_BLOCK_BACK = {theirs: ours for ours, theirs in MM_BLOCK.items()}
_MM_REST_BACK = {theirs: ours for ours, theirs in MM_REST.items()}


def to_vitdet(name: str) -> str:
    """Returns `backbone.net.norm.bias` for `norm.bias`."""
    return f"{VITDET}{name}"


def from_vitdet(name: str) -> str | None:
    """Inverts `to_vitdet`; returns None for a name without the prefix."""
    return name[len(VITDET) :] if name.startswith(VITDET) else None


def to_mm(name: str) -> str | None:
    """Returns `layers.0.ffn.layers.0.0.bias` for `blocks.0.mlp.fc1.bias`; None otherwise."""
    return _rename(name, "blocks", "layers", MM_BLOCK, MM_REST)


def from_mm(name: str) -> str | None:
    """Inverts `to_mm`; returns None for a name outside the table."""
    return _rename(name, "layers", "blocks", _MM_BLOCK_BACK, _MM_REST_BACK)


def _rename(
    name: str, stem: str, new_stem: str, block: dict[str, str], rest: dict[str, str]
) -> str | None:
    if name in rest:
        return rest[name]
    match = re.fullmatch(rf"{stem}\.(\d+)\.(.+)\.(weight|bias)", name)
    if not match or match[2] not in block:
        return None
    return f"{new_stem}.{match[1]}.{block[match[2]]}.{match[3]}"
