"""What changes a fingerprint of images with labels, and what does not."""

from __future__ import annotations

import hashlib
import itertools
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.common.errors import InputError
from pretrain.data import fingerprint as module
from pretrain.data.datasets import ArrayImages, FolderImages, ImageDataset, open_images
from pretrain.data.file_list import FileList
from pretrain.data.fingerprint import (
    ClassLabels,
    Fingerprint,
    check_training_data,
    difference,
    fingerprint_of,
    mixed,
    read_fingerprint,
    relative,
)
from pretrain.data.origins import Files, Pixels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of each of three classes; the files of one number are equally long."""
    for kind, name in enumerate("abc"):
        (tmp_path / "root/set" / name).mkdir(parents=True)
        for number in range(3):
            image = Image.new("RGB", (4 + number, 5), (40 * kind, 9 * number, 7))
            image.save(tmp_path / "root/set" / name / f"{number}.bmp")
    return tmp_path / "root/set"


def of_folder(folder: Path) -> Fingerprint:
    return open_images(f"folder:{folder}").fingerprint


def exchange(one: Path, other: Path) -> None:
    one.rename(one.with_name("x"))
    other.rename(one)
    one.with_name("x").rename(other)


def by_definition(data: ImageDataset, root: Path) -> str:
    """The sha256 that the module's docstring describes, image by image."""
    rows = []
    for index, label in enumerate(data.labels.tolist()):
        path = Path(data.name(index))
        content = path.read_bytes()
        name = str(path.relative_to(root)).encode()
        own = hashlib.blake2b(content, digest_size=8).digest()
        rows.append((name, len(content), own, data.classes[label]))
    names, sizes, sums, labels = zip(*sorted(rows))
    used = sorted(set(labels))
    places = [used.index(label) for label in labels]

    def digest(*pieces: bytes) -> str:
        return hashlib.sha256(
            b"".join(len(p).to_bytes(8, "little") + p for p in pieces)
        ).hexdigest()

    def numbers(values: list[int] | tuple[int, ...]) -> bytes:
        return b"".join(value.to_bytes(8, "little") for value in values)

    parts = {
        "names": digest(b"\0".join(names)),
        "sizes": digest(numbers(sizes)),
        "content": digest(b"".join(sums)),
        "labels": digest("\0".join(used).encode(), numbers(places)),
    }
    return digest(json.dumps([1, len(rows), None, parts], sort_keys=True).encode())


def test_it_is_what_it_is_described_as(folder: Path) -> None:
    data = open_images(f"folder:{folder}")
    assert data.fingerprint.sha256 == by_definition(data, folder)
    assert (data.fingerprint.images, data.fingerprint.classes) == (9, 3)
    assert data.fingerprint.objects is None and data.fingerprint is data.fingerprint


def test_the_root_and_its_name_do_not_count(folder: Path, tmp_path: Path) -> None:
    before = of_folder(folder)
    shutil.copytree(folder, tmp_path / "elsewhere/other name")
    (tmp_path / "link").symlink_to(folder)
    assert of_folder(tmp_path / "elsewhere/other name") == before == of_folder(tmp_path / "link")


def test_the_order_and_unused_classes_do_not_count(folder: Path) -> None:
    whole = open_images(f"folder:{folder}")
    shuffled = np.random.default_rng(0).permutation(len(whole)).tolist()
    assert whole.subset(shuffled).fingerprint == whole.fingerprint
    files, order = list(whole.files()), [2, 0, 1, 3]
    names = ["zebra", *whole.classes]
    renumbered = FileList.pack(files, (whole.labels + 1).tolist(), names)
    assert FolderImages(renumbered).fingerprint.sha256 == whole.fingerprint.sha256
    mapped = [order.index(label + 1) for label in whole.labels.tolist()]
    moved = FileList.pack(files, mapped, [names[place] for place in order])
    assert FolderImages(moved).fingerprint.sha256 == whole.fingerprint.sha256


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda f: exchange(f / "a", f / "b"), "but different content: the content of the files"),
        (lambda f: (f / "a/0.bmp").unlink(), "9 images then, 8 images now"),
        (lambda f: (f / "a/0.bmp").rename(f / "a/9.bmp"), "content: the names of the files differ"),
        (
            lambda f: Image.new("RGB", (9, 9)).save(f / "b/1.bmp"),
            "9 images then and now, but different content:"
            " the sizes of the files and the content of the files differ",
        ),
        (lambda f: (f / "a").rename(f / "A"), "content: the names of the files differ"),
        (lambda f: (f / "a/0.bmp").rename(f / "c/0b.bmp"), "the names of the files"),
    ],
)
def test_what_changes_the_data_changes_it(
    folder: Path, change: Callable[[Path], object], told: str
) -> None:
    before = of_folder(folder)
    change(folder)
    assert told in difference(before, of_folder(folder))


def test_a_list_counts_by_its_images(folder: Path) -> None:
    whole = open_images(f"folder:{folder}")
    assert whole.subset([0, 4]).fingerprint == whole.subset([4, 0]).fingerprint
    assert whole.subset([0, 4]).fingerprint != whole.subset([0, 5]).fingerprint


def test_flat_folders_and_several_labels(folder: Path) -> None:
    flat = open_images(f"folder:{folder / 'a'}")
    assert flat.fingerprint.classes == 0 and flat.fingerprint.images == 3
    files = Files(list(flat.files()))
    labels = np.array([[1, 0], [-1, 1], [0, 0]])
    found = fingerprint_of(files, ClassLabels(labels, ["a", "b"])).sha256
    turned = fingerprint_of(files, ClassLabels(labels[:, ::-1], ["b", "a"])).sha256
    assert found == turned != fingerprint_of(files, ClassLabels(labels, ["b", "a"])).sha256


