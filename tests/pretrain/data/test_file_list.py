"""Paths in one piece of bytes: equal to a list of strings, in this process and in a loader's."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from pretrain.data.datasets import FolderImages, open_images
from pretrain.data.file_list import FileList, PackedPaths
from pretrain.data.folders import scan_folder

# The last is not UTF-8 on the disk, which Python shows as a lone surrogate.
PATHS = ["/a/b.jpg", "", "/ä/ö.jpg", "x" * 300, "/日本/一.png", os.fsdecode(b"/r\xe9sum\xe9.jpg")]


def test_equals_a_list() -> None:
    packed = PackedPaths(PATHS)
    assert list(packed) == PATHS and len(packed) == len(PATHS)
    for index in range(-len(PATHS), len(PATHS)):
        assert packed[index] == PATHS[index] == packed[np.int64(index)]
    for part in (slice(2), slice(1, 5, 2), slice(None, None, -1), slice(9, 12)):
        assert packed[part] == PATHS[part]
    for outside in (len(PATHS), -len(PATHS) - 1):
        with pytest.raises(IndexError):
            packed[outside]
    assert "/ä/ö.jpg" in packed and "/c.jpg" not in packed
    assert list(PackedPaths([])) == [] and not PackedPaths([])


def slow_scan(folder: Path) -> tuple[list[str], list[int], list[str]]:
    """Paths, labels and classes as lists, of class folders without hidden names."""
    classes = sorted(entry.name for entry in folder.iterdir())
    paths, labels = [], []
    for label, name in enumerate(classes):
        below = sorted(str(path) for path in (folder / name).rglob("*") if path.is_file())
        paths += below
        labels += [label] * len(below)
    return paths, labels, classes


def test_a_scan_equals_a_slow_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in rng.permutation(60):
        folder = tmp_path / f"n{number % 7}" / ("deep/er" if number % 3 else "")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{rng.integers(1000)}_{number}.JPEG").write_bytes(b"x")
    found = scan_folder(tmp_path)
    paths, labels, classes = slow_scan(tmp_path)
    assert list(found.paths) == paths and found.classes == classes
    assert found.labels.tolist() == labels and found.labels.dtype == np.int64


class Names(Dataset):
    """Item i is image i's name and label."""

    def __init__(self, images: FolderImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[str, int]:
        return self.images.name(index), int(self.images.labels[index])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loader_processes_see_the_same(classes_folder: Path, method: str) -> None:
    images = open_images(f"folder:{classes_folder}:train")
    loader = DataLoader(
        Names(images), batch_size=None, num_workers=2, multiprocessing_context=method
    )
    assert [tuple(item) for item in loader] == [Names(images)[index] for index in range(24)]


def test_what_is_sent_to_another_process_is_hardly_more_than_the_names() -> None:
    paths = [f"/data/imagenet/train/n{i % 9}/n{i % 9}_{i}.JPEG" for i in range(5000)]
    images = FolderImages(FileList.pack(paths, [i % 9 for i in range(5000)], list("abcdefghi")))
    sent = pickle.dumps(images)
    assert len(sent) < sum(map(len, paths)) + 2 * 8 * 5000 + 2000
    copy = pickle.loads(sent)
    assert list(copy.paths) == paths and (copy.labels == images.labels).all()
