"""A detector's training step: its memory against a published one, its FLOPs by part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pretrain.common.step_cost import LiveBytes
from pretrain.data.preprocess import Preprocess
from transfer.detection.config import load_detection_config
from transfer.detection.footprint import largest_image, run_needs, step_cost
from transfer.detection.torchvision_engine.engine import make_detector
from transfer.training.build import make_optimizer
from transfer.training.loop import add

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


def sample(side: int) -> dict[str, Any]:
    """An image with eight objects of half its side: enough boxes overlap them for the sampler."""
    corners = torch.linspace(0, side / 2, 8)[:, None].expand(8, 2)
    boxes = torch.cat([corners, corners + side / 2], dim=1)
    masks = [
        [np.array([a, b, c, b, c, d, a, d], dtype=np.float64)] for a, b, c, d in boxes.tolist()
    ]
    image = torch.zeros(3, side, side, dtype=torch.uint8)
    classes = torch.zeros(8, dtype=torch.long)
    return {"image": image, "boxes": boxes, "classes": classes, "polygons": masks}


@pytest.mark.parametrize(
    "name", [pytest.param("coco_mscn.yaml", marks=pytest.mark.slow), "coco_mscn_fpn_1x.yaml"]
)
def test_chosen_by_count_the_boxes_cost_what_chosen_ones_do(name: str) -> None:
    """A real step in float32 samples the numbers of boxes and objects that are counted."""
    words = ("SOLVER.IMS_PER_BATCH", "2", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16")
    cfg = load_detection_config(name, words)
    torch.manual_seed(0)
    detector, memory = make_detector(cfg, Preprocess()).train(), LiveBytes()
    optimizer, batch = make_optimizer(cfg, detector), [sample(96), sample(96)]

    def step() -> None:
        optimizer.zero_grad()
        add(detector(batch).values()).backward()
        optimizer.step()

    memory.track([list(detector.parameters()), list(detector.buffers())])
    with memory:
        step()
        memory.peak = memory.live
        with FlopCounterMode(display=False) as counted:
            step()
    found = step_cost(cfg, size=(96, 96))
    assert found.flops == pytest.approx(counted.get_total_flops(), rel=0.01)
    assert found.peak_bytes == pytest.approx(memory.peak, rel=0.02)


@pytest.mark.parametrize(
    "name",
    [
        "digits_coco.yaml",
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


@pytest.mark.slow
def test_a_cascade_pools_and_classifies_three_times() -> None:
    words: tuple[str, ...] = ("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64")
    words += ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True", "SOLVER.IMS_PER_BATCH", "1")
    one = step_cost(load_detection_config("voc_fpn.yaml", words), size=(64, 64))
    heads = (*words, "MODEL.ROI_HEADS.NAME", "CascadeROIHeads")
    heads += (
        "MODEL.RPN.BBOX_REG_LOSS_TYPE",
        "giou",
        "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE",
        "giou",
    )
    three = step_cost(load_detection_config("voc_fpn.yaml", heads), size=(64, 64))
    # Of each of 512 boxes: 7 x 7 x 256 numbers to 1024, these to 1024, then 21 scores and 4 deltas;
    # forward, and backward to weights and inputs; a multiplication and an addition are two.
    stage = 512 * (7 * 7 * 256 * 1024 + 1024 * 1024 + 1024 * 25) * 2 * 3
    assert three.flops - one.flops == pytest.approx(2 * stage, rel=0.01)
