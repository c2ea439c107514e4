"""Checks of the feature maps that a config names: each raises InputError with the key.

resK is the map of a ResNet's stage K (2..5, stride 2 to the power of K), pK a pyramid's map of the
same stride. The rules are Detectron2's, which asserts them while it builds
(modeling/backbone/fpn.py, modeling/poolers.py, modeling/proposal_generator/rpn.py). A backbone's
spec applies those that hold for it in `check_maps(rpn, roi)`, to the maps that proposals and heads
take.
"""

from __future__ import annotations

from collections.abc import Sequence

from pretrain.common.errors import InputError

STAGES = ("res2", "res3", "res4", "res5")
OUT, FPN_IN = "MODEL.RESNETS.OUT_FEATURES", "MODEL.FPN.IN_FEATURES"
RPN_IN, ROI_IN = "MODEL.RPN.IN_FEATURES", "MODEL.ROI_HEADS.IN_FEATURES"


def check_named(key: str, names: Sequence[str]) -> None:
    """Raises InputError unless at least one map is named."""
    if not names:
        raise InputError(f"{key} is empty; name one feature map or more")


def check_known(key: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Raises InputError unless all names are known, and none is named twice."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(
            f"{key} {list(names)}: {', '.join(map(str, unknown))} is not among the maps "
            f"{list(known)}"
        )
    if len(set(names)) < len(names):
        raise InputError(f"{key} {list(names)} names a map twice; name it once")


def check_one(key: str, names: Sequence[str]) -> None:
    """Raises InputError unless one map of a ResNet is named."""
    if len(names) > 1:
        raise InputError(f"{key} {list(names)} must be one map: those of a ResNet differ in width")


def check_equal(key: str, names: Sequence[str], wanted: Sequence[str]) -> None:
    """Raises InputError unless the key has the only possible value."""
    if list(names) != list(wanted):
        raise InputError(
            f"{key} {list(names)} is not supported here; the only value: {list(wanted)}"
        )


def check_pyramid(maps: Sequence[str], rpn: Sequence[str], roi: Sequence[str]) -> None:
    """Raises InputError unless `rpn` names any maps of a pyramid, and `roi` consecutive ones, the
    finest first.

    The heads' pooler computes a map's index from a box's size, so that no map may be left out
    between two others.
    """
    check_known(RPN_IN, rpn, maps)
    check_known(ROI_IN, roi, maps)
    first = list(maps).index(roi[0])
    if list(roi) != list(maps[first : first + len(roi)]):
        raise InputError(f"{ROI_IN} {list(roi)} must be consecutive, the finest map first")
