"""Reads Cityscapes' images of instance ids."""

from __future__ import annotations

import numpy as np
from PIL import Image

from pretrain.common.errors import InputError
from transfer.datasets.cityscapes_labels import INSTANCES


def read_instances(path: str) -> np.ndarray:
    """Ids int64 (H, W): label id x 1000 + number of an object, else the label id.

    Raises InputError if the file is not one of instances.
    """
    try:
        with Image.open(path) as image:
            ids = np.asarray(image).astype(np.int64)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): truncated or damaged; replace it"
        ) from None
    if ids.ndim != 2:
        raise InputError(f"{path} has colours, not numbers; unpack the official *{INSTANCES}")
    return ids
