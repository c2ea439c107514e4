"""Readable class names from class_names.txt."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.data.class_names import readable_class_names
from pretrain.data.datasets import ImageDataset, open_images

CLASSES = ("n01443537", "n02012849", "n03126707", "dogs")


def _read(images: ImageDataset) -> dict[str, str]:
    its_class = images.classes[images.labels[0]] if images.classes else ""
    return readable_class_names(images.name(0), its_class, images.classes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for name in CLASSES:
            path = tmp_path / split / name / "deeper" / "image.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    return tmp_path


def test_names_beside_and_inside_a_split(folder: Path) -> None:
    images = open_images(f"folder:{folder}:val")
    assert _read(images) == {}
    text = (
        "n01443537\tgoldfish, Carassius auratus\n\nn02012849 crane\nn03126707\tcrane\n"
        "n99999999\tnot here\ndogs\n"
    )
    (folder / "class_names.txt").write_text(text, encoding="utf-8")
    names = {"n01443537": "goldfish", "n02012849": "crane (n02012849)"}
    assert _read(images) == {**names, "n03126707": "crane (n03126707)"}
    assert _read(images.subset([3])) == _read(images)
    (folder / "val/class_names.txt").write_text("dogs  two words, more\n", encoding="utf-8")
    assert _read(open_images(f"folder:{folder}:val")) == {"dogs": "two words"}


def test_a_file_that_is_not_text_is_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "class_names.txt").write_bytes(b"\xff\xfe\x00")
    with caplog.at_level(logging.WARNING):
        assert _read(open_images(f"folder:{folder}:val")) == {}
    assert "class_names.txt is not read" in caplog.text


def test_a_byte_order_mark_is_not_part_of_the_first_name(folder: Path) -> None:
    """Notepad writes one."""
    (folder / "class_names.txt").write_text("dogs hounds\n", encoding="utf-8-sig")
    assert _read(open_images(f"folder:{folder}:val")) == {"dogs": "hounds"}


def test_images_without_labels_have_no_names(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    assert _read(open_images(f"folder:{tmp_path}")) == {}
