"""Data sets by name: layouts, subsets, and a clear line for each possible mistake."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.common.errors import InputError
from pretrain.data.datasets import open_images
from pretrain.data.decoded_cache import decoded_in_memory
from tests.pretrain.data.official_layouts import accept, write_cifar10, write_cifar100


def test_class_folders(classes_folder: Path) -> None:
    data = open_images(f"folder:{classes_folder}:train")
    assert len(data) == 24 and data.classes == ["cat", "dog"]
    assert data.labels.tolist() == [0] * 13 + [1] * 11
    image = data.read(0)
    assert image.mode == "RGB" and image.size == (24, 20)
    assert data.name(13) == str(classes_folder / "train" / "dog" / "000.jpg")


def test_images_deep_in_a_class_folder(tmp_path: Path, classes_folder: Path) -> None:
    deep = classes_folder / "train" / "ant" / "images"
    deep.mkdir(parents=True)
    Image.new("L", (3, 3)).save(deep / "a.PNG")
    (deep / "boxes.txt").write_text("no image")
    data = open_images(f"folder:{classes_folder}:train")
    assert data.classes == ["ant", "cat", "dog"] and data.read(0).mode == "RGB"


def test_a_bare_name_is_told_how_to_name_a_folder() -> None:
    with pytest.raises(InputError, match="unknown data set 'mine'; a folder .* is folder:mine; "):
        open_images("mine")


def test_flat_folder(classes_folder: Path) -> None:
    data = open_images(f"folder:{classes_folder / 'train' / 'cat'}")
    assert len(data) == 13 and data.classes == [] and set(data.labels) == {-1}


def test_below_the_root(classes_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(classes_folder.parent))
    assert len(open_images("folder:pets:train")) == 24
    (classes_folder.parent / "imagenet").symlink_to(classes_folder)
    assert len(open_images("imagenet:train")) == 24


def test_below_the_home_folder(classes_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in detection's names: a shell does not expand what is after a colon."""
    monkeypatch.setenv("HOME", str(classes_folder.parent))
    assert len(open_images("folder:~/pets:train")) == 24


def test_the_last_colon_separates(classes_folder: Path) -> None:
    odd = classes_folder.parent / "a:b"
    classes_folder.rename(odd)
    assert len(open_images(f"folder:{odd}:train")) == 24


def test_limit_per_class(classes_folder: Path) -> None:
    data = open_images(f"folder:{classes_folder}:train", limit_per_class=3)
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [Path(data.name(i)).name for i in range(3)] == ["000.jpg", "001.jpg", "002.jpg"]
    assert data.read(5).size == (24, 20) and data.classes == ["cat", "dog"]


@pytest.mark.parametrize(
    "spec, match",
    [
        ("foldr:x:train", "did you mean 'folder'"),
        ("folder:", "write folder:FOLDER:SPLIT, or folder:FOLDER for the folder itself"),
        ("folder:nowhere:train", "nowhere/train is missing; expected .*CLASS/IMAGE.jpg"),
        ("imagenet:test", "imagenet:val"),
        ("imagenet:val", "imagenet/val is missing"),
        ("cifar10:val", "cifar10:test"),
        ("cifar100:train", "cifar-100-python"),
    ],
)
def test_bad_spec(spec: str, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(InputError, match=match):
        open_images(spec)


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty" / "class").mkdir(parents=True)
    with pytest.raises(InputError, match="contains no images; expected"):
        open_images(f"folder:{tmp_path / 'empty'}")


def test_bad_limit(classes_folder: Path) -> None:
    with pytest.raises(InputError, match="at least 1"):
        open_images(f"folder:{classes_folder}:train", limit_per_class=0)


@pytest.mark.parametrize("kind", ["truncated", "text", "zero", "half png", "missing"])
def test_corrupt_image_names_its_path(kind: str, classes_folder: Path) -> None:
    path = classes_folder / "train" / "cat" / "004.jpg"
    data = open_images(f"folder:{classes_folder}:train")
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:400])
    elif kind == "half png":
        pixels = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, format="PNG")
        path.write_bytes(path.read_bytes()[:600])
    elif kind == "missing":
        path.unlink()
    else:
        path.write_bytes(b"not an image" if kind == "text" else b"")
    with pytest.raises(OSError, match="cat/004.jpg") as caught:
        data.read(4)
    assert "object at 0x" not in str(caught.value)
    assert ("empty (0 bytes)" in str(caught.value)) == (kind == "zero")


def test_decoded_jpeg_equals_pil(classes_folder: Path) -> None:
    data = open_images(f"folder:{classes_folder}:train")
    expected = np.asarray(Image.open(data.name(2)).convert("RGB")).astype(int)
    assert np.abs(np.asarray(data.read(2)) - expected).max() <= 1


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (10, 200, 30, 0)).save(tmp_path / "c.jpg")
    assert open_images(f"folder:{tmp_path}").read(0).mode == "RGB"


def test_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of the batches, the layout of a row, and fine labels, not coarse ones."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    pictures = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    train, test = (pictures[:5], [3, 1, 0, 9, 7]), (pictures[5:], [8, 2])
    for name, write in (("cifar10", write_cifar10), ("cifar100", write_cifar100)):
        accept(monkeypatch, name.upper(), write(tmp_path, train, test))
        for split, (images, labels) in {"train": train, "test": test}.items():
            data = open_images(f"{name}:{split}")
            assert data.labels.tolist() == labels
            assert np.array_equal([data.read_pixels(row) for row in range(len(data))], images)
        assert data.name(1) == f"{name}:test image 1"
    assert open_images("cifar10:test").classes[3] == "cat"
    assert open_images("cifar100:test").classes[3] == "fine_03"


def test_cifars_files_that_are_not_the_official_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was saved again is named and not unpickled; so is one that is missing."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    data = (np.zeros((5, 32, 32, 3), np.uint8), [0, 1, 2, 3, 4])
    (tmp_path / "cifar-10-python.tar.gz").touch()
    with pytest.raises(InputError, match="cifar-10-batches-py is missing.* in .*: unpack it in"):
        open_images("cifar10:test")
    accept(monkeypatch, "CIFAR10", write_cifar10(tmp_path, data, data))
    folder = tmp_path / "cifar-10-batches-py"
    program = f"cos\nsystem\n(S'touch {tmp_path}/x'\ntR."
    (folder / "data_batch_2").write_text(program)
    with pytest.raises(InputError, match="not the official ones .*: data_batch_2; unpack") as error:
        open_images("cifar10:test")
    assert "\n" not in str(error.value) and not (tmp_path / "x").exists()
    (folder / "data_batch_5").unlink()
    with pytest.raises(InputError, match="1 of 7 files are missing .*: data_batch_5; files in"):
        open_images("cifar10:train")


def test_pixels_are_those_of_the_image(classes_folder: Path) -> None:
    whole = open_images(f"folder:{classes_folder}:train")
    for data in (whole, whole.subset([5, 20]), decoded_in_memory(whole)):
        for index in (0, 1):
            pixels = data.read_pixels(index)
            assert pixels.dtype == np.uint8 and pixels.flags.writeable
            assert np.array_equal(pixels, np.asarray(data.read(index)))
