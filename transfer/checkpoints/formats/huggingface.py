"""What a repository of Hugging Face says beside its weights: a folder in, preprocessing out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"


def read_json(file: Path) -> dict[str, Any] | None:
    """A JSON file's object; None where there is no file.

    Raises:
        InputError: it is not a JSON object.
    """
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} beside the weights is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} beside the weights holds a {type(content).__name__}, no object")
    return content


def preprocess_in(folder: Path) -> Preprocess | None:
    """What `preprocessor_config.json` in the folder says; None where there is none.

    Pixels are multiplied by `rescale_factor`, then normalised, as transformers' image processors
    do; files of version 4 leave out what is at its default.

    Raises:
        InputError: it is damaged, or its values are no normalisation of three channels.
    """
    file = folder / PREPROCESSOR
    stated = read_json(file)
    if stated is None:
        return None
    factor = stated.get("rescale_factor") or 1 / 255
    high = 255 * factor if stated.get("do_rescale", True) else 255.0
    high = 1.0 if math.isclose(high, 1.0, rel_tol=1e-6) else high
    mean, std = stated.get("image_mean"), stated.get("image_std")
    if not stated.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if mean is None or std is None:
        return None
    try:
        return Preprocess(
            tuple(float(v) for v in mean), tuple(float(v) for v in std), value_range=(0.0, high)
        )
    except (TypeError, ValueError, InputError) as error:
        raise InputError(f"{file} beside the weights: {error}") from error
