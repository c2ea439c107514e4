"""Judges masks and their images before the training, which would reach some of them after hours.

The headers of all files are read. Of the pixels, those of at most `DECODED` masks of a set, evenly
spaced, are compared with the classes; the rest are checked as they are trained on. Class maps that
are drawn from a COCO file's objects need their images in the annotated size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings
from pretrain.data.decode import read_header
from pretrain.data.origins import evenly
from pretrain.data.refused_kinds import each
from transfer.datasets.image_sizes import check_image_sizes
from transfer.datasets.numbered_pixels import not_numbers
from transfer.segmentation.data import (
    IGNORE,
    SemanticSample,
    SemanticSet,
    wrong_numbers,
)

DECODED = 2_000
UNREADABLE = "images or masks cannot be read"
RESTORE = "restore them, or remove them from the list"
NOT_NUMBERS = "masks do not hold class numbers"
SAVE = "save them as 8-bit grey or with a palette"
OTHER_SIZE = "masks have a different size from their image"
SAME_SIZE = "give both the same size"
NOT_CLASS = "masks have a number that is not a class"
CORRECT = "correct the masks or the classes"


class _Judged(NamedTuple):
    """What was found of a mask: a finding of a kind, or ""; and whether it has a labelled pixel."""

    kind: str = ""
    where: str = ""
    remedy: str = ""
    labelled: bool = False


def check_masks_of(data: SemanticSet) -> None:
    """Raises InputError, with counts, for masks that cannot be trained on or scored.

    Also if no pixel has a class: 255 alone gives neither a loss nor a score.
    """
    check_image_sizes([s.objects for s in data.samples if s.objects is not None], data.name)
    samples = [sample for sample in data.samples if sample.objects is None]
    if not samples:
        return
    decoded = set(evenly(len(samples), DECODED))
    findings = Findings(data.name)

    def judge(place: int) -> _Judged:
        return _judge(samples[place], len(data.classes), place in decoded)

    found: Sequence[_Judged] = list(each(judge, range(len(samples)), "check masks"))
    for one in found:
        if one.kind:
            findings.refuse(one.kind, one.where, one.remedy)
    findings.report()
    if not any(one.labelled for one in found):
        count = f"{len(decoded)} masks" + (f" of {len(samples)}" if len(samples) > DECODED else "")
        raise InputError(
            f"{data.name}: {count} were read, and no pixel has the number of a class; all are "
            f"{IGNORE} (not used): is this the right folder of masks?"
        )


def _judge(sample: SemanticSample, classes: int, decode: bool) -> _Judged:
    try:
        header = read_header(sample.file_name)
    except OSError as error:
        return _Judged(UNREADABLE, " ".join(str(error).split()), RESTORE)
    try:
        with Image.open(sample.mask_name) as image:
            mode, size = image.mode, image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return _Judged(UNREADABLE, f"{sample.mask_name} ({error})", RESTORE)
    if what := not_numbers(mode):
        return _Judged(NOT_NUMBERS, f"{sample.mask_name} has {what}", SAVE)
    # A header without a size is of a kind that is refused with the images.
    if header.width and size != (header.width, header.height):
        where = f"{sample.mask_name} has {size[0]} x {size[1]} pixels, its image {header.width} x "
        return _Judged(OTHER_SIZE, f"{where}{header.height}", SAME_SIZE)
    if not decode:
        return _Judged()
    try:
        mask = sample.mask()
    except InputError as error:
        return _Judged(UNREADABLE, str(error), RESTORE)
    wrong = wrong_numbers(mask, classes)
    if wrong.size:
        where = f"{sample.mask_name} has {wrong[0]}, the classes are 0 to {classes - 1}"
        return _Judged(NOT_CLASS, where, CORRECT)
    return _Judged(labelled=bool((mask != IGNORE).any()))
