"""The VOC evaluator against a slow one that goes through text lines and single loops."""

from __future__ import annotations

import numpy as np
import pytest

from pretrain.common.errors import InputError
from transfer.datasets.samples import DetectionSet, Instance, Sample
from transfer.detection.evaluation.predictions import Predictions
from transfer.detection.evaluation.voc import average_precision, evaluate_voc

CLASSES = ("ant", "bee", "cat")


def random_case(seed: int, images: int = 12) -> tuple[DetectionSet, list[Predictions]]:
    """Objects with integer boxes, some difficult; detections near them, with many equal scores."""
    rng = np.random.default_rng(seed)
    samples, predictions = [], []
    for number in range(images):
        low = rng.integers(0, 60, (rng.integers(0, 5), 2)).astype(float)
        boxes = np.concatenate([low, low + rng.integers(4, 40, low.shape)], axis=1)
        instances = tuple(
            Instance(tuple(box), int(rng.integers(3)), difficult=bool(rng.random() < 0.25))
            for box in boxes.tolist()
        )
        samples.append(Sample(f"{number}.jpg", f"{number:03d}", 120, 120, instances))
        near = np.repeat(boxes, 3, axis=0) + rng.normal(0, 3, (3 * len(boxes), 4))
        far = rng.uniform(0, 100, (4, 4))
        found = np.concatenate([near, far]).astype(np.float32)
        scores = rng.uniform(0.05, 1, len(found)).round(2).astype(np.float32)
        predictions.append(
            Predictions(f"{number:03d}", found, scores, rng.integers(0, 3, len(found)))
        )
    ids = tuple(range(1, 4))
    return DetectionSet("voc:x:test", "voc", tuple(samples), CLASSES, ids), predictions


def slow_rows(predictions: list, category: int, exact: bool) -> list[list[str]]:
    """Image, score, x1, y1, x2, y2 of each detection, by descending score."""
    lines = []
    for p in predictions:
        for box, score, label in zip(p.boxes, p.scores, p.classes):
            if label == category:
                corners = (box[0] + 1, box[1] + 1, box[2], box[3])
                if exact:
                    words = [f"{float(value)!r}" for value in (score, *corners)]
                else:
                    words = [f"{score:.3f}", *(f"{value:.1f}" for value in corners)]
                lines.append(f"{p.image_id} {' '.join(words)}")
    rows = [line.split() for line in lines]
    if exact:  # Python's sort is stable
        return sorted(rows, key=lambda row: -float(row[1]))
    return [rows[i] for i in np.argsort(-np.array([float(row[1]) for row in rows]))]


def slow_ap(
    dataset: DetectionSet,
    predictions: list,
    category: int,
    iou: float,
    area: bool,
    exact: bool = False,
) -> float:
    rows = slow_rows(predictions, category, exact)
    truth, positives = {}, 0
    for sample in dataset.samples:
        mine = [i for i in sample.instances if i.category == category]
        truth[sample.image_id] = [
            [(i.box[0] + 1, i.box[1] + 1, i.box[2], i.box[3]), i.difficult, False] for i in mine
        ]
        positives += sum(not i.difficult for i in mine)
    right, wrong, points = 0, 0, []
    for row in rows:
        box = [float(value) for value in row[2:]]
        best, chosen = -1.0, None
        for entry in truth[row[0]]:
            g = entry[0]
            width = max(min(box[2], g[2]) - max(box[0], g[0]) + 1, 0)
            height = max(min(box[3], g[3]) - max(box[1], g[1]) + 1, 0)
            areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (box, g)]
            overlap = width * height / (sum(areas) - width * height)
            if overlap > best:
                best, chosen = overlap, entry
        if best > iou and chosen[1]:
            pass
        elif best > iou and not chosen[2]:
            chosen[2] = True
            right += 1
        else:
            wrong += 1
        # A detection of a difficult object leaves a point that repeats the one before.
        points.append((right / positives, right / max(right + wrong, 1e-12)))
    if area:
        total, recall = 0.0, 0.0
        for r in sorted({r for r, _ in points}):
            total += (r - recall) * max(p for r2, p in points if r2 >= r)
            recall = r
        return 100 * total
    levels = np.arange(0.0, 1.1, 0.1)
    return 100 * sum(max([p for r, p in points if r >= t], default=0.0) for t in levels) / 11


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("metric", [2007, 2012])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_against_the_slow_evaluator(seed: int, metric: int, exact: bool) -> None:
    dataset, predictions = random_case(seed)
    metrics, per_class = evaluate_voc(dataset, predictions, metric=metric, exact=exact)
    table = np.array(
        [
            [
                slow_ap(dataset, predictions, category, percent / 100, metric == 2012, exact)
                for percent in range(50, 100, 5)
            ]
            for category in range(3)
        ]
    )
    assert metrics["bbox/AP"] == pytest.approx(table.mean(), abs=1e-9)
    assert metrics["bbox/AP50"] == pytest.approx(table[:, 0].mean(), abs=1e-9)
    assert metrics["bbox/AP75"] == pytest.approx(table[:, 5].mean(), abs=1e-9)
    assert 0 < metrics["bbox/AP"] < metrics["bbox/AP50"]
    for row, name in zip(table, CLASSES):
        assert per_class["bbox/AP50"][name] == pytest.approx(row[0], abs=1e-9)


