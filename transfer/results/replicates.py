"""Bootstrap replicates: the value of each metric on different draws of the test images.

The evaluator computes each metric under every draw and writes the values to `replicates.json` next
to the record. A draw takes as many images as the test set has, with replacement: each image has a
weight of 0, 1, 2, ... Only these weights change; matches and classes stay the same. A class without
an object in a draw keeps its score on the full data in this draw, because it has no score there.
Draws come from one seed over the sorted ids, so draw b of two checkpoints, or of two trials, has
the same images.

Source: B. Efron, R. Tibshirani, An Introduction to the Bootstrap (1993), chapters 6 and 13.
Legend: n test images, B draws.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.common.checkpoint import atomic_write_text
from pretrain.common.errors import InputError
from pretrain.common.printable import printable, shown
from pretrain.common.safe_json import read_json

logger = logging.getLogger(__name__)

SCHEMA = 1
FILE_NAME = "replicates.json"
DRAWS, SEED = 200, 0
_DIGITS = 6  # digits of a percentage; more than float32 has


@dataclass
class Replicates:
    """Collects the metrics of one evaluation.

    Attributes:
        ids: ids of the images, sorted.
        weights: int32 (n, 1 + B), how often each image is in each draw; column 0 is the full data.
        full, values: by metric, its value on the full data, and on the draws, float64 (B,).
    """

    ids: Sequence[int | str]
    weights: np.ndarray
    full: dict[str, float] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def draw(cls, image_ids: Sequence[int | str], draws: int = DRAWS) -> Replicates:
        """Draws the weights for a test set; its images may be in any order."""
        ids: list[Any] = sorted(image_ids)
        assert len(set(ids)) == len(ids), "two test images have one id"
        weights = draw_weights(len(ids), draws)
        return cls(ids, np.concatenate([np.ones((len(ids), 1), np.int32), weights], axis=1))

    def rows(self, image_ids: Sequence[int | str]) -> np.ndarray:
        """Returns the rows of `weights` (int64) for images in a given order."""
        places = {image_id: row for row, image_id in enumerate(self.ids)}
        return np.array([places[image_id] for image_id in image_ids], dtype=np.int64)

    def add(self, metrics: dict[str, np.ndarray]) -> None:
        """Adds the percentages (1 + B,) of some metrics, in the order of `weights`' columns."""
        for name, values in metrics.items():
            self.full[name] = float(values[0])
            self.values[name] = np.asarray(values[1:], dtype=np.float64)

    def check(self, metrics: dict[str, float]) -> None:
        """Drops, with a warning, metrics whose value on the full data is not the evaluator's."""
        for name in [name for name in self.full if not _equal(self.full[name], metrics[name])]:
            logger.warning(
                "%s is %.6f, but its reweighted form is %.6f: its replicates are not written",
                name,
                metrics[name],
                self.full[name],
            )
            del self.full[name], self.values[name]

    def write(self, folder: str | Path) -> Path:
        """Writes `folder`/replicates.json and returns its path; NaN is null."""
        content = {
            "schema": SCHEMA,
            "seed": SEED,
            "draws": self.weights.shape[1] - 1,
            "images": len(self.ids),
            "images_sha256": ids_sha256(self.ids),
            "full": {name: _json(value) for name, value in self.full.items()},
            "replicates": {n: [_json(v) for v in vs.tolist()] for n, vs in self.values.items()},
        }
        path = Path(folder) / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, json.dumps(content, allow_nan=False) + "\n")
        return path


@dataclass(frozen=True)
class Stored:
    """Holds a file's content; draw b of two files has the same images if their `key` is equal."""

    key: tuple[int, str]  # seed, sha256 of the sorted ids
    images: int
    full: dict[str, float]
    values: dict[str, np.ndarray]  # (B,), NaN if the metric is not defined


def draw_weights(images: int, draws: int, seed: int = SEED) -> np.ndarray:
    """Returns int32 (n, B): column b says how often draw b takes each image.

    A smaller number of draws gives the first columns of a larger number.
    """
    rng = np.random.default_rng(seed)
    columns = [
        np.bincount(rng.integers(images, size=images), minlength=images) for _ in range(draws)
    ]
    return np.stack(columns, axis=1).astype(np.int32) if draws else np.zeros((images, 0), np.int32)


def ids_sha256(ids: Sequence[int | str]) -> str:
    """Returns the identity of a list of sorted image ids."""
    return hashlib.sha256("\n".join(map(str, ids)).encode("utf-8", "surrogatepass")).hexdigest()


def read_replicates(path: str | Path) -> Stored:
    """Returns the replicates in `path`; InputError names the file and the problem."""
    try:
        content = read_json(path)
        if content["schema"] != SCHEMA:
            raise InputError(
                f"{path}: schema {shown(content['schema'])}; this version reads {SCHEMA}"
            )
        values = {
            name: np.array(numbers, dtype=np.float64)
            for name, numbers in content["replicates"].items()
        }
        full = {name: _number(content["full"][name]) for name in values}
        key = (int(content["seed"]), str(content["images_sha256"]))
        images, draws = int(content["images"]), int(content["draws"])
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(f"{path}: not a replicates file ({printable(repr(error))})") from error
    for name, numbers in values.items():
        if numbers.shape != (draws,):
            raise InputError(
                f"{path}: {printable(name)} has the shape {numbers.shape}, expected {draws} draws"
            )
    return Stored(key, images, full, values)


def _equal(one: float, other: float) -> bool:
    return math.isnan(one) and math.isnan(other) or abs(one - other) < 1e-6


def _json(value: float) -> float | None:
    return None if math.isnan(value) else round(value, _DIGITS)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
