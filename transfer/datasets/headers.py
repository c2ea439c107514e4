"""Compares the annotated sizes of all images with those in their files, before training.

In: Samples. Out: nothing, or an InputError that names the first bad file and counts the others.
Only headers are read (some 0.1 ms per local file), by several threads: on a network's disk it is
the waiting that costs. What needs the pixels, a file cut short, is found when it is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from pretrain.common.errors import InputError
from pretrain.common.logs import progress
from transfer.datasets.samples import Sample

ORIENTATION = 0x0112  # EXIF: how the camera was held
TURNED = (5, 6, 7, 8)  # its values that exchange width and height
THREADS = 8
QUIET_SECONDS = 2.0  # a shorter scan shows no progress bar


def check_image_sizes(samples: Iterable[Sample]) -> None:
    """Raises InputError where a file is no image or has another size than its annotation says.

    The size is that after turning the image as its EXIF data say: so it is read for training.
    """
    # Train and test sets may share files, and a set may name one twice.
    unique = list({sample.file_name: sample for sample in samples}.values())
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(_fault, unique)
        bar = progress(
            found, desc="check images", total=len(unique), leave=False, delay=QUIET_SECONDS
        )
        faults = [fault for fault in bar if fault]
    if faults:
        others = f" (and {len(faults) - 1} more images like it)" if faults[1:] else ""
        raise InputError(faults[0] + others)


def _fault(sample: Sample) -> str:
    """What is wrong with a file, or ""."""
    try:
        width, height = header_size(sample.file_name)
    except (OSError, SyntaxError, ValueError) as error:
        return f"image {sample.file_name} cannot be read ({error}): truncated or damaged"
    if (width, height) == (sample.width, sample.height):
        return ""
    return (
        f"image {sample.file_name} has {width} x {height} pixels, its annotation says "
        f"{sample.width} x {sample.height}; correct the annotation, or restore the image"
    )


def header_size(path: str) -> tuple[int, int]:
    """(width, height) of an image, turned as its EXIF data say, without decoding it."""
    with Image.open(path) as image:
        width, height = image.size
        # For a PNG, Pillow's own method would decode the pixels to find EXIF data behind them.
        png = image.format == "PNG"
        exif = Image.Image.getexif(image) if png else image.getexif()
    return (height, width) if exif.get(ORIENTATION) in TURNED else (width, height)
