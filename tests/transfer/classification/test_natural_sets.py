"""natural_*.yaml from generated files in the official layout to the record, as a user runs them.

The reference knows the images and labels from their generator, passes each image through the
network by itself, fits scikit-learn's classifiers, and computes each metric by its definition.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pretrain.data.datasets import open_images
from tests.pretrain.data.official_layouts import (
    accept,
    save,
    write_cifar10,
    write_cifar100,
    write_flowers,
)
from tests.transfer.classification.slow_features import features
from tools.train_cls import main
from transfer.classification.rates import split_holdout
from transfer.datasets.voc import VOC_CLASSES
from transfer.results.record import read_record

SIDE, PENALTIES = 40, (1.0, 100.0)
WORDS = (
    "BACKBONE.NAME tiny_resnet DATALOADER.NUM_WORKERS 0 DATALOADER.BATCH_SIZE 64 REPLICATES 10 "
    f"QUALITY.IMAGES 0 PROTOCOL.RESIZE {SIDE} PROTOCOL.IMAGE_SIZE {SIDE} LOGISTIC.LEAST 1.0 "
    "LOGISTIC.MOST 100.0 LOGISTIC.STEPS 2"
).split()


class Known(NamedTuple):
    """What the generator knows: pictures and labels of training and test images.

    Attributes:
        labels, test_labels: (N,); for VOC (N, C), 1 present, 0 absent, -1 does not count.
        held: the rows of the validation images.
    """

    pictures: Sequence[np.ndarray]
    labels: np.ndarray
    test_pictures: Sequence[np.ndarray]
    test_labels: np.ndarray
    held: Sequence[int]


def draw(labels: np.ndarray, classes: int, seed: int, size: tuple[int, int]) -> list[np.ndarray]:
    """A picture of (width, height) per label: its class' colour below noise that hides much of it.

    Of labels (N, C) the colours of the present classes are mixed.
    """
    rng = np.random.default_rng(seed)
    colours = np.random.default_rng(0).uniform(80, 180, (classes, 2, 1, 3))  # above and below
    one_hot = np.eye(classes)[labels] if labels.ndim == 1 else np.abs(labels)
    width, height = size
    pictures = []
    for row in one_hot:
        colour = np.tensordot(row / row.sum(), colours, axes=1).repeat(height // 2, axis=0)
        noise = rng.normal(0, 40, (height, width, 3)) + rng.normal(0, 30, (1, 1, 3))
        pictures.append((colour + noise).clip(0, 255).astype(np.uint8))
    return pictures


def held_out(labels: np.ndarray, share: float) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    return sorted(split_holdout(torch.from_numpy(labels), share, generator)[1].tolist())


def cifar(root: Path, patch: pytest.MonkeyPatch, classes: int, each: tuple[int, int]) -> Known:
    rng = np.random.default_rng(1)
    labels, test = (rng.permutation(np.arange(classes).repeat(count)) for count in each)
    pictures = draw(labels, classes, 2, (32, 32)), draw(test, classes, 3, (32, 32))
    write = write_cifar10 if classes == 10 else write_cifar100
    sums = write(root, (pictures[0], labels.tolist()), (pictures[1], test.tolist()))
    accept(patch, f"CIFAR{classes}", sums)
    return Known(pictures[0], labels, pictures[1], test, held_out(labels, 0.1))


def flowers(root: Path, patch: pytest.MonkeyPatch) -> Known:
    """The images of all splits and classes are mixed, and classes differ in their test images."""
    rng = np.random.default_rng(4)
    counts = {"train": [2] * 102, "val": [1] * 102, "test": [1 + c % 3 for c in range(102)]}
    labels = np.concatenate([np.arange(102).repeat(each) for each in counts.values()])
    places = rng.permutation(len(labels))  # of the image on the disk, for each in split order
    pictures = draw(labels, 102, 5, (44, 48))
    on_disk = np.argsort(places)
    ends = np.cumsum([0, 204, 102, 204])
    splits = {name: (places[ends[n] : ends[n + 1]] + 1).tolist() for n, name in enumerate(counts)}
    disk_pictures = [pictures[row] for row in on_disk]
    sums = write_flowers(root, disk_pictures, labels[on_disk].tolist(), splits)
    accept(patch, "Flowers102", sums)
    return Known(pictures[:306], labels[:306], pictures[306:], labels[306:], range(204, 306))


def caltech(root: Path, patch: pytest.MonkeyPatch) -> Known:
    """31 to 45 images of a class; which of them are drawn is asked, each is then looked up."""
    names = "BACKGROUND_Google Faces Faces_easy accordion airplanes anchor ant yin_yang".split()
    labels = np.arange(8).repeat([31, 45, 33, 36, 40, 33, 50, 35])
    pictures, known = draw(labels, 8, 6, (48, 44)), {}
    for number, (label, pixels) in enumerate(zip(labels.tolist(), pictures)):
        path = root / f"caltech101/101_ObjectCategories/{names[label]}/image_{number:04d}.jpg"
        save(path, pixels)
        known[str(path)] = number
    rows = {}
    for split in ("val", "trainval", "test"):
        data = open_images(f"caltech101:{split}")
        rows[split] = [known[data.name(index)] for index in range(len(data))]
    held = [place for place, row in enumerate(rows["trainval"]) if row in set(rows["val"])]
    train, test = rows["trainval"], rows["test"]
    assert np.bincount(labels[train]).tolist() == [30] * 8 and not set(train) & set(test)
    assert np.bincount(labels[train][held]).tolist() == [5] * 8
    assert np.bincount(labels[test]).tolist() == [1, 15, 3, 6, 10, 3, 20, 5], "all others"
    first, second = ([pictures[row] for row in part] for part in (train, test))
    return Known(first, labels[train], second, labels[test], held)


def birdsnap(root: Path, patch: pytest.MonkeyPatch) -> Known:
    parts = []
    for split, count, seed in (("train", 12, 7), ("test", 5, 8)):
        labels = np.arange(6).repeat(count)
        pictures = draw(labels, 6, seed, (48, 44))
        for number, (label, pixels) in enumerate(zip(labels.tolist(), pictures)):
            save(root / f"birdsnap/{split}/{'FEDCBA'[5 - label]}_Bird/{number:04d}.jpg", pixels)
        parts.append((pictures, labels))
    return Known(*parts[0], *parts[1], held_out(parts[0][1], 0.1))


def birdsnap_lists(root: Path, patch: pytest.MonkeyPatch) -> Known:
    """The official lists, which mix species and splits, and name images whose links are dead."""
    folder, rng = root / "birdsnap", np.random.default_rng(12)
    labels = np.arange(6).repeat(20)
    pictures, names = draw(labels, 6, 7, (48, 44)), []
    for number, (label, pixels) in enumerate(zip(labels.tolist(), pictures)):
        names.append(f"{'ABCDEF'[label]}_Bird/{number:04d}.jpg")
        if number % 10:
            save(folder / "download/images" / names[-1], pixels)
    order = rng.permutation(120).tolist()
    held = sorted(rng.permutation(120)[:35].tolist())
    rows = [f"http://x/{n}\t0f\t{names[n]}\t{labels[n] + 1}\t3" for n in order]
    (folder / "images.txt").write_text("\n".join(["url\tmd5\tpath\tspecies_id\tbb_x1", *rows]))
    (folder / "test_images.txt").write_text("\n".join(["path", *(names[n] for n in held)]) + "\n")
    train = [n for n in order if n not in held and n % 10]
    test = [n for n in order if n in held and n % 10]
    first, second = ([pictures[n] for n in part] for part in (train, test))
    return Known(first, labels[train], second, labels[test], held_out(labels[train], 0.1))


def voc(root: Path, patch: pytest.MonkeyPatch) -> Known:
    """One to three classes in an image; a sixth of the further ones has difficult objects only.

    The reference takes the labels from the lists of the classes, the protocol from the objects.
    """
    rng, folder = np.random.default_rng(9), root / "VOC2007"
    counts = {"train": 80, "val": 60, "test": 90}
    found: dict[str, tuple[list[str], list[np.ndarray], np.ndarray]] = {}
    for number, (split, count) in enumerate(counts.items()):
        lists = np.full((count, 20), -1)  # 1 present, 0 difficult, -1 absent, as in the lists
        for row in range(count):
            lists[row, rng.choice(20, rng.integers(1, 3), replace=False)] = rng.choice([1, 1, 0])
            lists[row, row % 20] = 1
        targets = np.select([lists == 1, lists == 0], [1, -1], 0)
        names = [f"{number}{row:05d}" for row in rng.permutation(count)]
        pictures = draw(targets, 20, 10 + number, (48, 44))
        for name, row, pixels in zip(names, lists, pictures):
            save(folder / f"JPEGImages/{name}.jpg", pixels)
            write_annotation(folder / f"Annotations/{name}.xml", row)
        found[split] = names, pictures, lists
    found["trainval"] = (
        found["train"][0] + found["val"][0],
        found["train"][1] + found["val"][1],
        np.concatenate([found["train"][2], found["val"][2]]),
    )
    main_lists = folder / "ImageSets/Main"
    main_lists.mkdir(parents=True)
    for split, (names, _, lists) in found.items():
        (main_lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for label, kind in enumerate(VOC_CLASSES):
            lines = [f"{name} {value:2d}\n" for name, value in zip(names, lists[:, label])]
            (main_lists / f"{kind}_{split}.txt").write_text("".join(lines))
    labels = {split: of_lists(main_lists, split) for split in ("trainval", "test")}
    pictures = found["trainval"][1], found["test"][1]
    return Known(pictures[0], labels["trainval"], pictures[1], labels["test"], range(80, 140))


def write_annotation(path: Path, row: np.ndarray) -> None:
    """A present class has a clear object, and every third one has a difficult one as well."""
    objects = []
    for label in np.flatnonzero(row >= 0).tolist():
        clear = [0] * int(row[label]) + [1] * int(row[label] == 0 or label % 3 == 0)
        objects += [(VOC_CLASSES[label], difficult) for difficult in clear]
    text = "".join(
        f"<object><name>{name}</name><pose>Left</pose><truncated>0</truncated><difficult>"
        f"{difficult}</difficult><bndbox><xmin>3</xmin><ymin>2</ymin><xmax>30</xmax>"
        "<ymax>40</ymax></bndbox></object>"
        for name, difficult in objects
    )
    size = "<size><width>48</width><height>44</height><depth>3</depth></size>"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation><filename>{path.stem}.jpg</filename>{size}{text}</annotation>")


def of_lists(folder: Path, split: str) -> np.ndarray:
    columns = []
    for kind in VOC_CLASSES:
        lines = (folder / f"{kind}_{split}.txt").read_text().splitlines()
        columns.append([{1: 1, 0: -1, -1: 0}[int(line.split()[1])] for line in lines])
    return np.array(columns).T


def fitted_scores(
    values: np.ndarray, labels: np.ndarray, penalty: float, queries: np.ndarray
) -> np.ndarray:
    """Of one multinomial classifier, or of a binary one for each class of labels (N, C)."""
    if labels.ndim == 1:
        model = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=20000)
        scores = model.fit(values, labels).decision_function(queries)
        return np.asarray(scores)
    columns = []
    for column in labels.T:
        model = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=20000)
        counts = column >= 0
        columns.append(model.fit(values[counts], column[counts]).decision_function(queries))
    return np.stack(columns, axis=1)


def top1(scores: np.ndarray, labels: np.ndarray) -> float:
    return 100 * sum(int(row.argmax() == label) for row, label in zip(scores, labels)) / len(labels)


def mean_per_class(scores: np.ndarray, labels: np.ndarray) -> float:
    of_class = [top1(scores[labels == c], labels[labels == c]) for c in sorted(set(labels))]
    return sum(of_class) / len(of_class)


def eleven_points(scores: np.ndarray, labels: np.ndarray) -> float:
    """VOC2007's devkit: at each recall of 0, 0.1, ..., 1 the best precision at this or more.

    The levels are the float numbers of Detectron2's voc_eval, of which three are a little above
    0.3, 0.6 and 0.7: a class of ten images has a recall of 0.3 that is below the level.
    """
    found = []
    for column, wanted in zip(scores.T, labels.T):
        order = [row for row in np.argsort(-column) if wanted[row] != -1]
        right = np.cumsum([wanted[row] == 1 for row in order])
        precision, recall = right / np.arange(1, len(right) + 1), right / right[-1]
        best = [max(precision[recall >= level]) for level in np.arange(0.0, 1.1, 0.1)]
        found.append(100 * sum(best) / 11)
    return sum(found) / len(found)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "top1": top1,
    "mean_per_class": mean_per_class,
    "mAP_11point": eleven_points,
}


class Case(NamedTuple):
    """A config, the writer of its data, its metric, and the name of its test set."""

    config: str
    write: Callable[[Path, pytest.MonkeyPatch], Known]
    metric: str
    test: str
    words: Sequence[str] = ()


BY_LISTS = "DATASETS.TRAIN birdsnap:train DATASETS.TEST birdsnap:test".split()
CASES = [
    Case("cifar10", lambda root, patch: cifar(root, patch, 10, (20, 12)), "top1", "cifar10:test"),
    Case("cifar100", lambda root, patch: cifar(root, patch, 100, (5, 2)), "top1", "cifar100:test"),
    Case("voc2007", voc, "mAP_11point", "voc_2007_test"),
    Case("flowers102", flowers, "mean_per_class", "flowers102:test"),
    Case("caltech101", caltech, "mean_per_class", "caltech101:test"),
    Case("birdsnap", birdsnap, "top1", "folder:birdsnap:test"),
    Case("birdsnap", birdsnap_lists, "top1", "birdsnap:test", BY_LISTS),
]


@pytest.mark.parametrize("case", CASES, ids=[case.test for case in CASES])
def test_a_set_from_its_files_to_its_record(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "sets"))
    metric = case.metric
    known = case.write(tmp_path / "sets", monkeypatch)
    command = ["--config", f"natural_{case.config}.yaml", "--weights", "random"]
    assert main([*command, "--output", str(tmp_path / "out"), *WORDS, *case.words]) == 0
    record: dict[str, Any] = read_record(tmp_path / "out/trial_0/record.json")
    notes = json.loads((tmp_path / "out/trial_0/selection.json").read_text())

    measure, held = METRICS[metric], np.array(known.held)
    kept = np.setdiff1d(np.arange(len(known.labels)), held)
    values, queries = features(known.pictures, SIDE), features(known.test_pictures, SIDE)
    judged = {
        penalty: measure(
            fitted_scores(values[kept], known.labels[kept], penalty, values[held]),
            known.labels[held],
        )
        for penalty in PENALTIES
    }
    assert list(notes[f"validation_{metric}"].values()) == pytest.approx(list(judged.values()))
    best = max(judged, key=lambda penalty: (judged[penalty], penalty))
    assert notes["penalty"] == pytest.approx(best) and not notes["not_converged"]
    wanted = measure(fitted_scores(values, known.labels, best, queries), known.test_labels)
    assert record["metrics"] == {metric: pytest.approx(wanted)}
    chance = 100 / known.labels.max() if known.labels.ndim == 1 else 20
    assert chance < wanted < 95, "a set that is neither too easy nor hopeless"
    counts = record["data"]["train"]["images"], record["data"]["test"]["images"]
    assert counts == (len(known.labels), len(known.test_labels))
    assert record["dataset"] == case.test
