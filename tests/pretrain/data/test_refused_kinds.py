"""Images of refused kinds are found among many, by their headers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from pretrain.common.errors import InputError
from pretrain.data.refused_kinds import check_kinds


def save(folder: Path, names: str, dtype: type) -> list[str]:
    values = np.arange(12).reshape(3, 4).astype(dtype)
    for name in names.split():
        Image.fromarray(values).save(folder / name)
    return [str(folder / name) for name in names.split()]


def test_each_kind_is_counted_with_its_first_places(tmp_path: Path) -> None:
    good = save(tmp_path, "a.tif b.png c.tiff", np.uint16)
    bad = save(tmp_path, "f0.tif f1.tif f2.tif f3.tif f4.TIF", np.float32)
    with pytest.raises(InputError) as caught:
        check_kinds("folder:x", [*good, *bad])
    text = str(caught.value)
    assert text.startswith("folder:x: images of 32-bit integers or floats")
    assert f"(5, first: {bad[0]} (mode F, values 0 to 11)" in text and bad[3] not in text
    check_kinds("folder:x", good)


@pytest.mark.parametrize("largest, warned", [(4095, True), (4096, False), (65535, False)])
def test_nearly_black_images_of_16_bits(
    tmp_path: Path, largest: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    values = np.array([[0, largest]], np.uint16)
    paths = [str(tmp_path / f"{i:02}.png") for i in range(20)]
    for path in paths[:-1]:
        Image.fromarray(values).save(path)
    Image.fromarray(values.astype(np.uint8)).save(paths[-1])
    check_kinds("folder:x", paths)
    assert ("values of 12 bits or less" in caplog.text) == warned
    if warned:
        assert f"(8, first: {paths[0]} up to 4095" in caplog.text


def test_jpegs_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(tmp_path / name) for name in ("missing.jpg", "missing.bmp")]
    monkeypatch.setattr(Image, "open", None)
    check_kinds("folder:x", paths)


def test_sound_images_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = save(tmp_path, "a.tif b.tif", np.uint8)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    check_kinds("folder:x", paths)


def test_damaged_files_are_left_to_the_reader(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    check_kinds("folder:x", [str(tmp_path / "a.tif")])
