"""Any image file becomes 8-bit RGB by one rule: depths, refusals, limits, orientation."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pretrain.common.errors import InputError
from pretrain.data import decode
from pretrain.data.decode import (
    RefusedImage,
    decode_image,
    decode_pixels,
    pixel_limit,
    read_header,
)

RAMP = np.linspace(0, 65535, 12 * 10).reshape(10, 12).astype(np.uint16)


def eight_bit(values: np.ndarray = RAMP) -> np.ndarray:
    """What a program that saves 8 bits makes of values of 16 bits."""
    return np.repeat(np.round(values / 257.0)[..., None], 3, axis=2).astype(int)


def off_by(path: Path, wanted: np.ndarray, **options: bool) -> int:
    found = decode_image(str(path), **options)
    assert found.mode == "RGB"
    return int(np.abs(np.asarray(found).astype(int) - wanted).max())


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm", "a.jp2"])
@pytest.mark.parametrize("options", [{}, {"fast": False}, {"fast": False, "turn": True}])
def test_16_bits_equal_the_8_bit_picture(
    tmp_path: Path, name: str, options: dict[str, bool]
) -> None:
    Image.fromarray(RAMP).save(tmp_path / name)
    assert off_by(tmp_path / name, eight_bit(), **options) <= 1


@pytest.mark.parametrize("mode, dtype", [("I;16", "<u2"), ("I;16B", ">u2"), ("I;16L", "<u2")])
def test_each_16_bit_mode(tmp_path: Path, mode: str, dtype: str) -> None:
    image = Image.frombytes(mode, (12, 10), RAMP.astype(dtype).tobytes())
    found = np.asarray(decode.to_rgb(image, "x", turn=False)).astype(int)
    assert np.abs(found - eight_bit()).max() <= 1


def test_a_16_bit_png_that_pillow_opens_as_32_bits(tmp_path: Path) -> None:
    """As Pillow did before its version 10."""
    image = Image.fromarray(RAMP.astype(np.int32))
    image.format = "PNG"
    found = np.asarray(decode.to_rgb(image, "x", turn=False)).astype(int)
    assert np.abs(found - eight_bit()).max() <= 1


def tiff(path: Path, values: np.ndarray, order: str = "<", **tags: int) -> None:
    """An uncompressed TIFF of one channel; `tags` by name replace those of 16-bit grey."""
    height, width = values.shape
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    if tags.get("bits") == 12:  # two values in three bytes
        pairs = values.reshape(-1, 2).astype(int)
        rows = [[a >> 4, (a & 15) << 4 | b >> 8, b & 255] for a, b in pairs.tolist()]
        data = bytes(byte for row in rows for byte in row)
    entries = {
        256: width,
        257: height,
        258: tags.get("bits", 16),
        259: 1,
        262: tags.get("photometric", 1),
        273: 8,
        277: 1,
        278: height,
        279: len(data),
        339: tags.get("sample_format", 1),
    }
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(data))
    directory = struct.pack(f"{order}H", len(entries))
    for tag, value in entries.items():
        directory += struct.pack(f"{order}HHII", tag, 4, 1, value)
    path.write_bytes(head + data + directory + bytes(4))


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_tiff_of_both_byte_orders(tmp_path: Path, order: str) -> None:
    tiff(tmp_path / "a.tif", RAMP, order)
    assert off_by(tmp_path / "a.tif", eight_bit()) <= 1


def test_12_bit_tiff(tmp_path: Path) -> None:
    tiff(tmp_path / "a.tif", RAMP >> 4, bits=12)
    assert off_by(tmp_path / "a.tif", eight_bit()) <= 1


def test_16_bit_tiff_whose_least_value_is_white(tmp_path: Path) -> None:
    tiff(tmp_path / "a.tif", RAMP, photometric=0)
    assert off_by(tmp_path / "a.tif", 255 - eight_bit()) <= 1


def test_16_bit_rgb_png(tmp_path: Path) -> None:
    rows = np.repeat(RAMP[..., None], 3, axis=2).astype(">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 12, 10, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    assert off_by(tmp_path / "a.png", eight_bit()) <= 1


@pytest.mark.parametrize("name", ["a.tif", "a.pfm"])
def test_floats_are_refused_with_their_range(tmp_path: Path, name: str) -> None:
    values = np.linspace(-0.5, 1.5, 120, dtype=np.float32).reshape(10, 12)
    Image.fromarray(values).save(tmp_path / name)
    with pytest.raises(RefusedImage) as caught:
        decode_image(str(tmp_path / name))
    text = str(caught.value)
    assert f"{tmp_path / name} (mode F, values -0.5 to 1.5) is refused" in text
    assert "Image.fromarray(" in text and "\n" not in text


def test_32_bit_and_signed_integers_are_refused(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(RefusedImage, match=r"a\.tif \(mode I, values 0 to 65535\)"):
        decode_image(str(tmp_path / "a.tif"), fast=False, turn=True)
    tiff(tmp_path / "b.tif", RAMP.astype(np.int16), sample_format=2)
    with pytest.raises(RefusedImage, match=r"b\.tif \(mode I, values -32"):
        decode_image(str(tmp_path / "b.tif"))


def test_the_advice_of_a_refusal_works(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(RAMP.astype(np.float32) / 65535).save(path)
    with pytest.raises(RefusedImage) as caught:
        decode_image(str(path))
    line = str(caught.value).partition("in Python: ")[2]
    new = tmp_path / "a.png"
    exec(line, {"Image": Image, "np": np, "FILE": path, "NEW_FILE": new, "LOW": 0, "HIGH": 1})
    assert off_by(new, eight_bit()) <= 1


def test_a_refusal_survives_a_worker_process(tmp_path: Path) -> None:
    error = RefusedImage("x.tif", "mode F", decode.NO_SCALE)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.bmp"])
def test_one_limit_for_all_formats(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / name)
    Image.new("RGB", (30, 20)).save(path)
    monkeypatch.setenv("MSCN_MAX_IMAGE_PIXELS", "600")
    assert decode_image(path).size == (30, 20) and read_header(path).refused is None
    monkeypatch.setenv("MSCN_MAX_IMAGE_PIXELS", "599")
    for options in ({}, {"fast": False}, {"fast": False, "turn": True}):
        with pytest.raises(RefusedImage) as caught:
            decode_image(path, **options)
        text = str(caught.value)
        assert f"{path} (600 pixels)" in text and "more than 599" in text
        assert "$MSCN_MAX_IMAGE_PIXELS" in text
    assert "599" in read_header(path).refused[0]


def test_beyond_pillows_own_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow raises at twice its number; a larger limit of ours raises it, and no limit falls."""
    path = str(tmp_path / "a.png")
    Image.new("L", (30, 20)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(RefusedImage, match=r"a\.png \(600 pixels\)"):
        decode_image(path)
    assert read_header(path).refused is not None
    decode._limit.cache_clear()
    monkeypatch.setenv("MSCN_MAX_IMAGE_PIXELS", "601")
    assert decode_image(path).size == (30, 20) and read_header(path).refused is None


@pytest.mark.parametrize("text", ["many", "0", "-3", "1e9"])
def test_a_limit_that_is_not_a_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSCN_MAX_IMAGE_PIXELS", text)
    with pytest.raises(InputError, match="MSCN_MAX_IMAGE_PIXELS is .* not a number of pixels"):
        pixel_limit()


@pytest.mark.parametrize("progressive", [False, True])
def test_pixels_of_a_jpeg_are_known_before_it_is_decoded(tmp_path: Path, progressive: bool) -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 500
    Image.new("RGB", (300, 200)).save(tmp_path / "a.jpg", progressive=progressive, exif=exif)
    content = (tmp_path / "a.jpg").read_bytes()
    assert decode._jpeg_pixels(content) == 60_000
    assert decode._jpeg_pixels(content[:2] + b"\xff" + content[2:]) == 60_000  # a fill byte
    assert decode._jpeg_pixels(content[:100]) == decode._jpeg_pixels(b"\xff\xd8\xff") == 0


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "sixteen.png"])
def test_only_detection_turns_photographs(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(RAMP) if "sixteen" in name else Image.new("RGB", (12, 10))
    image.save(tmp_path / name, exif=exif)
    path = str(tmp_path / name)
    assert decode_image(path).size == (12, 10)
    assert decode_image(path, fast=False, turn=True).size == (10, 12)
    header = read_header(path)
    assert (header.width, header.height, header.turned) == (10, 12, True)
    assert header.stored_size == (12, 10)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once_by_all_readers(tmp_path: Path, orientation: int) -> None:
    """Pillow turns TIFF files when it decodes them, and knows that in `size` or does not."""
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = {
        **{1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1]},
        **{5: upright.T, 6: upright.T[::-1], 7: upright.T[::-1, ::-1], 8: upright.T[:, ::-1]},
    }[orientation]
    for number, values in enumerate((stored, stored.astype(np.uint16) * 257)):
        path = str(tmp_path / f"{number}.tif")
        Image.fromarray(np.ascontiguousarray(values)).save(path, tiffinfo={274: orientation})
        header = read_header(path)
        assert (header.width, header.height) == header.stored_size == (3, 2)
        for turn in (False, True):
            image = decode_image(path, fast=False, turn=turn)
            np.testing.assert_array_equal(np.asarray(image)[..., 0], upright)


