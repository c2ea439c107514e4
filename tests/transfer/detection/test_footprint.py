"""A detector's training step: its memory against a published one, its FLOPs by part."""

from __future__ import annotations

import pytest

from transfer.detection.config import load_detection_config
from transfer.detection.footprint import largest_image, run_needs, step_cost

# Mask R-CNN R50-C4 as in Detectron2's model zoo, on two images.
ZOO = (
    *("MODEL.RESNETS.NORM", "FrozenBN", "MODEL.BACKBONE.FREEZE_AT", "2"),
    *("MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "SOLVER.IMS_PER_BATCH", "2"),
)


def test_the_memory_of_the_model_zoo() -> None:
    """Detectron2's MODEL_ZOO.md: 5.2 GB for R50-C4 with masks, 1x, on two images a GPU."""
    cfg = load_detection_config("coco_mscn.yaml", ZOO)
    assert largest_image(cfg) == (800, 1333)
    cost = step_cost(cfg)
    assert cost.peak_bytes / 2**30 == pytest.approx(5.2, rel=0.05)
    assert cost.flops / 1e12 == pytest.approx(6.3, rel=0.02)
    # Twice the images: twice the work, and twice the memory but for the model's own.
    half = step_cost(load_detection_config("coco_mscn.yaml", (*ZOO[:-1], "1")))
    assert cost.flops / half.flops == pytest.approx(2, rel=0.01)
    assert 1.7 < cost.peak_bytes / half.peak_bytes < 2


@pytest.mark.parametrize(
    "name",
    [
        "digits_coco.yaml",
        "coco_mscn_fpn_1x.yaml",
        pytest.param("digits_vitdet.yaml", marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_detector_has_a_cost(name: str) -> None:
    small = ("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MAX_SIZE_TRAIN", "128")
    cfg = load_detection_config(name, (*small, "SOLVER.IMS_PER_BATCH", "2"))
    cost = step_cost(cfg)
    assert cost.flops > 1e9 and cost.peak_bytes > 2**24


def test_a_step_is_that_of_a_part_of_a_process_batch() -> None:
    words = ("SOLVER.IMS_PER_BATCH", "8", "TRANSFER.ACCUMULATE", "2", "SOLVER.MAX_ITER", "100")
    small = ("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MAX_SIZE_TRAIN", "128")
    needs = run_needs(load_detection_config("digits_voc.yaml", (*words, *small)), 2)
    assert (needs.images, needs.steps, needs.processes, needs.half) == (2, 200, 2, False)
    two = load_detection_config("digits_voc.yaml", (*small, "SOLVER.IMS_PER_BATCH", "2"))
    assert needs.cost.flops == step_cost(two).flops
