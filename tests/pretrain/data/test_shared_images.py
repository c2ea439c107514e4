"""Test images that are also training images are found, whatever their names are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pretrain.data import shared_images as module
from pretrain.data.origins import Files, Origin, Part, Pixels
from pretrain.data.shared_images import SharedImages, find_shared


def write(folder: Path, contents: dict[str, bytes]) -> Files:
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return Files([str(folder / name) for name in contents])


def by_hand(train: Files, test: Files) -> int:
    known = {Path(name.decode()).read_bytes() for name in train.names()}
    return sum(Path(name.decode()).read_bytes() in known for name in test.names())


def test_files_are_compared_by_content(tmp_path: Path) -> None:
    long = b"x" * 2**15
    train = write(tmp_path / "train", {"a": b"one", "b": b"two", "c": long + b"1", "d": b"four"})
    test = write(
        tmp_path / "test",
        {"new": b"six", "z": b"two", "equal beginning": long + b"2", "c": long + b"1", "y": b"two"},
    )
    found = find_shared(train, test)
    assert found is not None and found.count == by_hand(train, test) == 3
    folder = str(tmp_path)
    assert found.first == (
        (f"{folder}/test/z", f"{folder}/train/b"),
        (f"{folder}/test/c", f"{folder}/train/c"),
    )
    text = found.text("folder:t", "folder:v")
    assert text.startswith(
        f"3 of the 5 images of folder:v are also in folder:t (equal content, first: "
        f"{folder}/test/z is {folder}/train/b, {folder}/test/c is"
    )
    none = find_shared(train, Part(test, [0, 2]))
    assert none == SharedImages(0, 2)
    assert none.text("t", "v") == "no image of v is in t"


def test_random_files_against_a_slow_search(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sets = [
        write(tmp_path / name, {str(i): rng.bytes(rng.integers(1, 3)) for i in range(300)})
        for name in ("train", "test")
    ]
    found = find_shared(*sets)
    assert found is not None and found.count == by_hand(*sets) > 10


def test_files_that_are_gone_are_not_equal(tmp_path: Path) -> None:
    gone = Files([str(tmp_path / name) for name in "ab"])
    found = find_shared(gone, gone)
    assert found is not None and found.count == 0


def test_pixels_are_compared_with_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    train = Pixels(pixels[:3], ["a", "b", "c"])
    found = find_shared(train, Part(Pixels(pixels, list("vwxyz")), [4, 2]))
    assert found == SharedImages(1, 2, (("x", "c"),))
    assert find_shared(train, Files(["v"])) == SharedImages(0, 1)


def test_many_images_are_compared_if_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data: list[Origin] = [write(tmp_path / name, {"a": b"1", "b": b"2"}) for name in ("x", "y")]
    for limit, value in (("MOST_IMAGES", 3), ("MOST_READ", 3)):
        with monkeypatch.context() as patch:
            patch.setattr(module, limit, value)
            assert find_shared(*data) is None
            thorough = find_shared(*data, thorough=True)
            assert thorough is not None and thorough.count == 2
