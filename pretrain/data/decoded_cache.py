"""Small images decoded once and kept in memory: a data set in, one with quicker reads out.

This is possible if all images have one size and fit in the memory. Otherwise the files are read
each time, which is slower and gives the same numbers. Legend: N images of H x W pixels.
"""

from __future__ import annotations

import logging
import multiprocessing
import os

import numpy as np

from pretrain.common.errors import InputError
from pretrain.common.logs import progress
from pretrain.data.datasets import ArrayImages, ImageDataset
from pretrain.data.free_memory import available_memory

logger = logging.getLogger(__name__)

MEMORY_SHARE = 0.5  # part of the available memory, for all processes of this machine together
QUIET_SECONDS = 2.0  # shorter work shows no progress bar


class SizesDiffer(InputError):
    """Is raised for images of several sizes, which one array cannot hold."""


def keep_decoded(dataset: ImageDataset, num_workers: int = 0) -> ImageDataset:
    """Returns the data set decoded in memory if that is possible. Otherwise it returns the data set
    itself, and a log line gives the reason.

    Args:
        num_workers: loader processes of this process.

    Raises InputError when no image can be read.
    """
    if isinstance(dataset, ArrayImages):
        return dataset
    reason = why_not_kept(dataset, copies(num_workers))
    if not reason:
        try:
            return decoded_in_memory(dataset)
        except SizesDiffer as error:  # the header of a file gave another size
            reason = str(error)
    logger.info("DATALOADER.CACHE_DECODED is not used, images are read from files: %s", reason)
    return dataset


def copies(num_workers: int, processes: int | None = None) -> int:
    """Returns how many copies of the decoded images this machine would hold.

    Args:
        num_workers: loader processes of each process; forked ones share its copy.
        processes: the run's processes on this machine; None: the number that the launcher set.
    """
    if processes is None:
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    method = multiprocessing.get_start_method(allow_none=True)
    forked = (method or multiprocessing.get_all_start_methods()[0]) == "fork"
    return processes * (1 if forked else 1 + num_workers)


def why_not_kept(dataset: ImageDataset, copies: int = 1) -> str:
    """Returns why a data set cannot be decoded in memory; "" if it can.

    It reads the headers of all files, unless the first image's size already shows that the set is
    too large.
    """
    first = ""
    found: tuple[int, int] | None = None
    for index in range(len(dataset)):
        try:
            size = dataset.size(index)
        except OSError:  # it stays unreadable, see `decoded_in_memory`
            continue
        if found is None:
            first, found = dataset.name(index), size
            if reason := _too_large(len(dataset), size, copies):
                return reason
        if size != found:
            return _sizes(dataset.name(index), size, first, found)
    return ""


def decoded_in_memory(dataset: ImageDataset) -> ArrayImages:
    """Decodes a data set of small, equally sized images once and keeps it as uint8 (N, H, W, 3).

    An unreadable image stays unreadable: its `read` raises as before. Raises `SizesDiffer` when
    sizes differ, `InputError` when no image can be read.
    """
    pixels: np.ndarray | None = None
    unreadable: dict[int, str] = {}
    first = ""
    count = len(dataset)
    for index in progress(range(count), "decode images", leave=False, delay=QUIET_SECONDS):
        try:
            image = np.asarray(dataset.read(index))
        except OSError as error:
            unreadable[index] = str(error)
            continue
        if pixels is None:
            pixels, first = np.zeros((count, *image.shape), dtype=np.uint8), dataset.name(index)
        if image.shape != pixels.shape[1:]:
            sizes = [(shape[1], shape[0]) for shape in (image.shape, pixels.shape[1:])]
            raise SizesDiffer(_sizes(dataset.name(index), sizes[0], first, sizes[1]))
        pixels[index] = image
    if pixels is None:
        last = f"; the last: {[*unreadable.values()][-1]}" if unreadable else ""
        raise InputError(f"no image can be read; repair them or give different ones{last}")
    names = [dataset.name(index) for index in range(count)]
    return ArrayImages(pixels, dataset.labels, dataset.classes, names, unreadable)


def _too_large(count: int, size: tuple[int, int], copies: int) -> str:
    wanted, free = copies * count * size[0] * size[1] * 3, available_memory()
    if free is None or wanted <= MEMORY_SHARE * free:
        return ""
    more = f" in {copies} copies" if copies > 1 else ""
    return (
        f"{count} images of {size[0]}x{size[1]} px take {wanted / 2**30:.1f} GiB{more}, more than "
        f"{MEMORY_SHARE:.0%} of the {free / 2**30:.1f} GiB of free memory"
    )


def _sizes(name: str, size: tuple[int, int], first: str, other: tuple[int, int]) -> str:
    return (
        f"their sizes differ ({name} has {size[0]}x{size[1]} px, {first} {other[0]}x{other[1]} px)"
    )
