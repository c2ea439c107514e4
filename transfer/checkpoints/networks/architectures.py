"""Names and shapes of a backbone's tensors, and the backbone that is nearest to a file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

import torch
from torch import Tensor

from pretrain.backbones.resnet import BACKBONES
from pretrain.common.lookup import find
from transfer.checkpoints.networks.convnext import (
    convnext_candidates,
    convnext_shapes,
    parse_convnext,
)
from transfer.checkpoints.networks.efficientnet_lite import efficientnet_lite_candidates
from transfer.checkpoints.networks.timm_convnets import (
    FAMILIES,
    is_timm_convnet,
    timm_convnet_shapes,
)
from transfer.checkpoints.networks.vit_architectures import (
    Shapes,
    parse_vit,
    vit_candidates,
    vit_shapes,
)
from transfer.checkpoints.weights import COUNTER

Split = Callable[[Shapes], Shapes]
_MOST_WORDS = 4  # in a name of timm's, as in efficientnet_cc_b0_4e


def same_trunk(one: str, other: str) -> bool:
    """Returns whether names are equal, or are of ViTs that differ only in their image size."""
    vits = [vit._replace(image_size=0) for vit in map(parse_vit, (one, other)) if vit is not None]
    return one == other or (len(vits) == 2 and vits[0] == vits[1])


def is_known(backbone: str) -> bool:
    """Returns whether weights of this backbone are supported, and known by their tensors."""
    if parse_convnext(backbone) is not None:
        return True
    return backbone in BACKBONES or parse_vit(backbone) is not None


def is_read(backbone: str) -> bool:
    """Returns whether weights of this backbone are read, if only because its name is known."""
    return is_known(backbone) or is_timm_convnet(backbone)


def named_look_alike(stem: str, backbone: str) -> str | None:
    """Returns the network of timm that a file's name has, if its tensors have the names and shapes
    of those of `backbone`, so that they do not tell the two apart; None otherwise.

    Args:
        stem: a file's name, such as "resnetblur50-84f4748f", timm's own.
    """
    wanted = expected_shapes(backbone, counters=False)
    for name in _joined_words(stem):
        # only a name of these families is worth the import of timm
        of_timm = any(family in name for family in FAMILIES) and is_timm_convnet(name)
        if of_timm and name != backbone:
            if expected_shapes(name, counters=False) == wanted:
                return name
    return None


def _joined_words(stem: str) -> Iterator[str]:
    """Yields all parts of a name that are made of complete words, the longest first."""
    words = re.findall(r"[a-z0-9]+", stem.lower())
    for length in range(min(len(words), _MOST_WORDS), 0, -1):
        for start in range(len(words) - length + 1):
            yield "_".join(words[start : start + length])


@lru_cache
def _shapes(backbone: str) -> Shapes:
    vit = parse_vit(backbone)
    if vit is not None:
        return vit_shapes(vit)
    convnext = parse_convnext(backbone)
    if convnext is not None:
        return convnext_shapes(convnext)
    if backbone not in BACKBONES and is_timm_convnet(backbone):
        return timm_convnet_shapes(backbone)
    with torch.device("meta"):
        state = find(backbone, BACKBONES, "backbone")().state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def expected_shapes(backbone: str, counters: bool) -> Shapes:
    """Returns the shapes of a backbone's tensors by name (ResNet-50: 318 with counters, else 265).

    Raises:
        InputError: unknown backbone.
    """
    return dict(_shapes(backbone) if counters else _counted(backbone))


@lru_cache
def _counted(backbone: str) -> Shapes:
    """Returns the shapes of the tensors that `nearest_backbone` compares: all but BN's counters.
    The caller may not change them.
    """
    return {name: shape for name, shape in _shapes(backbone).items() if _counts(name)}


def whole(shapes: Shapes) -> Shapes:
    """Returns the shapes unchanged, for a layout that stores tensors as they are."""
    return shapes


def nearest_backbone(state: Mapping[str, Tensor], split: Split = whole) -> tuple[str, float]:
    """Returns the backbone that shares most names and shapes with `state`.

    Args:
        state: canonical names; other entries count against every backbone alike.
        split: see `names.layouts.Layout`.

    Returns:
        its name, and the shared part of the union of both sets of names, 0 to 1. A file with a
        lost, renamed or misshapen key stays near 1, so that the message can name that key.
    """
    found = {name: tuple(tensor.shape) for name, tensor in state.items() if _counts(name)}
    scores = {}
    others = (vit_candidates, convnext_candidates, efficientnet_lite_candidates)
    for backbone in [*BACKBONES, *(name for kind in others for name in kind(found))]:
        wanted = _counted(backbone)
        # Most backbones share no name with the file. `split` keeps the names outside of attention.
        if found.keys().isdisjoint(wanted):
            scores[backbone] = (0.0, 0.0)
            continue
        wanted = split(wanted)
        names = found.keys() & wanted.keys()
        equal = sum(found[name] == wanted[name] for name in names)
        both = len(found) + len(wanted)
        scores[backbone] = (equal / (both - equal), len(names) / (both - len(names)))
    best = max(scores, key=scores.__getitem__)
    return best, scores[best][1]


def shorten(keys: list[str], most: int = 4) -> str:
    """Returns a text with the first keys and the number of the others."""
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more


def _counts(name: str) -> bool:
    return not name.endswith(COUNTER)
