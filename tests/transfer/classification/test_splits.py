"""Splits that do not fit together are refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.common.errors import InputError
from transfer.classification.splits import PhotoFiles, open_split, open_splits


def _image(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        _image(12, 10).save(root / name)


def test_splits(tmp_path: Path) -> None:
    _write(tmp_path, "train/a/0.png", "train/a/1.png", "train/b/0.png", "test/a/0.png")
    _write(tmp_path, "test/b/0.png", "flat/0.png", "other/a/0.png", "other/c/0.png", "one/a/0.png")
    name = f"folder:{tmp_path}:"
    train, test = open_splits(name + "train", name + "test", limit_per_class=1)
    assert train.classes == test.classes == ("a", "b")
    assert train.labels.tolist() == [0, 1] and len(test) == 2
    with pytest.raises(
        InputError, match="classes of .* differ: 'b' only in .*train; 'c' only in .*other"
    ):
        open_splits(name + "train", name + "other")
    _write(tmp_path, "mac/a/0.png", "mac/o\u0308/0.png", "linux/a/0.png", "linux/\u00f6/0.png")
    with pytest.raises(
        InputError, match=r"differ: .*; the names differ only in how accents are encoded"
    ):
        open_splits(name + "mac", name + "linux")
    _write(tmp_path, "upper/A/0.png", "upper/B/0.png", "space/a /0.png", "space/b/0.png")
    for other, what in (("upper", "upper and lower case"), ("space", "spaces and case")):
        with pytest.raises(InputError, match=f"; the names differ only in {what}; rename"):
            open_splits(name + "train", name + other)
    with pytest.raises(InputError, match="has no labels"):
        open_splits(name + "train", name + "flat")
    with pytest.raises(InputError, match="classification needs at least two$"):
        open_splits(name + "one", name + "one")
    _write(tmp_path, "deep/deep/a/0.png", "deep/deep/b/0.png")
    with pytest.raises(InputError, match="are in folders such as .*/deep/deep/a: if these are"):
        open_splits(name + "deep", name + "deep")
    with pytest.raises(InputError, match="add DATASETS.TEST folder:FOLDER:val"):
        open_splits(name + "train", "")
    with pytest.raises(InputError, match="LIMIT_PER_CLASS -1"):
        open_splits(name + "train", name + "test", limit_per_class=-1)


def test_classes_without_images_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of Places205, whose labels stay those of the 205 classes."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    lists = tmp_path / "places205" / "trainvalsplit_places205"
    lists.mkdir(parents=True)
    _write(tmp_path / "places205" / "images256", "a/abbey/0.png", "b/bar/1.png", "c/cave/2.png")
    (lists / "train_places205.csv").write_text("c/cave/2.png 33\na/abbey/0.png 0\n")
    (lists / "val_places205.csv").write_text("a/abbey/0.png 0\nc/cave/2.png 33\n")
    train, test = open_splits("places205:train", "places205:val")
    assert train.classes == test.classes == ("abbey", "cave")
    assert train.labels.tolist() == [1, 0] and test.labels.tolist() == [0, 1]
    (lists / "val_places205.csv").write_text("a/abbey/0.png 0\nb/bar/1.png 19\n")
    with pytest.raises(InputError, match="places205:val has images of the class 'class 19', "):
        open_splits("places205:train", "places205:val")
    (lists / "train_places205.csv").write_text("a/abbey/0.png 0\n")
    (lists / "val_places205.csv").write_text("a/abbey/0.png 0\n")
    with pytest.raises(InputError, match="images of only one class"):
        open_splits("places205:train", "places205:val")


def test_a_part_of_a_built_in_set_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    _write(tmp_path, "imagenet/val/a/0.png", "imagenet/val/b/0.png")
    assert len(open_split("imagenet:val")) == 2
    assert (
        "imagenet:val has only a part of the data, 2 images: the whole set has 1000 classes"
        in caplog.text
    )
    caplog.clear()
    open_split("imagenet:val", limit_per_class=1)  # asked for
    open_split(f"folder:{tmp_path}/imagenet:val")
    assert not caplog.text


def test_what_a_split_holds(tmp_path: Path) -> None:
    _write(tmp_path, "cat/a.jpg", "cat/b.jpg", "dog/c.png", "cat/.hidden.jpg")
    (tmp_path / "dog" / "c.heic").write_text("")
    name = f"folder:{tmp_path}"
    assert open_split(name).describe() == (
        f"{name}: 3 images, 2 classes (1 to 2 images a class); left out: 1 .heic, 1 hidden or "
        "system files"
    )
    assert open_split(name, 1).describe().startswith(f"{name}: 2 images, 2 classes (1 images")


def test_imagenets_validation_images_without_class_folders(tmp_path: Path) -> None:
    _write(tmp_path, "ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_00000002.JPEG")
    with pytest.raises(InputError, match="one folder per class; sort ImageNet's.*valprep.sh"):
        open_split(f"folder:{tmp_path}")
    _write(tmp_path / "own", "a.jpg")
    with pytest.raises(InputError, match="one folder per class$"):
        open_split(f"folder:{tmp_path / 'own'}")


def test_images_without_a_scale_are_found_when_a_split_is_opened(tmp_path: Path) -> None:
    _write(tmp_path, "cat/a.jpg", "dog/c.png")
    Image.new("F", (4, 4), 0.5).save(tmp_path / "dog" / "x.tif")
    with pytest.raises(InputError, match=r"\(1: .*dog/x.tif \(mode F, values 0.5 to 0.5\)\)"):
        open_split(f"folder:{tmp_path}")


def test_photographs_of_a_detection_set_are_read_as_all_others(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 80).reshape(8, 10).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    found = np.asarray(PhotoFiles([str(tmp_path / "a.png")]).read(0)).astype(int)
    assert np.abs(found - np.round(values / 257.0)[..., None]).max() <= 1
