"""Two detectors on the same images: how much they disagree, and what is drawn."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from transfer.datasets.box_checks import iou
from transfer.report.figures.boxes import box_figure
from transfer.report.from_records import build_results
from transfer.report.page.artifacts import Artifacts
from transfer.report.page.gallery import Gallery, collect_galleries, disagreement, hits
from transfer.results.read_records import read_records

CAT = [10.0, 10.0, 50.0, 50.0]


def _random_boxes(generator: np.random.Generator, count: int) -> list[list[float]]:
    corners, sizes = generator.uniform(0, 60, (count, 2)), generator.uniform(20, 60, (count, 2))
    scores, classes = generator.uniform(0.05, 1, count), generator.integers(0, 2, count)
    rows = np.concatenate([corners, corners + sizes], axis=1).tolist()
    return [[*row, float(s), int(c)] for row, s, c in zip(rows, scores, classes)]


def test_iou_against_torchvision() -> None:
    boxes = _random_boxes(np.random.default_rng(0), 12)
    expected = box_iou(*[torch.tensor([box[:4] for box in boxes], dtype=torch.float64)] * 2)
    found = [[iou(a, b) for b in boxes] for a in boxes]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-12)


def test_disagreement_by_hand() -> None:
    one = [[*CAT, 0.9, 0], [0, 0, 5, 5, 0.4, 1]]
    assert disagreement(one, one) == 0 and disagreement([], []) == 0
    assert disagreement(one, []) == pytest.approx(1.3)
    moved = [[12.0, 10.0, 52.0, 50.0, 0.7, 0]]  # IoU 38 / 42
    assert disagreement(one, moved) == pytest.approx(0.2 + 0.4)
    other_class = [[*CAT, 0.9, 1]]
    assert disagreement(one[:1], other_class) == pytest.approx(1.8)
    far = [[40.0, 10.0, 80.0, 50.0, 0.9, 0]]  # IoU 10 / 70
    assert disagreement(one[:1], far) == pytest.approx(1.8)


@pytest.mark.parametrize("seed", range(5))
def test_disagreement_of_random_boxes(seed: int) -> None:
    """Symmetric, at most all scores, and the greedy pairs of a slow loop."""
    generator = np.random.default_rng(seed)
    one, two = _random_boxes(generator, 6), _random_boxes(generator, 5)
    found = disagreement(one, two)
    assert found == pytest.approx(disagreement(two, one))
    left, right, total = list(one), list(two), 0.0
    while True:
        pairs = [(iou(a, b), a, b) for a, b in itertools.product(left, right) if a[5] == b[5]]
        best = max(pairs, default=(0, None, None), key=lambda pair: pair[0])
        if best[0] < 0.5:
            break
        left.remove(best[1])
        right.remove(best[2])
        total += abs(best[1][4] - best[2][4])
    assert found == pytest.approx(total + sum(box[4] for box in left + right))


def test_hits() -> None:
    truth = [[*CAT, 0, 1], [60.0, 60.0, 90.0, 90.0, 1, 0]]
    found = [
        [11.0, 10.0, 50.0, 50.0, 0.9, 0],  # the cat
        [*CAT, 0.8, 0],  # the cat again
        [*CAT, 0.7, 1],  # not a dog
        [60.0, 60.0, 90.0, 91.0, 0.6, 1],  # a difficult dog, twice
        [60.0, 61.0, 90.0, 90.0, 0.5, 1],
    ]
    assert hits(found, truth) == [True, False, False, None, None]
    assert hits([], truth) == [] and hits(found[:1], []) == [False]


def test_boxes_are_drawn_to_scale() -> None:
    svg = box_figure(
        (400, 200), [([100, 50, 200, 150], "cat .90", True)], [[0, 0, 400, 200]], "t", "sheet-0"
    )
    root = ElementTree.fromstring(svg)
    assert root.get("viewBox") == "0 0 192 96"
    paths = {path.get("class"): path.get("d") for path in root.iter("path")}
    assert paths["right"] == "M48 24H96V72H48z" and paths["truth"] == "M0 0H192V96H0z"
    assert "wrong" not in paths and root.find("use").get("href") == "#sheet-0"
    assert root.find("text").text == "cat .90"


@pytest.fixture
def collect(
    tmp_path: Path, write_run: Callable[..., Path], add_gallery: Callable[..., None]
) -> Callable[..., list[Gallery]]:
    def collect(galleries: dict[str, list], pictures: bool = True, notes: list | None = None):
        for name, boxes in galleries.items():
            add_gallery(write_run(name, "detection", {"bbox/AP": 1.0}), boxes)
        artifacts = Artifacts(notes if notes is not None else [])
        return collect_galleries(build_results(read_records([tmp_path]).files), artifacts, pictures)

    return collect


SURE, UNSURE = [[*CAT, 0.95, 0]], [[*CAT, 0.2, 0]]


def test_largest_disagreement_first(collect: Callable[..., list[Gallery]]) -> None:
    (gallery,) = collect({"a": [SURE, SURE, UNSURE], "b": [SURE, [], SURE], "c": [[], [], []]})
    assert gallery.names == ["image0", "image1", "image2"]
    assert gallery.orders == {
        "0-1": [[1, 0.95], [2, 0.75], [0, 0.0]],
        "0-2": [[0, 0.95], [1, 0.95], [2, 0.2]],
        "1-2": [[0, 0.95], [2, 0.95], [1, 0.0]],
    }
    assert set(gallery.panels) == {0, 1, 2} and gallery.sheet.startswith("data:image/jpeg")
    assert gallery.trials == dict.fromkeys(range(3), "its only trial")
    first = gallery.panels[0]
    assert "a, image image0: 1 of 1 objects found, 0 wrong; cat .95" in first[0]
    assert "0 of 1 objects found, 0 wrong" in first[2]  # a score of 0.2 is not drawn
    assert 'href="#sheet-0" x="-192"' in first[1]


def test_class_names_are_escaped(collect: Callable[..., list[Gallery]]) -> None:
    dog = [[*CAT, 0.5, 1]]
    (gallery,) = collect({"a": [dog], "b": [dog]})
    panel = gallery.panels[0][0]
    assert "d&lt;g .50" in panel and "<g" not in panel.replace("<g ", "")
    assert 'class="wrong"' in panel


def test_without_pictures_no_image(collect: Callable[..., list[Gallery]]) -> None:
    (gallery,) = collect({"a": [SURE], "b": [SURE]}, pictures=False)
    assert gallery.sheet == "" and "<use" not in gallery.panels[0][0]


def test_one_checkpoint_has_nobody_beside_it(collect: Callable[..., list[Gallery]]) -> None:
    assert collect({"a": [SURE]}) == []


def test_only_common_images(collect: Callable[..., list[Gallery]], tmp_path: Path) -> None:
    (gallery,) = collect({"a": [SURE, SURE, []], "b": [SURE, []]})
    assert gallery.names == ["image0", "image1"] and gallery.orders["0-1"][0] == [1, 0.95]


def test_malformed_is_noted(collect: Callable[..., list[Gallery]], tmp_path: Path) -> None:
    notes: list[str] = []
    assert collect({"a": [[[*CAT, 0.5, 7]]], "b": [SURE]}, notes=notes) == []  # no eighth class
    assert len(notes) == 1 and re.search("a/trial_0/gallery.json: gallery left out", notes[0])


def test_the_trial_is_named(
    tmp_path: Path, write_run: Callable[..., Path], add_gallery: Callable[..., None]
) -> None:
    """The first that stored images."""
    for name in "ab":
        for trial in range(3):
            path = write_run(name, "detection", {"bbox/AP": 1.0}, trial)
            if trial or name == "b":
                add_gallery(path, [SURE])
    results = build_results(read_records([tmp_path]).files)
    (gallery,) = collect_galleries(results, Artifacts(results.notes), True)
    assert gallery.trials == {0: "trial 1, one of 3", 1: "trial 0, one of 3"}
