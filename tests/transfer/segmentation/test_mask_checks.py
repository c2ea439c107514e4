"""Masks that cannot be trained on or scored, and grey PNG files of fewer than 8 bits."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.common.errors import InputError
from transfer.datasets.numbered_pixels import read_mask
from transfer.segmentation import mask_checks
from transfer.segmentation.data import SemanticSet, open_sets, wrong_numbers
from transfer.segmentation.mask_checks import check_masks_of

Change = Callable[[Path, np.ndarray], object]


def save(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask).save(path)


def palette_colours(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask).convert("RGB").save(path)


def sixteen_bits(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask.astype(np.uint16)).save(path)


def link_to_nothing(path: Path, mask: np.ndarray) -> None:
    path.unlink()
    path.symlink_to("moved.png")


@pytest.fixture
def opened(make_semseg: Callable[..., Path], tmp_path: Path) -> SemanticSet:
    folder = make_semseg(tmp_path / "own")
    (folder / "classes.txt").write_text("\n".join(["background", *"0123456789"]))
    return open_sets([f"semseg:{folder}:train"])


@pytest.mark.parametrize(
    "change, message",
    [
        (palette_colours, "do not hold class numbers .2: .*_3.png has colours .RGB.*; save them"),
        (sixteen_bits, r"do not hold class numbers .2: .* more than 8 bits a pixel .I;16"),
        (link_to_nothing, "cannot be read .2: .*_3.png .*No such file"),
        (
            lambda path, mask: save(path, mask[1:]),
            "a different size from .* .2: .* has 128 x 103 pixels",
        ),
        (lambda path, mask: save(path, mask + (mask == 0) * np.uint8(99)), "has 99, the classes"),
        (lambda path, mask: path.write_bytes(path.read_bytes()[:60]), "cannot be read .2: "),
    ],
)
def test_all_masks_are_judged_at_once(opened: SemanticSet, change: Change, message: str) -> None:
    check_masks_of(opened)
    for sample in opened.samples[3:5]:
        change(Path(sample.mask_name), read_mask(sample.mask_name))
    with pytest.raises(InputError, match=f":train: .*{message}") as error:
        check_masks_of(opened)
    assert "\n" not in str(error.value)


def test_masks_without_a_class(opened: SemanticSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their loss would be no number, and there would be no score."""
    for sample in opened.samples:
        save(Path(sample.mask_name), np.full_like(read_mask(sample.mask_name), 255))
    with pytest.raises(InputError, match="6 masks were read, and no pixel has .* all are 255"):
        check_masks_of(opened)
    monkeypatch.setattr(mask_checks, "DECODED", 2)
    with pytest.raises(InputError, match="2 masks of 6 were read"):
        check_masks_of(opened)
    save(Path(opened.samples[-1].mask_name), np.zeros_like(read_mask(opened.samples[-1].mask_name)))
    check_masks_of(opened)


def write_grey(path: Path, numbers: np.ndarray, bits: int) -> None:
    """A grey PNG file with `bits` per pixel, written by the format's definition."""
    height, width = numbers.shape
    digits = (numbers[..., None] >> np.arange(bits)[::-1]) & 1
    rows = np.packbits(digits.reshape(height, -1).astype(np.uint8), axis=1)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    content = b"\x89PNG\r\n\x1a\n"
    for kind, part in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(kind + part))
        content += struct.pack(">I", len(part)) + kind + part + check
    path.write_bytes(content)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_numbers_of_few_bits_are_read_as_they_are(tmp_path: Path, bits: int) -> None:
    numbers = np.random.default_rng(bits).integers(0, 2**bits, (5, 9)).astype(np.uint8)
    write_grey(tmp_path / "m.png", numbers, bits)
    found = read_mask(str(tmp_path / "m.png"))
    assert found.dtype == np.uint8 and np.array_equal(found, numbers)


def test_wrong_numbers_are_those_outside_the_classes() -> None:
    rng = np.random.default_rng(0)
    for classes in (1, 7, 255):
        mask = rng.integers(0, 256, (9, 9)).astype(np.uint8)
        expected = np.setdiff1d(mask, np.r_[np.arange(classes), 255])
        assert wrong_numbers(mask, classes).tolist() == expected.tolist()
