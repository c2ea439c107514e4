"""A fixed part of a data set's images, for training with few labels.

In: a data set's name with its part, such as `coco_2017_train@1%`, and its images. Out: the chosen
images, in their order. The choice needs no random generator: images are ranked by the SHA-256 of
their ids, so that every machine, library version and trial trains on the same ones, and 1 % is a
part of 5 %.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence

from pretrain.common.errors import InputError
from transfer.datasets.samples import Sample

_SUFFIX = re.compile(r"(?P<name>.+)@(?P<percent>[0-9.]+)%")


def split_percent(name: str) -> tuple[str, float | None]:
    """("coco_2017_train", 1.0) of "coco_2017_train@1%"; (name, None) without such an ending.

    Raises InputError unless 0 < P <= 100.
    """
    found = _SUFFIX.fullmatch(name)
    if found is None:
        return name, None
    try:
        percent = float(found["percent"])
    except ValueError:
        percent = math.nan
    if not 0 < percent <= 100:
        raise InputError(f"data set '{name}': {found['percent']}% is no part; give @1% to @100%")
    if _SUFFIX.fullmatch(found["name"]):
        raise InputError(f"data set '{name}' names two parts; give one")
    return found["name"], percent


def few_labels(samples: Sequence[Sample], percent: float | None) -> tuple[Sample, ...]:
    """The given part of the images that can be trained on, at least one; None: all images."""
    if percent is None:
        return tuple(samples)
    ranked = sorted((s for s in samples if s.trainable()), key=_rank)
    count = max(math.floor(len(ranked) * percent / 100 + 0.5), 1)
    chosen = {sample.image_id for sample in ranked[:count]}
    return tuple(sample for sample in samples if sample.image_id in chosen)


def _rank(sample: Sample) -> str:
    return hashlib.sha256(str(sample.image_id).encode()).hexdigest()
