"""The scan of image headers: sizes, turned photographs, damage, and that nothing is decoded."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageFile

from pretrain.common.errors import InputError
from transfer.datasets.headers import ORIENTATION, check_image_sizes, header_size
from transfer.datasets.samples import Sample
from transfer.detection.data.transforms import read_image


def save(folder: Path, name: str, orientation: int = 1) -> str:
    """A file of 20 x 10 pixels."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.new("RGB", (20, 10)).save(folder / name, exif=exif)
    return str(folder / name)


def sample(path: str, width: int = 20, height: int = 10) -> Sample:
    return Sample(path, "a", height, width, ())


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_is_that_of_the_image_as_it_is_read(
    tmp_path: Path, name: str, orientation: int
) -> None:
    path = save(tmp_path, name, orientation)
    height, width, _ = read_image(path, "RGB").shape
    assert header_size(path) == (width, height)
    check_image_sizes([sample(path, width, height)])


def test_nothing_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [save(tmp_path, name) for name in ("a.jpg", "a.png")]

    def load(self: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    check_image_sizes([sample(path) for path in paths])


def test_the_first_fault_is_named_and_the_others_counted(tmp_path: Path) -> None:
    good, bad = save(tmp_path, "good.jpg"), save(tmp_path, "bad.jpg")
    with pytest.raises(InputError) as caught:
        check_image_sizes([sample(good), sample(bad, 10, 20), sample(bad, 10, 20)])
    assert str(caught.value) == (
        f"image {bad} has 20 x 10 pixels, its annotation says 10 x 20; correct the annotation, or "
        "restore the image"
    )
    others = [sample(save(tmp_path, f"{i}.jpg"), 1, 1) for i in range(3)]
    with pytest.raises(InputError, match=r"0\.jpg has 20 x 10.*\(and 2 more images like it\)$"):
        check_image_sizes([sample(good), *others])


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(InputError, match=r"a\.jpg cannot be read"):
        check_image_sizes([sample(str(path))])
