"""Cityscapes' instances: polygons, scores against the official script and a slow one, a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as mask_utils

from pretrain.common.errors import InputError
from tests.transfer.cityscapes_files import (
    HEIGHT,
    WIDTH,
    files_of,
    noisy,
    rectangle,
    write_polygons,
)
from tests.transfer.detection.test_task import TASK, TINY
from transfer.datasets.cityscapes import CATEGORY_IDS, CLASSES
from transfer.datasets.cityscapes_labels import (
    LABELS_OF_CLASSES,
    POLYGONS,
    VOID,
    truth_of,
)
from transfer.datasets.numbered_pixels import read_instances
from transfer.datasets.registry import open_sets
from transfer.datasets.samples import DetectionSet
from transfer.detection.config import load_detection_config
from transfer.detection.evaluation.cityscapes import THRESHOLDS, evaluate_cityscapes
from transfer.detection.evaluation.predictions import encode_masks
from transfer.results.record import read_record
from transfer.trials.loop import run_trials
from transfer.trials.task import Request

pytest.importorskip("shapely")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DetectionSet:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_polygons(tmp_path, "val", 5)
    return open_sets(["cityscapes_fine_instance_seg_val"])


def test_polygons_are_what_the_official_images_show(data: DetectionSet) -> None:
    """Each visible polygon, filled, is the object in the image of ids, give or take its border."""
    assert data.classes == CLASSES and data.category_ids == CATEGORY_IDS
    count = 0
    for sample in data.samples:
        ids = read_instances(str(files_of(data)[sample.image_id]))
        expected: dict[int, set[int]] = {}
        for one in np.unique(ids):
            label = one // 1000 if one >= 1000 else one
            if label in CATEGORY_IDS:
                expected.setdefault(CATEGORY_IDS.index(label), set()).add(int(one))
        for instance in sample.instances:
            image = Image.new("L", (WIDTH, HEIGHT))
            for polygon in instance.polygons or []:
                corners = [(x - 0.5, y - 0.5) for x, y in zip(polygon[::2], polygon[1::2])]
                ImageDraw.Draw(image).polygon(corners, fill=1)
            mask = np.asarray(image).astype(bool)
            places = [mask & (ids == one) for one in expected[instance.category]]
            best = max(int(place.sum()) for place in places)
            assert best > 0 or mask.sum() < 60
            count += best > 0.5 * mask.sum()
            x1, y1, x2, y2 = instance.box
            assert 0 <= x1 < x2 <= WIDTH + 0.5 and 0 <= y1 < y2 <= HEIGHT + 0.5
    assert count > 20


def test_front_objects_hide_those_behind_and_groups_are_crowds(tmp_path: Path) -> None:
    folder = write_polygons(tmp_path, "val", 1)
    (path,) = folder.glob(f"gtFine/val/*/*{POLYGONS}")
    objects = [
        rectangle("car", 10, 10, 40, 20),  # behind
        rectangle("building", 30, 0, 40, 48),  # in front of it, without instances
        rectangle("cargroup", 0, 40, 10, 8),
        {**rectangle("bus", 0, 0, 96, 48), "deleted": 1},
    ]
    path.write_text(json.dumps({"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects}))
    (sample,) = open_sets([f"cityscapes:{folder}:val"]).samples
    group, car = sample.instances
    assert group.crowd and not car.crowd
    # Corners at 10 and 30 are centres of pixels; the polygons grow by half a pixel.
    assert car.box == pytest.approx((10.0, 10.0, 30.0, 30.0))
    assert group.box == pytest.approx((0.0, 40.0, 10.0, 48.0))


def test_the_truth_is_100(data: DetectionSet) -> None:
    results = []
    for image_id, path in files_of(data).items():
        ids = read_instances(str(path))
        for one in np.unique(ids[ids >= 24000]):
            rle = encode_masks((ids == one)[None])[0]
            results.append({"image_id": image_id, "category_id": int(one // 1000), "score": 1.0,
                            "bbox": [0, 0, 1, 1], "segmentation": rle})  # fmt: skip
    metrics, per_class = evaluate_cityscapes(files_of(data), results)
    assert metrics == pytest.approx({"segm/AP": 100.0, "segm/AP50": 100.0})
    assert np.isnan(per_class["segm/AP"]["train"])
    nothing, _ = evaluate_cityscapes(files_of(data), [])
    assert nothing == {"segm/AP": 0.0, "segm/AP50": 0.0}


def slow_ap(data: DetectionSet, results: list[dict[str, Any]], label: int, at: float) -> float:
    """One class at one threshold, object by object."""
    entries: list[tuple[float, int]] = []  # score, whether it is right
    lost = objects = 0
    for image_id, path in files_of(data).items():
        ids = read_instances(str(path))
        truth = {int(i): ids == i for i in np.unique(ids) if i == label or i // 1000 == label}
        mine = [r for r in results if (r["image_id"], r["category_id"]) == (image_id, label)]
        masks = [mask_utils.decode(r["segmentation"]).astype(bool) for r in mine]
        iou = {
            (d, i): (mask & truth[i]).sum() / (mask | truth[i]).sum()
            for d, mask in enumerate(masks)
            for i in truth
        }
        for i in truth:
            if i < 1000 or truth[i].sum() < 100:
                continue
            objects += 1
            scores = sorted(mine[d]["score"] for d in range(len(mine)) if iou[d, i] > at)
            lost += not scores
            entries += [(s, 0) for s in scores[:-1]] + [(s, 1) for s in scores[-1:]]
        for d, mask in enumerate(masks):
            if any(iou[d, i] > at for i in truth):
                continue
            ignored = sum(int((mask & truth[i]).sum()) for i in truth if i < 1000)
            ignored += sum(int((mask & m).sum()) for m in truth.values() if m.sum() < 100)
            if ignored / mask.sum() <= at:
                entries.append((mine[d]["score"], 0))
    if not objects:
        return float("nan")
    points = []
    for score in sorted({s for s, _ in entries}):
        kept = [right for s, right in entries if s >= score]
        points.append((sum(kept) / (sum(r for _, r in entries) + lost), np.mean(kept)))
    points = [points[0], *points, (0.0, 1.0), (0.0, 1.0)]
    return sum(
        points[i][1] * (points[i - 1][0] - points[i + 1][0]) / 2 for i in range(1, len(points) - 1)
    )


def test_scores_by_loops(data: DetectionSet) -> None:
    results = noisy(files_of(data), 0)
    metrics, per_class = evaluate_cityscapes(files_of(data), results)
    table = np.array([[slow_ap(data, results, c, t) for t in THRESHOLDS] for c in CATEGORY_IDS])
    assert metrics["segm/AP"] == pytest.approx(100 * np.nanmean(table))
    assert metrics["segm/AP50"] == pytest.approx(100 * np.nanmean(table[:, 0]))
    assert 5 < metrics["segm/AP"] < metrics["segm/AP50"] < 95
    assert per_class["segm/AP50"]["car"] == pytest.approx(100 * table[2, 0])


def test_against_the_official_script(
    data: DetectionSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is installed; its version 2.3.0 uses a name that NumPy 2.4 does not have."""
    name = "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling"
    official: Any = pytest.importorskip(name, exc_type=ImportError)
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    # It stores what it has found as JSON, which fails with NumPy 2's numbers.
    monkeypatch.setattr(official, "writeDict2JSON", lambda content, path: None)
    results, truth, predicted = noisy(files_of(data), 1), [], []
    for image_id, path in files_of(data).items():
        lines = []
        for number, result in enumerate(r for r in results if r["image_id"] == image_id):
            file = tmp_path / f"{image_id}_{number}.png"
            mask = mask_utils.decode(result["segmentation"]) * 255
            Image.fromarray(mask.astype(np.uint8)).save(file)
            lines.append(f"{file.name} {result['category_id']} {result['score']}\n")
        text = tmp_path / f"{image_id}_pred.txt"
        text.write_text("".join(lines))
        truth.append(str(path))
        predicted.append(str(text))
    args = official.args
    args.JSONOutput, args.quiet, args.colorized = False, True, False
    args.predictionPath, args.gtInstancesFile = str(tmp_path), str(tmp_path / "gt.json")
    official.setInstanceLabels(args)
    expected = official.evaluateImgLists(predicted, truth, args)["averages"]
    metrics, _ = evaluate_cityscapes(files_of(data), results)
    assert metrics["segm/AP"] == pytest.approx(100 * expected["allAp"], abs=1e-9)
    assert metrics["segm/AP50"] == pytest.approx(100 * expected["allAp50%"], abs=1e-9)