def test_a_png_with_a_long_text_and_a_large_profile_is_read(tmp_path: Path) -> None:
    """As Photoshop writes them: Pillow by itself takes more than 1 MB for an attack."""
    info = PngInfo()
    info.add_text("XML:com.adobe.xmp", "x" * 3_000_000, zip=True)
    path = str(tmp_path / "a.png")
    Image.fromarray(eight_bit().astype(np.uint8)).save(
        path, pnginfo=info, icc_profile=bytes(3_000_000)
    )
    np.testing.assert_array_equal(np.asarray(decode_image(path)), eight_bit())
    assert read_header(path).stored_size == Image.open(path).size


@pytest.mark.parametrize(
    "content, what",
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>", "a page of markup"),
        (b"%PDF-1.7", "a PDF"),
        (bytes(128) + b"DICM", "DICOM"),
        (bytes(300), "a run of zeros"),
        (b"\0\0\0\x18ftyphevx\0\0\0\0", "HEIC"),
    ],
)
def test_what_is_there_in_place_of_a_picture(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(OSError, match=rf"a\.png cannot be read as an image \({what}"):
        decode_image(str(tmp_path / "a.png"))


def test_an_iphone_file_with_another_suffix_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x24ftypheic" + bytes(40))
    with pytest.raises(OSError, match=r"a\.jpg cannot be read as an image \(HEIC"):
        decode_image(str(tmp_path / "a.jpg"))


def test_a_tiff_that_pillow_does_not_know(tmp_path: Path) -> None:
    tiff(tmp_path / "a.tif", RAMP.astype(np.float64), bits=64, sample_format=3)
    with pytest.raises(OSError, match=r"a\.tif cannot be read as an image \(a TIFF of a kind"):
        decode_image(str(tmp_path / "a.tif"))


@pytest.mark.parametrize("mode, name", [("RGB", "a.jpg"), ("CMYK", "b.jpg"), ("L", "c.png")])
def test_pixels_equal_the_image(mode: str, name: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(tmp_path / name)
    expected = np.asarray(decode_image(str(tmp_path / name)))
    assert np.array_equal(decode_pixels(str(tmp_path / name)), expected)


def test_pixels_of_damaged_files_raise_as_the_image_does(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff broken")
    for read in (decode_image, decode_pixels):
        with pytest.raises(OSError, match="a.jpg"):
            read(str(tmp_path / "a.jpg"))


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    """Pillow's warning has no file name, and its advice is not for the user."""
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 40, 60])
    image.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    path = str(tmp_path / "a.png")
    code = "from pretrain.data.decode import decode_image; "
    code += f"print(decode_image({path!r}).getpixel((1, 1)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(200, 40, 60)\n", "")
