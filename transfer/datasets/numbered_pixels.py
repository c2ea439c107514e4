"""Reads images whose pixels are numbers: masks of classes, and Cityscapes' images of instances."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pretrain.common.errors import InputError
from transfer.datasets.cityscapes_labels import INSTANCES


def read_mask(path: str) -> np.ndarray:
    """Returns class numbers, uint8 (H, W); InputError, with the path, for any other file."""
    mask, mode = _read(path, f"mask {path}")
    if mode not in ("P", "L"):
        raise InputError(
            f"mask {path} has colours ({mode}), not class numbers; save it as 8-bit grey or with "
            "a palette"
        )
    return mask


def read_instances(path: str) -> np.ndarray:
    """Ids int64 (H, W): label id x 1000 + number of an object, else the label id.

    Raises InputError if the file is not one of instances.
    """
    ids, _ = _read(path, path)
    if ids.ndim != 2:
        raise InputError(f"{path} has colours, not numbers; unpack the official *{INSTANCES}")
    return ids.astype(np.int64)


def _read(path: str, name: str) -> tuple[np.ndarray, str]:
    """The pixels as they are in the file, (H, W) without colours, and Pillow's mode."""
    try:
        with Image.open(path) as image:
            return np.asarray(image), image.mode
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{name} cannot be read ({error}): truncated or damaged; replace it"
        ) from None
