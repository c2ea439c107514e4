"""A part of a data set's labels, for training with few of them.

The part is written behind the data set's name; the chosen images keep their order.
`coco_2017_train@1%` is a fixed part of the images: they are ranked by the SHA-256 of their ids, so
that every machine, library version and trial trains on the same ones, and 1 % is a part of 5 %.
`voc_2007_trainval@10shot` is 10 objects of each class; the other objects of their images lose their
labels. As in TFA (arXiv 2003.06957; ucbdrive/few-shot-object-detection at 07d0420,
datasets/prepare_voc_few_shot.py) each class draws images until it has its objects, and results are
means over draws, since they vary much: a trial's seed is its draw. Ours are the ranking by SHA-256
of draw, class and image id in place of a random generator (5 objects are a part of 10), that one
name is drawn from at a time, and that an image which several classes drew is one image.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pretrain.common.errors import InputError
from transfer.datasets.samples import (
    Sample,
    images_of,
    objects_of,
    rows_of,
    trainable_rows,
)

_SUFFIX = re.compile(r"(?P<name>.+)@(?P<amount>[0-9.]+)(?P<unit>%|shot)")
SHOT = "shot"


@dataclass(frozen=True)
class Part:
    """Says how much of a data set is used: `amount` percent of the images if `unit` is "%", or
    `amount` objects per class if it is "shot".
    """

    amount: float
    unit: str


def split_part(name: str) -> tuple[str, Part | None]:
    """Returns the name without its ending @P% or @Kshot, and the part; None without an ending.

    Raises InputError unless 0 < P <= 100, or K is a whole number above 0.
    """
    found = _SUFFIX.fullmatch(name)
    if found is None:
        return name, None
    try:
        amount = float(found["amount"])
    except ValueError:
        amount = math.nan
    wrong = f"data set '{name}': {found['amount']}{found['unit']} is not a valid part; give "
    if found["unit"] == SHOT and not (amount >= 1 and found["amount"].isdigit()):
        raise InputError(f"{wrong}@1shot or more")
    if found["unit"] == "%" and not 0 < amount <= 100:
        raise InputError(f"{wrong}@1% to @100%")
    if _SUFFIX.fullmatch(found["name"]):
        raise InputError(f"data set '{name}' names two parts; give only one")
    return found["name"], Part(amount, found["unit"])


def is_drawn(names: Sequence[str]) -> bool:
    """Returns whether one of the data sets differs from draw to draw."""
    parts = [split_part(name)[1] for name in names]
    return any(part is not None and part.unit == SHOT for part in parts)


def few_labels(
    samples: Sequence[Sample], part: Part | None, classes: Sequence[str], draw: int | None = None
) -> Sequence[Sample]:
    """Returns the part of the images, with the labels that are left in them; None: all images.

    Args:
        classes: names of the categories.
        draw: which of the draws of `shot`; None refuses them.

    Raises InputError also if a class has fewer objects than are asked for.
    """
    if part is None:
        return rows_of(samples, np.arange(len(samples)))
    if part.unit == SHOT:
        if draw is None:
            raise InputError(
                f"@{part.amount:g}shot is only for the training set of a detector; remove it"
            )
        return _few_objects(samples, int(part.amount), classes, draw)
    ids = [image.image_id for image in images_of(samples)]
    ranked = sorted(trainable_rows(objects_of(samples)).tolist(), key=lambda row: _rank(ids[row]))
    count = max(math.floor(len(ranked) * part.amount / 100 + 0.5), 1)
    chosen = {ids[row] for row in ranked[:count]}
    rows = [row for row, image_id in enumerate(ids) if image_id in chosen]
    return rows_of(samples, np.array(rows, np.int64))


def _few_objects(
    samples: Sequence[Sample], shots: int, classes: Sequence[str], draw: int
) -> tuple[Sample, ...]:
    chosen: set[tuple[int, int]] = set()  # (place of the image, place of the object in it)
    objects = list(_trainable_objects(samples))
    for category, name in enumerate(classes):
        own = [(i, j) for i, j in objects if samples[i].instances[j].category == category]
        if len(own) < shots:
            raise InputError(
                f"class '{name}' has {len(own)} objects, fewer than the {shots} of @{shots}shot; "
                "lower it"
            )
        own.sort(key=lambda place: (_rank(f"{draw} {name} {samples[place[0]].image_id}"), place))
        chosen.update(own[:shots])
    kept = {i for i, _ in chosen}
    return tuple(
        replace(s, instances=tuple(o for j, o in enumerate(s.instances) if (i, j) in chosen))
        for i, s in enumerate(samples)
        if i in kept
    )


def _trainable_objects(samples: Sequence[Sample]) -> Iterator[tuple[int, int]]:
    """Yields places of the objects that are trained on: no crowds, and boxes with an area."""
    for i, sample in enumerate(samples):
        for j, instance in enumerate(sample.instances):
            x1, y1, x2, y2 = instance.box
            if not instance.crowd and x1 < x2 and y1 < y2:
                yield i, j


def _rank(text: object) -> str:
    return hashlib.sha256(str(text).encode("utf-8", "surrogatepass")).hexdigest()
