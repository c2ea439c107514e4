"""A handful of digit scenes in VOC's and COCO's layout, made once per session."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.digits.dataset import make_digits


@pytest.fixture(scope="session")
def digits_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits") / "digits"
    counts = dict(classification=(10, 10, 10), scenes=(8, 1, 4))
    make_digits(root, seed=3, **counts, layouts=("lvis", "cityscapes"))
    return root


@pytest.fixture
def digits(digits_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(digits_root))
    return digits_root


@pytest.fixture
def all_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """More scenes, so that each digit is among them."""
    make_digits(tmp_path / "all", seed=3, classification=(0, 0, 0), scenes=(24, 0, 2))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "all"))
    return tmp_path / "all"