def test_a_run_and_its_record(tmp_path: Path) -> None:
    write_polygons(tmp_path, "train", 4)
    folder = write_polygons(tmp_path, "val", 3, seed=1)
    names = [f"cityscapes:{folder}:{split}" for split in ("train", "val")]
    overrides = (*TINY, "DATASETS.TRAIN", names[0], "DATASETS.TEST", names[1])
    asked = Request("digits_coco.yaml", "random", str(tmp_path / "run"), None, "torchvision",
                    overrides=overrides)  # fmt: skip
    (path,) = run_trials(TASK, TASK.prepare(asked))
    record = read_record(path)
    assert set(record["metrics"]) == {"segm/AP", "segm/AP50"}
    assert set(record["per_class"]["segm/AP"]) == set(CLASSES)
    without = Request("digits_voc.yaml", "random", str(tmp_path / "x"), None, "torchvision",
                      overrides=overrides)  # fmt: skip
    with pytest.raises(InputError, match="is scored by masks alone"):
        TASK.prepare(without)


def test_the_shipped_protocol() -> None:
    cfg = load_detection_config("cityscapes_mscn_fpn.yaml")
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 8 and cfg.SOLVER.IMS_PER_BATCH == 8
    assert tuple(cfg.SOLVER.STEPS) == (18_000,) and cfg.SOLVER.MAX_ITER == 24_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objects": [{"label": "cat", "polygon": [[0, 0], [9, 0], [9, 9]]}]}, "the label 'cat'"),
        ({"objects": [{"label": "car", "polygon": [[0, 0], [9, 0]]}]}, "three points or more"),
        ({"objects": [{"polygon": [[0, 0], [9, 0], [9, 9]]}]}, "KeyError"),
        ({"imgWidth": "96"}, "imgWidth"),
        ({"objects": 3}, "TypeError"),
    ],
)
def test_refused_in_one_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = write_polygons(tmp_path, "val", 2)
    path = next(folder.glob(f"gtFine/val/*/*{POLYGONS}"))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=f"not a file of Cityscapes' polygons.*{message}") as error:
        open_sets([f"cityscapes:{folder}:val"])
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(InputError, match=r"files of labels are missing \(1: .*_polygons.json\)"):
        open_sets([f"cityscapes:{folder}:val"])
    with pytest.raises(InputError, match="leftImg8bit/train is missing; expected"):
        open_sets([f"cityscapes:{folder}:train"])


