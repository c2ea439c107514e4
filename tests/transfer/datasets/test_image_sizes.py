"""The scan of image headers: sizes, rotated photographs, damage; no image is decoded."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageFile

from pretrain.common.errors import InputError
from pretrain.data.decode import ORIENTATION, read_header
from transfer.datasets.image_sizes import check_image_sizes, header_size
from transfer.datasets.samples import Instance, Sample
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


def behind_pixels(path: Path, orientation: int, kind: str) -> None:
    """Writes a PNG of 20 x 10 pixels whose orientation is in a chunk behind the pixels."""
    content = Path(save(path.parent, "plain.png", orientation)).read_bytes()
    chunks, place = [], 8
    while place < len(content):
        length = 12 + int.from_bytes(content[place : place + 4], "big")
        chunks.append(content[place : place + length])
        place += length
    (exif,) = (chunk for chunk in chunks if chunk[4:8] == b"eXIf")
    others = [chunk for chunk in chunks if chunk is not exif]
    if kind != "eXIf":
        data = exif[8:-4].hex()
        texts = {
            "profile": f"tEXtRaw profile type exif\0\nexif\n{len(data) // 2:8}\n{data}\n",
            "XMP": "iTXtXML:com.adobe.xmp\0\0\0\0\0"
            f'<x xmlns:tiff="t" tiff:Orientation="{orientation}"/>',
        }
        body = texts[kind].encode()
        check = zlib.crc32(body).to_bytes(4, "big")
        exif = (len(body) - 4).to_bytes(4, "big") + body + check
    path.write_bytes(content[:8] + b"".join([*others[:-1], exif, others[-1]]))


@pytest.mark.parametrize("kind", ["eXIf", "profile", "XMP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_an_orientation_behind_the_pixels_of_a_png(
    tmp_path: Path, orientation: int, kind: str
) -> None:
    """Pillow finds it when it decodes the image, which is then read as rotated."""
    path = tmp_path / "a.png"
    behind_pixels(path, orientation, kind)
    width, height = (10, 20) if orientation in (6, 8) else (20, 10)
    assert read_image(str(path), "RGB").shape == (height, width, 3)
    assert header_size(str(path)) == (width, height)
    assert read_header(str(path)).stored_size == (20, 10)
    check_image_sizes([sample(str(path), width, height)])


def test_nothing_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [save(tmp_path, name) for name in ("a.jpg", "a.png")]

    def load(self: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    check_image_sizes([sample(path) for path in paths])


def test_each_kind_of_fault_is_counted_with_its_first_files(tmp_path: Path) -> None:
    good, bad = save(tmp_path, "good.jpg"), save(tmp_path, "bad.jpg")
    with pytest.raises(InputError) as caught:
        check_image_sizes([sample(good), sample(bad, 10, 20), sample(bad, 10, 20)])
    assert str(caught.value) == (
        "image files: images are annotated with their width and height exchanged "
        f"(1: {bad} has 20 x 10 pixels, not 10 x 20); if the boxes fit the images, exchange the "
        "two numbers in the annotations; if the images were rotated after they were annotated, "
        "restore them"
    )
    with pytest.raises(InputError, match="a different size .* not 20 x 11.; correct the ann"):
        check_image_sizes([sample(good), sample(bad, 20, 11)])
    others = [sample(save(tmp_path, f"{i}.jpg"), 1, 1) for i in range(4)]
    page = tmp_path / "page.jpg"
    page.write_bytes(b"<html>not found</html>")
    with pytest.raises(InputError) as caught:
        check_image_sizes([sample(good), *others, sample(str(page))])
    text = str(caught.value)
    assert "(4, first: " in text and "2.jpg has 20 x 10" in text and "3.jpg" not in text
    assert "Also: files cannot be read as images (1: " in text
    assert "page.jpg cannot be read as an image (a page of markup (HTML, XML, SVG)" in text


def test_a_photograph_that_is_annotated_as_it_is_stored(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        check_image_sizes([sample(save(tmp_path, "a.jpg", 6))])
    text = str(caught.value)
    assert "their EXIF orientation rotates them (1: " in text
    assert "a.jpg has 10 x 20 pixels, not 20 x 10)" in text


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("height", [10, 20])
def test_images_whose_size_cannot_tell_their_rotation(
    tmp_path: Path, orientation: int, height: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Mirrored ones, ones upside down, and all rotated squares; not without objects."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    for name in ("a.jpg", "b.tif"):
        path = str(tmp_path / name)
        Image.new("RGB", (20, height)).save(path, exif=exif)
        width, high = header_size(path)
        check_image_sizes([Sample(path, "a", high, width, ())])
        assert not caplog.text
    objects = (Instance((1.0, 1.0, 5.0, 5.0), 0),)
    names = [str(tmp_path / name) for name in ("a.jpg", "b.tif")]
    check_image_sizes([Sample(path, "a", high, width, objects) for path in names], "set")
    ambiguous = orientation in ((2, 3, 4) if height == 10 else range(2, 9))
    assert ("same size before and after it" in caplog.text) == ambiguous
    assert (f"(2: {names[0]}, {names[1]})" in caplog.text) == ambiguous


def test_a_size_that_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(OSError, match=r"a\.png is refused: images with more than"):
        header_size(save(tmp_path, "a.png"))


def test_images_that_no_reader_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "a.tif")
    Image.new("F", (20, 10), 0.5).save(path)
    with pytest.raises(InputError, match=r"a\.tif \(mode F, values 0.5 to 0.5\)"):
        check_image_sizes([sample(path)])
    large = save(tmp_path, "b.png")
    monkeypatch.setenv("MSCN_MAX_IMAGE_PIXELS", "150")
    with pytest.raises(InputError, match=r"more than 150 pixels are not read \(1: .*b\.png \(200"):
        check_image_sizes([sample(large)])
