"""Small image folders for the data tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_images(folder: Path, number: int, size: tuple[int, int], seed: int = 0) -> None:
    """Write `number` random JPEGs of `size` (width, height)."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(number):
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03}.jpg", quality=95)


@pytest.fixture
def classes_folder(tmp_path: Path) -> Path:
    """ROOT/pets/train/{cat,dog} with 13 and 11 images of 24 x 20 px."""
    write_images(tmp_path / "pets" / "train" / "cat", 13, (24, 20), seed=1)
    write_images(tmp_path / "pets" / "train" / "dog", 11, (24, 20), seed=2)
    return tmp_path / "pets"


def write_grey(path: Path, grey: int) -> None:
    """Write a JPEG of 6 x 5 px of one grey value, which identifies it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (6, 5), grey).save(path, "JPEG", quality=100)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, below which data sets are looked for."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path
