"""Reads images whose pixels are numbers: masks of classes, and Cityscapes' images of instances."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFile

from pretrain.common.errors import InputError
from pretrain.data.decode import open_from_memory
from transfer.datasets.cityscapes_labels import INSTANCES

STEPS = {"L;2": 85, "L;4": 17}  # factors, by Pillow's raw mode


def read_mask(path: str) -> np.ndarray:
    """Returns class numbers, uint8 (H, W); InputError, with the path, for any other file."""
    mask, mode, step = _read(path, f"mask {path}")
    if what := not_numbers(mode):
        raise InputError(
            f"mask {path} has {what}, not class numbers; save it as 8-bit grey or with a palette"
        )
    return mask.astype(np.uint8) if step == 1 else mask // step


def not_numbers(mode: str) -> str:
    """Returns what the pixels of an image of Pillow's mode are, if they are not class numbers; else
    "".
    """
    if mode in ("P", "L", "1"):
        return ""
    deep = mode.startswith(("I", "F"))
    return f"{'more than 8 bits a pixel' if deep else 'colours'} ({mode})"


def read_instances(path: str) -> np.ndarray:
    """Returns ids int64 (H, W): label id x 1000 + number of an object, else the label id.

    Raises InputError if the file is not one of instances.
    """
    ids, _, _ = _read(path, path)
    if ids.ndim != 2:
        raise InputError(f"{path} has colours, not numbers; unpack the official *{INSTANCES}")
    return ids.astype(np.int64)


def _read(path: str, name: str) -> tuple[np.ndarray, str, int]:
    """Returns the pixels, (H, W) without colours, Pillow's mode, and the factor of `_step`."""
    try:
        with open_from_memory(path) as image:
            step = _step(image)  # known until the pixels are read
            return np.asarray(image), image.mode, step
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{name} cannot be read ({error}): truncated or damaged; replace it"
        ) from None


def _step(image: Image.Image) -> int:
    """Returns by how much Pillow multiplies the numbers of a grey PNG of 2 or 4 bits, to fill 8
    bits.
    """
    tile = image.tile if isinstance(image, ImageFile.ImageFile) else []
    return STEPS.get(str(tile[0][3]), 1) if tile else 1
