"""Generated images in the official layouts of sets whose files are not only folders and texts.

torchvision compares checksums of CIFAR's and Flowers' files. Each writer returns those of the files
that it wrote, and `accept` makes them the official ones for a test.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

Pictures = Sequence[np.ndarray]  # (H, W, 3) uint8 each
Labelled = tuple[Pictures, list[int]]


def save(path: Path, pixels: np.ndarray) -> None:
    """The file has the suffix of the official one, but holds a PNG, which keeps every pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "PNG")


def write_cifar10(root: Path, train: Labelled, test: Labelled) -> dict[str, str]:
    """Five batches of training images and one of test images, in the order that is given."""
    parts = {f"data_batch_{n + 1}": _part(train, n, 5) for n in range(5)} | {"test_batch": test}
    files = {
        name: {"batch_label": name, "labels": labels, "data": _rows(pictures)}
        for name, (pictures, labels) in parts.items()
    }
    names = "airplane automobile bird cat deer dog frog horse ship truck".split()
    files["batches.meta"] = {"label_names": names, "num_cases_per_batch": 10000, "num_vis": 3072}
    return _pickled(root / "cifar-10-batches-py", files)


def write_cifar100(root: Path, train: Labelled, test: Labelled) -> dict[str, str]:
    """One file of training images and one of test images, each with fine and coarse labels."""
    files = {
        name: {"fine_labels": labels, "coarse_labels": [0] * len(labels), "data": _rows(pictures)}
        for name, (pictures, labels) in {"train": train, "test": test}.items()
    }
    fine = [f"fine_{number:02d}" for number in range(100)]
    files["meta"] = {"coarse_label_names": ["all"], "fine_label_names": fine}
    return _pickled(root / "cifar-100-python", files)


def write_flowers(
    root: Path, pictures: Pictures, labels: Sequence[int], splits: Mapping[str, Sequence[int]]
) -> dict[str, str]:
    """Image n is jpg/image_0000n.jpg, counted from 1, as are the labels in the files.

    Args:
        labels: counted from 0.
        splits: the numbers of the images of train, val and test, counted from 1.
    """
    folder = root / "flowers-102"
    for number, pixels in enumerate(pictures, start=1):
        save(folder / f"jpg/image_{number:05d}.jpg", pixels)
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels]) + 1})
    ids = {"train": "trnid", "val": "valid", "test": "tstid"}
    savemat(
        folder / "setid.mat", {ids[name]: np.array([list(rows)]) for name, rows in splits.items()}
    )
    return _sums(folder, ["imagelabels.mat", "setid.mat"])


def accept(patch: pytest.MonkeyPatch, reader: str, sums: Mapping[str, str]) -> None:
    """Makes these checksums the official ones of a class of torchvision.datasets."""
    from torchvision import datasets

    found = getattr(datasets, reader)
    if reader == "Flowers102":
        files = {"label": "imagelabels.mat", "setid": "setid.mat"}
        entries = {key: (name, sums[name]) for key, name in files.items()}
        patch.setattr(found, "_file_dict", {**found._file_dict, **entries})
        return
    for part in ("train_list", "test_list"):
        patch.setattr(found, part, [[name, sums[name]] for name, _ in getattr(found, part)])
    patch.setattr(found, "meta", {**found.meta, "md5": sums[found.meta["filename"]]})


def _part(data: Labelled, number: int, parts: int) -> Labelled:
    rows = np.array_split(np.arange(len(data[1])), parts)[number].tolist()
    return [data[0][row] for row in rows], [data[1][row] for row in rows]


def _rows(pictures: Pictures) -> np.ndarray:
    """(N, 3072) uint8: the 1,024 red values of an image, row by row, then the green and blue."""
    return np.stack([pixels.transpose(2, 0, 1).reshape(-1) for pixels in pictures])


def _pickled(folder: Path, files: Mapping[str, object]) -> dict[str, str]:
    folder.mkdir(parents=True)
    for name, content in files.items():
        held = io.BytesIO()
        pickle.dump(content, held, protocol=2)
        (folder / name).write_bytes(held.getvalue())
    return _sums(folder, list(files))


def _sums(folder: Path, names: Sequence[str]) -> dict[str, str]:
    return {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in names}
