"""Decoded images in memory: kept if they have one size and fit; otherwise files are read and a line
says so.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.common.errors import InputError
from pretrain.data import decoded_cache as decoded
from pretrain.data.crops import CropSpec
from pretrain.data.datasets import ArrayImages, FolderImages, open_images
from pretrain.data.decoded_cache import copies, decoded_in_memory, keep_decoded, why_not_kept
from pretrain.data.loader import CropLoader


def write(folder: Path, sizes: list[tuple[int, int]]) -> FolderImages:
    """Noise of these (width, height), as photo_000.png and so on in one flat folder."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for number, (width, height) in enumerate(sizes):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photo_{number:03}.png")
    return open_images(f"folder:{folder}")


def batches(images: FolderImages, cache: bool) -> list[torch.Tensor]:
    specs = [CropSpec(16, (0.2, 1.0), (0.75, 1.33), "bilinear")] * 2
    loader = CropLoader(images, crops=specs, batch_size=4, cache_decoded=cache)
    return [crop for batch in loader.epoch(0) for crop in batch.crops]


def test_equal_sizes_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = write(tmp_path, [(24, 20)] * 4)
    (tmp_path / "photo_001.png").write_bytes(b"")
    with caplog.at_level(logging.INFO):
        kept = keep_decoded(files)
    assert isinstance(kept, ArrayImages) and kept.pixels.shape == (4, 20, 24, 3)
    assert (kept.labels == files.labels).all() and kept.classes == files.classes
    assert np.array_equal(np.asarray(kept.read(3)), np.asarray(files.read(3)))
    assert kept.name(3) == files.name(3)
    with pytest.raises(OSError, match="photo_001.png"):
        kept.read(1)
    assert not caplog.records


@pytest.mark.parametrize("sizes", [[(24, 20), (20, 24)], [(24, 20)] * 7 + [(25, 20)]])
def test_other_sizes_are_read_from_files(
    tmp_path: Path, sizes: list[tuple[int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    files = write(tmp_path, sizes)
    with caplog.at_level(logging.INFO):
        assert keep_decoded(files) is files
    (record,) = caplog.records
    text, last = record.getMessage(), len(sizes) - 1
    assert text.startswith("DATALOADER.CACHE_DECODED is not used, images are read from files")
    width, height = sizes[-1]
    assert f"photo_{last:03}.png has {width}x{height} px" in text
    assert "photo_000.png 24x20 px" in text


def test_the_numbers_are_the_same_either_way(tmp_path: Path) -> None:
    """A loader asked to keep photographs of several sizes gives what one that reads files gives."""
    files = write(tmp_path, [(24, 20), (40, 30), (30, 40), (24, 20)])
    asked, plain = batches(files, cache=True), batches(files, cache=False)
    assert len(asked) == 2 and all(map(torch.equal, asked, plain))


def test_what_does_not_fit_is_read_from_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = write(tmp_path, [(24, 20)] * 5)
    size = 5 * 24 * 20 * 3  # bytes
    monkeypatch.setattr(decoded, "available_memory", lambda: 2 * size)
    assert why_not_kept(files) == "" and isinstance(keep_decoded(files), ArrayImages)
    monkeypatch.setattr(decoded, "available_memory", lambda: 2 * size - 1)
    with caplog.at_level(logging.INFO):
        assert keep_decoded(files) is files
    assert "5 images of 24x20 px take" in caplog.text and "more than 50%" in caplog.text
    # Two processes on one machine hold two copies.
    monkeypatch.setattr(decoded, "available_memory", lambda: 3 * size)
    assert why_not_kept(files, copies=1) == "" and "in 2 copies" in why_not_kept(files, copies=2)
    monkeypatch.setattr(decoded, "available_memory", lambda: None)
    assert why_not_kept(files, copies=100) == ""


def test_too_large_is_said_without_opening_every_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write(tmp_path, [(24, 20)] * 3)
    opened: list[int] = []
    size = files.size
    monkeypatch.setattr(files, "size", lambda index: (opened.append(index), size(index))[1])
    monkeypatch.setattr(decoded, "available_memory", lambda: 100)
    assert "take" in why_not_kept(files) and opened == [0]


def test_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded.multiprocessing, "get_start_method", lambda allow_none: "fork")
    assert copies(num_workers=8) == 1 and copies(num_workers=8, processes=4) == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert copies(num_workers=8) == 2
    monkeypatch.setattr(decoded.multiprocessing, "get_start_method", lambda allow_none: "spawn")
    assert copies(num_workers=8, processes=1) == 9


def test_sizes_are_those_of_the_pixels(tmp_path: Path) -> None:
    """Also for a part of a set, and for a photograph that its EXIF data turn: it is not turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)
    Image.new("L", (9, 7)).save(tmp_path / "b.png")
    files = open_images(f"folder:{tmp_path}")
    assert [files.size(index) for index in (0, 1)] == [(30, 20), (9, 7)]
    assert [files.read(index).size for index in (0, 1)] == [(30, 20), (9, 7)]
    assert files.subset([1]).size(0) == (9, 7)
    (tmp_path / "b.png").write_bytes(b"text")
    with pytest.raises(OSError, match="b.png"):
        files.size(1)


def test_no_image_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="no image can be read.*a.jpg"):
        decoded_in_memory(open_images(f"folder:{tmp_path}"))
