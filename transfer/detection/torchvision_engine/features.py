"""Which feature maps each part of a detector takes: names from a config in, checked names out.

resK is the map of a ResNet's stage K (2..5, stride 2 to the power of K), pK a pyramid's map of the
same stride. Rules are Detectron2's, which asserts them where it builds: modeling/backbone/fpn.py,
modeling/poolers.py, modeling/proposal_generator/rpn.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.common.errors import InputError

STAGES = ("res2", "res3", "res4", "res5")
OUT, FPN_IN = "MODEL.RESNETS.OUT_FEATURES", "MODEL.FPN.IN_FEATURES"
RPN_IN, ROI_IN = "MODEL.RPN.IN_FEATURES", "MODEL.ROI_HEADS.IN_FEATURES"


@dataclass(frozen=True)
class Features:
    """Attributes: resnet: what the ResNet gives; fpn: what the pyramid takes of it; rpn, roi: what
    proposals and heads take of the backbone's maps. `resnet` and `fpn` are () if unread."""

    resnet: tuple[str, ...]
    fpn: tuple[str, ...]
    rpn: tuple[str, ...]
    roi: tuple[str, ...]


def choose_features(
    architecture: str,
    *,
    resnet: Sequence[str],
    fpn: Sequence[str],
    rpn: Sequence[str],
    roi: Sequence[str],
    patch_size: int,
) -> Features:
    """The maps of a detector; an empty list means the usual ones.

    Args:
        architecture: that of `DetectorSpec`.
        patch_size: of a ViT, in pixels.

    Raises:
        InputError: names the key, and the maps that it may name.
    """
    if architecture == "TINY":
        only = ("res4",)
        _check_equal(OUT, resnet or only, only)
        _check_equal(RPN_IN, rpn or only, only)
        _check_equal(ROI_IN, roi or only, only)
        return Features(only, (), only, only)
    if architecture == "C4":
        return _of_c4(tuple(resnet) or ("res4",), tuple(rpn) or ("res4",), roi)
    if architecture == "VIT":
        finest = int(math.log2(patch_size)) - 2  # a quarter of a patch; the coarsest: four patches
        stages, taken = (), ()
        maps = tuple(f"p{level}" for level in range(finest, finest + 5))
    else:
        taken = _check_pyramid(tuple(fpn) or STAGES)
        stages = _check_stages(tuple(resnet) or STAGES, taken)
        maps = tuple(f"p{name[3:]}" for name in (*taken, "res6"))
    chosen = tuple(rpn) or maps
    _check_known(RPN_IN, chosen, maps)
    # The coarsest map usually serves proposals only.
    return Features(stages, taken, chosen, _check_levels(tuple(roi) or maps[:-1], maps))


def _of_c4(out: tuple[str, ...], rpn: tuple[str, ...], roi: Sequence[str]) -> Features:
    """res5 is the second stage, on res4; proposals are made on one map, as widths differ."""
    out = tuple(name for name in out if name != "stem")  # nothing takes it
    _check_known(OUT, out, STAGES[:-1])
    if "res4" not in out:
        raise InputError(f"{OUT} {list(out)} needs res4, which Res5ROIHeads pool from")
    _check_known(RPN_IN, rpn, out)
    if len(rpn) > 1:
        raise InputError(f"{RPN_IN} {list(rpn)} must be one map: those of a ResNet differ in width")
    _check_equal(ROI_IN, roi or ("res4",), ("res4",))
    return Features(out, (), rpn, ("res4",))


def _check_stages(out: tuple[str, ...], taken: Sequence[str]) -> tuple[str, ...]:
    out = tuple(name for name in out if name != "stem")
    _check_known(OUT, out, STAGES)
    missing = [name for name in taken if name not in out]
    if missing:
        raise InputError(f"{OUT} {list(out)} lacks {', '.join(missing)} of {FPN_IN}")
    return out


def _check_pyramid(taken: tuple[str, ...]) -> tuple[str, ...]:
    """The top map is made of p5, and each map is added to the next finer one."""
    _check_known(FPN_IN, taken, STAGES)
    if taken != STAGES[-len(taken) :]:
        raise InputError(f"{FPN_IN} {list(taken)} must be consecutive stages up to res5")
    return taken


def _check_levels(names: tuple[str, ...], maps: Sequence[str]) -> tuple[str, ...]:
    _check_known(ROI_IN, names, maps)
    first = list(maps).index(names[0])
    if names != tuple(maps[first : first + len(names)]):
        raise InputError(f"{ROI_IN} {list(names)} must be consecutive, the finest map first")
    return names


def _check_known(key: str, names: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(
            f"{key} {list(names)}: {', '.join(map(str, unknown))} is not among the maps "
            f"{list(known)}"
        )
    if len(set(names)) < len(names):
        raise InputError(f"{key} {list(names)} names a map twice")


def _check_equal(key: str, names: Sequence[str], wanted: Sequence[str]) -> None:
    if list(names) != list(wanted):
        raise InputError(
            f"{key} {list(names)} is not supported here; the only value: {list(wanted)}"
        )
