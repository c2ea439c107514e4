"""Our scores against those of Detectron2's evaluators on random detections, to 1e-9."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.detections import random_coco, random_voc
from benchmarks.evaluate import COCO_DETECTRON2, detectron2_coco
from transfer.datasets.voc import read_voc
from transfer.detection.evaluation.coco import FAST, choose_evaluator
from transfer.detection.evaluation.score import score

pytest.importorskip("detectron2.evaluation", reason="detectron2 is not installed")
pytestmark = pytest.mark.detectron2


@pytest.mark.parametrize("year", [2007, 2012])
def test_voc(tmp_path: Path, year: int) -> None:
    import torch
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import PascalVOCDetectionEvaluator
    from detectron2.structures import Boxes, Instances

    from transfer.detection.detectron2_plugin import register

    folder = tmp_path / "voc"
    dataset, predictions = random_voc(folder, images=40, per_image=60, classes=4)
    assert read_voc(folder, "test", dataset.classes)[3].instances == dataset.samples[3].instances
    register("voc_of_test", dataset)
    MetadataCatalog.get("voc_of_test").set(dirname=str(folder), split="test", year=year)
    evaluator = PascalVOCDetectionEvaluator("voc_of_test")
    evaluator.reset()
    for found in predictions:
        instances = Instances((1000, 1000))
        instances.pred_boxes = Boxes(torch.from_numpy(found.boxes))
        instances.scores = torch.from_numpy(found.scores)
        instances.pred_classes = torch.from_numpy(found.classes)
        evaluator.process([{"image_id": found.image_id}], [{"instances": instances}])
    theirs = evaluator.evaluate()["bbox"]
    options = {"folder": tmp_path / "out", "with_masks": False, "voc_metric": year}
    ours, _ = score(dataset, predictions, **options)
    assert ours == pytest.approx({f"bbox/{k}": v for k, v in theirs.items()}, abs=1e-9)
    assert 1 < ours["bbox/AP"] < ours["bbox/AP50"]


@pytest.mark.parametrize("evaluator", ["pycocotools", FAST])
def test_coco(tmp_path: Path, evaluator: str) -> None:
    if choose_evaluator("auto") != FAST and evaluator == FAST:
        pytest.skip("faster-coco-eval (the optional extra 'fast') is not installed")
    dataset, predictions = random_coco(tmp_path / "coco", images=20, per_image=60, classes=4)
    theirs: dict[str, dict[str, float]] = {}
    detectron2_coco(dataset, predictions, tmp_path, theirs)(0.0)
    options = {"folder": tmp_path / "out", "with_masks": True, "coco_evaluator": evaluator}
    ours, _ = score(dataset, predictions, **options)
    for name, value in theirs[COCO_DETECTRON2].items():
        assert ours[name] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("most", [60, 100, 130])
def test_coco_with_another_maximum(tmp_path: Path, most: int) -> None:
    """As COCOEvaluator(max_dets_per_image=...) above 100; fewer change nothing here."""
    from detectron2.evaluation import COCOEvaluator

    from transfer.detection.detectron2_plugin import register
    from transfer.detection.evaluation.predictions import to_coco_results

    dataset, predictions = random_coco(tmp_path / "coco", images=4, per_image=160, classes=1)
    register(f"coco_of_{tmp_path.name}", dataset)  # Detectron2 keeps names for good
    evaluator = COCOEvaluator(
        f"coco_of_{tmp_path.name}",
        ("bbox",),
        False,
        max_dets_per_image=max(most, 100),
        use_fast_impl=False,
    )
    contiguous = range(len(dataset.classes))
    evaluator._predictions = [
        {"image_id": p.image_id, "instances": to_coco_results([p], contiguous)} for p in predictions
    ]
    theirs = evaluator.evaluate()["bbox"]
    options = {"folder": tmp_path / "out", "with_masks": False, "max_detections": most}
    ours, _ = score(dataset, predictions, **options)
    assert ours == pytest.approx({f"bbox/{k}": v for k, v in theirs.items()}, abs=1e-9, nan_ok=True)
    assert ours["bbox/AP"] > 1