def test_images_in_memory() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    names = [f"image {index}" for index in range(4)]

    def found(values: np.ndarray) -> str:
        return ArrayImages(values, [0, 0, 1, 1], ["a", "b"], names).fingerprint.sha256

    other = pixels.copy()
    other[2, 0, 0, 0] ^= 1
    assert found(pixels) == found(pixels.copy()) != found(other)


def test_of_very_many_images_some_sizes_are_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = of_folder(folder)
    monkeypatch.setattr(module, "ALL_SIZES", 5)
    monkeypatch.setattr(module, "SOME_SIZES", 3)
    monkeypatch.setattr(module, "READ", 2)
    data = open_images(f"folder:{folder}")
    asked: list[int] = []
    monkeypatch.setattr(
        Files, "stamps", lambda self, rows: asked.extend(rows.tolist()) or np.zeros((len(rows), 2))
    )
    assert data.fingerprint.sha256 != before.sha256 and asked == [0, 4, 8]


def test_images_of_one_name_are_told_apart_whatever_their_order() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 2, 2, 3), dtype=np.uint8)

    def found(order: list[int], labels: list[int]) -> str:
        chosen = [labels[place] for place in order]
        return ArrayImages(pixels[order], chosen, ["a", "b"], ["x"] * 3).fingerprint.sha256

    assert found([0, 1, 2], [0, 1, 0]) == found([2, 1, 0], [0, 1, 0]) == found([1, 2, 0], [0, 1, 0])
    assert found([0, 1, 2], [0, 1, 0]) != found([0, 1, 2], [1, 0, 0])


@pytest.mark.parametrize("labels", [[0, 1, 0], [[0, 1], [1, 1], [0, -1]]])
def test_copies_of_one_image_are_told_apart_by_their_labels(labels: list) -> None:
    copies = Pixels(np.zeros((3, 2, 2, 3), np.uint8), ["x"] * 3)
    given = np.array(labels)

    def found(rows: np.ndarray) -> str:
        return fingerprint_of(copies, ClassLabels(rows, ["a", "b"])).sha256

    orders = itertools.permutations(range(3))
    assert {found(given[list(order)]) for order in orders} == {found(given)}
    assert found(given) != found(np.zeros_like(given))


def test_names_are_relative_to_the_deepest_folder_of_all() -> None:
    assert relative([b"/r/a/1", b"/r/b/1"]) == [b"a/1", b"b/1"]
    assert relative([b"/r/a/10", b"/r/a/1", b"/r/a/11"]) == [b"10", b"1", b"11"]
    assert relative([b"/r/a/1"]) == [b"1"] and relative([]) == []
    assert relative([b"/r/ab/1", b"/r/a/1"]) == [b"ab/1", b"a/1"]


def test_it_is_kept_and_read_back(folder: Path) -> None:
    found = of_folder(folder)
    assert read_fingerprint(json.loads(json.dumps(found.to_dict()))) == found
    of_record = read_fingerprint(found.facts())
    assert of_record is not None and not of_record.parts and difference(of_record, found) == ""
    assert read_fingerprint({**found.to_dict(), "format": 99}) is None
    for broken in (None, [], {}, {"images": "9", "fingerprint": "a"}, {"images": 9}):
        assert read_fingerprint(broken) is None
    boxes = Fingerprint(3, 7, 2, "ab", {"boxes": "cd"})
    assert (
        read_fingerprint(boxes.to_dict()) == boxes and boxes.counts() == "3 images with 7 objects"
    )
    damaged = read_fingerprint({**boxes.to_dict(), "objects": "7", "classes": [2]})
    assert damaged == Fingerprint(3, None, 0, "ab", {"boxes": "cd"})


def test_a_checkpoint_continues_only_on_its_data(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now, path = of_folder(folder), tmp_path / "model.pth"
    check_training_data(path, now.to_dict(), now)
    (folder / "a/0.bmp").unlink()
    with pytest.raises(InputError, match=r"model.pth .*\(9 images then, 8 images now\)"):
        check_training_data(path, now.to_dict(), of_folder(folder))
    assert not caplog.messages
    check_training_data(path, None, now)
    (warning,) = caplog.messages
    assert f"{path} does not say which data it was trained on" in warning


def test_a_file_is_asked_once_and_one_that_is_gone_is_no_error(folder: Path) -> None:
    files = Files([str(folder / "a/0.bmp"), str(folder / "gone.bmp")])
    rows = np.arange(2)
    first = files.stamps(rows)
    assert first[1].tolist() == [-1, -1] and files.checksums(rows)[1] == -1
    (folder / "a/0.bmp").write_bytes(b"other")
    assert (files.stamps(rows) == first).all()
    assert pickle.loads(pickle.dumps(files)).stamps(rows)[0, 0] == 5


def test_rows_are_mixed_as_integers_of_64_bits() -> None:
    """The numbers order images of one name, so a stored fingerprint depends on them."""
    columns = np.random.default_rng(0).integers(0, 2**64, (20, 3), np.uint64)
    for row, found in zip(columns.tolist(), mixed(columns).tolist()):
        expected = 0x9E3779B97F4A7C15
        for value in row:
            expected = (expected ^ value) * 0xBF58476D1CE4E5B9 % 2**64
            expected ^= expected >> 29
        assert found == expected
