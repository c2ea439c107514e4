"""faster-coco-eval against pycocotools on random objects, detections and masks, and its choice."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from pretrain.common.errors import InputError
from transfer.detection.evaluation import coco
from transfer.detection.evaluation.coco import choose_evaluator, evaluate_coco

CLASSES = {3: "ant", 5: "bee", 9: "cat", 11: "never among the objects"}
SIDE = 160  # px
FAST = coco.FAST
needs_fast = pytest.mark.skipif(
    importlib.util.find_spec(FAST) is None,
    reason="faster-coco-eval (the optional extra 'fast') is not installed",
)


def rle_of(box: np.ndarray) -> dict[str, Any]:
    """An ellipse in the box, as compressed run lengths with text counts."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    middle, radius = box[:2] + box[2:] / 2, np.maximum(box[2:] / 2, 1e-9)
    inside = ((x - middle[0]) / radius[0]) ** 2 + ((y - middle[1]) / radius[1]) ** 2 <= 1
    rle = mask_utils.encode(np.asfortranarray(inside.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def polygon_of(box: np.ndarray) -> list[list[float]]:
    """The same ellipse with 20 corners."""
    angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return [(box[:2] + (corners + 1) * box[2:] / 2).reshape(-1).tolist()]


def objects_of(rng: np.random.Generator, image_id: int, first_id: int) -> list[dict[str, Any]]:
    """None to 6 objects of all sizes, some crowds, some without area."""
    found = []
    for i in range(rng.integers(0, 7)):
        size = rng.choice([8.0, 40.0, 110.0]) * rng.uniform(0.7, 1.3, 2)
        box = np.concatenate([rng.uniform(0, SIDE - size.max(), 2), size]).round(2)
        box[2 + rng.integers(2)] *= rng.random() > 0.05
        crowd = rng.random() < 0.15
        found.append(
            {
                "id": first_id + i,
                "image_id": image_id,
                "category_id": int(rng.choice([3, 5, 9])),
                "bbox": box.tolist(),
                "area": float(box[2] * box[3] * rng.uniform(0.5, 1)),
                "iscrowd": int(crowd),
                "segmentation": rle_of(box) if crowd else polygon_of(box),
            }
        )
    return found


def detections_of(
    rng: np.random.Generator, image_id: int, objects: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Near the objects and far from them, with many equal scores; at times over 100 of a class."""
    count = int(rng.choice([0, 12, 30, 260], p=[0.1, 0.5, 0.35, 0.05]))
    found = []
    for _ in range(count):
        box = np.concatenate([rng.uniform(0, 100, 2), rng.uniform(4, 60, 2)])
        category, score = int(rng.choice(list(CLASSES))), rng.uniform(0, 0.7)
        if objects and rng.random() < 0.7:
            near = objects[rng.integers(len(objects))]
            box = np.array(near["bbox"]) + rng.normal(0, 1, 4)
            score += 0.3
            category = near["category_id"] if rng.random() < 0.9 else category
        box[2:] = np.maximum(box[2:], 1.0)
        found.append(
            {
                "image_id": image_id,
                "category_id": category,
                "bbox": box.astype(np.float32).tolist(),
                "score": float(np.float32(round(score, 2))),
                "segmentation": rle_of(box),
            }
        )
    return found


def random_case(folder: Path, seed: int, images: int = 25) -> tuple[Path, list[dict[str, Any]]]:
    rng = np.random.default_rng(seed)
    objects, detections = [], []
    ids = (rng.permutation(images) * 7 + 1).tolist()
    for image_id in ids:
        mine = objects_of(rng, image_id, 1000 + len(objects))
        objects += mine
        detections += detections_of(rng, image_id, mine)
    listed = [{"id": i, "file_name": f"{i}.jpg", "width": SIDE, "height": SIDE} for i in ids]
    categories = [{"id": key, "name": name} for key, name in CLASSES.items()]
    content = {"info": {}, "images": listed, "annotations": objects, "categories": categories}
    path = folder / f"{seed}.json"
    path.write_text(json.dumps(content))
    return path, detections


def all_stats(name: str, path: Path, results: list[dict[str, Any]], kind: str) -> np.ndarray:
    """The 12 unrounded numbers of a library's own summary, and all precisions and recalls."""
    truth_class, evaluation_class = coco._classes_of(name)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = truth_class(str(path))
        evaluation = evaluation_class(truth, coco._found(truth, results, kind), kind)
    coco._evaluate(evaluation, None)
    parts = [evaluation.stats[:12]]
    parts += [np.asarray(evaluation.eval[key]).reshape(-1) for key in ("precision", "recall")]
    return np.concatenate(parts)


@needs_fast
@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(6))
def test_all_numbers_are_pycocotools(tmp_path: Path, seed: int, kind: str) -> None:
    path, results = random_case(tmp_path, seed)
    expected = all_stats("pycocotools", path, results, kind)
    np.testing.assert_allclose(all_stats(FAST, path, results, kind), expected, atol=1e-9, rtol=0)
    assert 0.05 < expected[0] < 0.95


@needs_fast
def test_our_metrics_do_not_depend_on_the_evaluator(tmp_path: Path) -> None:
    """On all images, on some, and without any detection; the input stays as it was."""
    path, results = random_case(tmp_path, 7)
    before = json.dumps(results)
    for found in (results, []):
        for image_ids in (None, [1, 8, 15, 22]):
            options = {"kinds": ("bbox", "segm"), "classes": CLASSES, "image_ids": image_ids}
            one, each = evaluate_coco(path, found, evaluator="pycocotools", **options)
            two, both = evaluate_coco(path, found, evaluator=FAST, **options)
            assert list(one) == list(two)
            assert two == pytest.approx(one, abs=1e-9, nan_ok=True)
            for kind, values in each.items():
                assert both[kind] == pytest.approx(values, abs=1e-9, nan_ok=True)
    assert json.dumps(results) == before


def test_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    for present in (True, False):
        monkeypatch.setattr(coco.importlib.util, "find_spec", lambda name: present or None)
        assert choose_evaluator("pycocotools") == "pycocotools"
        assert choose_evaluator("auto") == (FAST if present else "pycocotools")
    with pytest.raises(InputError, match="pip install faster-coco-eval, or set pycocotools"):
        choose_evaluator(FAST)
    with pytest.raises(InputError, match="TRANSFER.COCO_EVALUATOR 'coco' is unknown; known: auto"):
        choose_evaluator("coco")
