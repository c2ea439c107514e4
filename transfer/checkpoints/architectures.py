"""Which tensors a backbone has: expected names and shapes, and the backbone nearest to a file."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pretrain.backbones.resnet import BACKBONES
from pretrain.common.errors import InputError
from pretrain.common.lookup import find
from transfer.checkpoints.convnext import convnext_candidates, convnext_shapes, parse_convnext
from transfer.checkpoints.weights import COUNTER

Shapes = dict[str, tuple[int, ...]]


# Width -> a ViT's name and heads; other numbers of heads are facts of a file.
VITS = {
    192: ("tiny", 3),
    384: ("small", 6),
    768: ("base", 12),
    1024: ("large", 16),
    1280: ("huge", 16),
}
_VIT_NAME = re.compile(r"vit_(tiny|small|base|large|huge)_patch(\d+)_(\d+)")
_DEPTH = {"tiny": 12, "small": 12, "base": 12, "large": 24, "huge": 32}


class Vit(NamedTuple):
    """Attributes: patch_size, image_size: in pixels."""

    width: int
    depth: int
    heads: int
    patch_size: int
    image_size: int


def parse_vit(backbone: str) -> Vit | None:
    """The parts of a name such as vit_small_patch16_224; None for another backbone."""
    match = _VIT_NAME.fullmatch(backbone)
    if not match:
        return None
    width, heads = next((w, heads) for w, (size, heads) in VITS.items() if size == match[1])
    return Vit(width, _DEPTH[match[1]], heads, int(match[2]), int(match[3]))


def vit_name(width: int, patch_size: int, image_size: int) -> str:
    """The inverse of `parse_vit`; a width that no known size has is named by its number."""
    size = VITS[width][0] if width in VITS else width
    return f"vit_{size}_patch{patch_size}_{image_size}"


def vit_heads(backbone: str, architecture: Mapping[str, Any]) -> int:
    """Attention heads of a ViT's weights: the size's, where `Weights.architecture` says no other.

    Raises:
        InputError: no ViT.
    """
    vit = parse_vit(backbone)
    if vit is None:
        raise InputError(f"{backbone} is no ViT")
    return int(architecture.get("num_heads", vit.heads))


def same_trunk(one: str, other: str) -> bool:
    """Whether names are equal, or of ViTs that differ only in the images they were trained on."""
    vits = [vit._replace(image_size=0) for vit in map(parse_vit, (one, other)) if vit is not None]
    return one == other or (len(vits) == 2 and vits[0] == vits[1])


def is_known(backbone: str) -> bool:
    """Whether weights of this backbone are read."""
    if parse_convnext(backbone) is not None:
        return True
    return backbone in BACKBONES or parse_vit(backbone) is not None


@lru_cache
def _shapes(backbone: str) -> Shapes:
    vit = parse_vit(backbone)
    if vit is not None:
        return _vit_shapes(vit)
    convnext = parse_convnext(backbone)
    if convnext is not None:
        return convnext_shapes(convnext)
    with torch.device("meta"):
        state = find(backbone, BACKBONES, "backbone")().state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _vit_shapes(vit: Vit) -> Shapes:
    width, tokens = vit.width, (vit.image_size // vit.patch_size) ** 2 + 1
    shapes: Shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, tokens, width),
        "patch_embed.proj.weight": (width, 3, vit.patch_size, vit.patch_size),
        "patch_embed.proj.bias": (width,),
    }
    for number in range(vit.depth):
        block = f"blocks.{number}"
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}.{norm}.weight": (width,), f"{block}.{norm}.bias": (width,)}
        for name, outputs, inputs in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ):
            shapes[f"{block}.{name}.weight"] = (outputs, inputs)
            shapes[f"{block}.{name}.bias"] = (outputs,)
    return shapes | {"norm.weight": (width,), "norm.bias": (width,)}


def expected_shapes(backbone: str, counters: bool) -> Shapes:
    """Names -> shapes of a backbone's tensors (ResNet-50: 318 with BN's counters, 265 without).

    Raises:
        InputError: unknown backbone.
    """
    shapes = _shapes(backbone)
    return {name: shape for name, shape in shapes.items() if counters or not name.endswith(COUNTER)}


def nearest_backbone(state: Mapping[str, Tensor]) -> tuple[str, float]:
    """The backbone that shares most names and shapes with `state`.

    Args:
        state: canonical names; other entries count against every backbone alike.

    Returns:
        its name, and the shared part of the union of both sets of names, 0 to 1. A file with a
        lost, renamed or misshapen key stays near 1, so that the message can name that key.
    """
    found = {name: tuple(tensor.shape) for name, tensor in state.items() if _counts(name)}
    scores = {}
    for backbone in [*BACKBONES, *_vit_candidates(found), *convnext_candidates(found)]:
        wanted = expected_shapes(backbone, counters=False)
        shapes = len(found.items() & wanted.items()) / len(found.items() | wanted.items())
        scores[backbone] = (shapes, len(found.keys() & wanted) / len(found.keys() | wanted))
    best = max(scores, key=scores.__getitem__)
    return best, scores[best][1]


def _vit_candidates(found: Shapes) -> list[str]:
    """Names of the ViTs that the found patches and positions speak for."""
    if not any(name.startswith("blocks.") for name in found):
        return []
    patch = (found.get("patch_embed.proj.weight") or (0, 3, 16, 16))[-1]
    tokens = (found.get("pos_embed") or (1, (224 // patch) ** 2 + 1, 0))[1]
    image = math.isqrt(max(tokens - 1, 1)) * patch
    return [f"vit_{size}_patch{patch}_{image}" for size, _ in VITS.values()]


def check_complete(
    state: Mapping[str, Tensor],
    backbone: str,
    where: str,
    foreign: Sequence[str] = (),
    source_name: Callable[[str], str] = str,
) -> int:
    """Holds names and shapes against the architecture; returns the expected number of tensors.

    BN's counters are all there (torch wrote them) or all absent (old torch, FrozenBN files).

    Args:
        state: canonical names.
        foreign: source names that have no canonical name.
        source_name: canonical name -> the file's own, for the message.

    Raises:
        InputError: names the missing, the wrong-shaped and the foreign tensors.
    """
    wanted = expected_shapes(backbone, counters=any(name.endswith(COUNTER) for name in state))
    missing = [source_name(name) for name in wanted if name not in state]
    shaped = [
        f"{source_name(name)} {tuple(state[name].shape)} instead of {shape}"
        for name, shape in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    extra = [*foreign, *(source_name(name) for name in state if name not in wanted)]
    faults = {"missing": missing, "wrong shape": shaped, "unexplained": extra}
    if any(faults.values()):
        parts = [f"{len(keys)} {kind}: {shorten(keys)}" for kind, keys in faults.items() if keys]
        raise InputError(f"{where}: not a whole {backbone} ({len(wanted)}): {'; '.join(parts)}")
    return len(wanted)


def shorten(keys: list[str], most: int = 4) -> str:
    """The first keys, and how many more there are."""
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more


def _counts(name: str) -> bool:
    return not name.endswith(COUNTER)