def one_image(*instances: Instance) -> DetectionSet:
    return DetectionSet("x", "voc", (Sample("a", "a", 50, 50, instances),), ("ant",), (1,))


def found(*boxes: tuple) -> list[Predictions]:
    boxes_array = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    scores = np.linspace(0.9, 0.5, len(boxes), dtype=np.float32)
    return [Predictions("a", boxes_array, scores, np.zeros(len(boxes), dtype=int))]


def test_perfect_detection_after_the_round_trip_of_conventions() -> None:
    dataset = one_image(Instance((0.0, 0.0, 9.0, 7.0), 0))
    metrics, _ = evaluate_voc(dataset, found((0, 0, 9, 7)), metric=2012)
    assert metrics == {"bbox/AP": 100.0, "bbox/AP50": 100.0, "bbox/AP75": 100.0}


def test_no_detections_is_zero() -> None:
    dataset = one_image(Instance((0.0, 0.0, 9.0, 7.0), 0))
    for metric in (2007, 2012):
        metrics, per_class = evaluate_voc(dataset, found(), metric=metric)
        assert set(metrics.values()) == {0.0} and per_class["bbox/AP"] == {"ant": 0.0}


def test_difficult_objects_neither_help_nor_harm() -> None:
    plain, hard = Instance((0, 0, 9, 7), 0), Instance((20, 20, 40, 40), 0, difficult=True)
    hit, on_hard = (0, 0, 9, 7), (20, 20, 40, 40)
    for boxes in ((hit,), (on_hard, hit), (on_hard, on_hard, hit)):
        metrics, _ = evaluate_voc(one_image(plain, hard), found(*boxes), metric=2012)
        assert metrics["bbox/AP"] == 100.0


@pytest.mark.filterwarnings("error")
def test_an_object_without_area_is_never_found() -> None:
    """Not even by a detection that equals it, whose union with it is empty."""
    plain, flat = Instance((0, 0, 9, 7), 0), Instance((20, 20, 20, 40), 0)
    metrics, _ = evaluate_voc(
        one_image(plain, flat), found((20, 20, 20, 40), (0, 0, 9, 7)), metric=2012
    )
    assert metrics["bbox/AP50"] == pytest.approx(100 * 0.5 * 0.5)


def test_second_detection_of_one_object_is_wrong() -> None:
    a, b = Instance((0, 0, 9, 7), 0), Instance((20, 20, 40, 40), 0)
    boxes = ((0, 0, 9, 7), (0, 0, 9, 7), (20, 20, 40, 40))
    metrics, _ = evaluate_voc(one_image(a, b), found(*boxes), metric=2012)
    assert metrics["bbox/AP"] == pytest.approx(100 * (0.5 + 0.5 * 2 / 3))


def test_classes_without_objects_are_named_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    box = (0.0, 0.0, 9.0, 9.0)
    sample = Sample("a", "a", 50, 50, (Instance(box, 1),))
    dataset = DetectionSet("voc:none:test", "voc", (sample,), CLASSES, (1, 2, 3))
    evaluate_voc(dataset, found(box), metric=2012)
    (line,) = [record.getMessage() for record in caplog.records]
    said = "classes have no object to find, and their AP counts as 0 (2: ant, cat)"
    assert line == f"voc:none:test: {said}"


def test_a_class_without_objects_counts_as_zero() -> None:
    for metric in (2007, 2012):
        metrics, _ = evaluate_voc(one_image(), found((0, 0, 9, 7)), metric=metric)
        assert metrics["bbox/AP"] == 0.0


def test_rounding_is_the_default_and_exact_leaves_it_out() -> None:
    # 1-based inclusive, the object is 100 x 100 and the box 100 x 50.04: IoU just above one half,
    # and exactly one half (not above) after rounding to one decimal.
    dataset = one_image(Instance((0.0, 0.0, 100.0, 100.0), 0))
    boxes = found((0.0, 0.0, 100.0, 50.04))
    assert evaluate_voc(dataset, boxes, metric=2012)[0]["bbox/AP50"] == 0.0
    assert evaluate_voc(dataset, boxes, metric=2012, exact=True)[0]["bbox/AP50"] == 100.0


def test_rounding_moves_the_numbers_a_little() -> None:
    """So `exact` is another protocol: close, and not equal."""
    found_any = False
    for seed in range(3):
        dataset, predictions = random_case(seed)
        plain, _ = evaluate_voc(dataset, predictions, metric=2012)
        exact, _ = evaluate_voc(dataset, predictions, metric=2012, exact=True)
        assert plain["bbox/AP"] == pytest.approx(exact["bbox/AP"], abs=2)
        found_any |= plain != exact
    assert found_any


def test_eleven_points() -> None:
    recall, precision = np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.5, 2 / 3])
    expected = (6 * 1.0 + 5 * 2 / 3) / 11
    assert average_precision(recall, precision, 2007) == pytest.approx(expected)


def test_unknown_metric() -> None:
    with pytest.raises(InputError, match="TRANSFER.VOC_METRIC"):
        evaluate_voc(one_image(), [], metric=2010)
