"""Compares the annotated sizes of all images with those in their files, before training.

The InputError counts each kind of fault and names the first files. Images of
kinds that no reader takes (pixels without a scale, too many pixels) are found too. A warning counts
the images whose size cannot tell whether they were annotated before or after the rotation by EXIF.
Only headers are read (`pretrain/data/refused_kinds.py`). What needs the pixels, a file cut short,
is found when it is read.
"""

from __future__ import annotations

from collections.abc import Iterable

from pretrain.common.findings import Findings
from pretrain.data.decode import Header, read_header
from pretrain.data.refused_kinds import KindCheck, each, header_or_fault, note_dark
from transfer.datasets.samples import Sample

UNREADABLE = "files cannot be read as images"
UNREADABLE_REMEDY = "restore the files, or remove them and their annotations"
OTHER_SIZE = "images have a different size from their annotation"
OTHER_SIZE_TURNED = (
    "images are annotated in their stored size, but their EXIF orientation rotates them"
)
TURNED_REMEDY = "annotate the rotated images, or save them rotated and without the EXIF orientation"
SAME_SIZE = (
    "images are rotated or mirrored as their EXIF orientation says, and have the same size before "
    "and after it: make sure that their annotations are of the rotated images"
)
EXCHANGED = "images are annotated with their width and height exchanged"
EXCHANGED_REMEDY = (
    "if the boxes fit the images, exchange the two numbers in the annotations; if the images were "
    "rotated after they were annotated, restore them"
)
REMEDY = "correct the annotations, or restore the images"


def check_image_sizes(samples: Iterable[Sample], source: str = "image files") -> None:
    """Raises InputError if a file is not an image, or its size is not the annotated one.

    The size is that after turning the image as its EXIF data say: so it is read for training.

    Args:
        source: how the message names the samples' data sets.
    """
    # Train and test sets may share files, and a set may name one twice.
    unique = list({sample.file_name: sample for sample in samples}.values())
    paths, findings = [sample.file_name for sample in unique], Findings(source)
    kinds = KindCheck(findings)
    for sample, header in zip(unique, each(header_or_fault, paths, "check images")):
        if isinstance(header, str):
            findings.refuse(UNREADABLE, header, UNREADABLE_REMEDY)
        elif kinds.add(sample.file_name, header):
            _check_size(findings, sample, header)
    note_dark(findings, paths)
    findings.report()


def header_size(path: str) -> tuple[int, int]:
    """Returns (width, height) of an image, turned as its EXIF data say, without decoding it.

    Raises OSError, with the path, for a file that is missing or is not an image, or has more
    pixels than are read.
    """
    header = read_header(path)
    if header.refused and not header.width:
        raise OSError(f"{path} is refused: {'; '.join(header.refused)}")
    return header.width, header.height


def _check_size(findings: Findings, sample: Sample, header: Header) -> None:
    if (header.width, header.height) == (sample.width, sample.height):
        if header.same_size and sample.instances:
            findings.note(SAME_SIZE, sample.file_name)
        return
    kind, remedy = OTHER_SIZE, REMEDY
    if (header.height, header.width) == (sample.width, sample.height):
        kind, remedy = EXCHANGED, EXCHANGED_REMEDY
        if header.turned:
            kind, remedy = OTHER_SIZE_TURNED, TURNED_REMEDY
    where = (
        f"{sample.file_name} has {header.width} x {header.height} pixels, not {sample.width} x "
        f"{sample.height}"
    )
    findings.refuse(kind, where, remedy)