@pytest.mark.detectron2
def test_objects_are_those_of_detectron2s_reader(
    data: DetectionSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reader gets the labels of the module that only its authors have."""
    pytest.importorskip("detectron2.data", reason="detectron2 is not installed")
    from detectron2.data.datasets.cityscapes import _cityscapes_files_to_dict

    ids = {**VOID, **{label.name: label.id for label in LABELS_OF_CLASSES}}
    labels = {
        name: SimpleNamespace(
            id=number,
            hasInstances=24 <= number <= 33 or number == -1,
            ignoreInEval=name in VOID,
        )
        for name, number in ids.items()
    }
    parts = "deeplearning.projects.cityscapesApi.cityscapesscripts.helpers.labels".split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    alias: Any = sys.modules[".".join(parts)]
    alias.name2label = labels
    alias.id2label = {label.id: label for label in labels.values()}
    count = 0
    for sample in data.samples:
        path = str(truth_of(sample.file_name, POLYGONS))
        theirs = _cityscapes_files_to_dict((sample.file_name, "", "", path), True, True)
        assert (theirs["height"], theirs["width"]) == (sample.height, sample.width)
        assert len(theirs["annotations"]) == len(sample.instances)
        for record, instance in zip(theirs["annotations"], sample.instances):
            assert record["bbox"] == instance.box and record["iscrowd"] == instance.crowd
            assert CATEGORY_IDS.index(record["category_id"]) == instance.category
            assert record["segmentation"] == instance.polygons
            count += 1
    assert count > 20
