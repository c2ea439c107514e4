"""Our detector beside the real Detectron2's: same weights, same images, same seed, one process.

Boxes, scores, classes, masks and gradients must be equal bit for bit on a CPU; losses to 1e-6
(upstream sums some of them in another order).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from transfer.detection.torchvision_engine.build import build_detector
from transfer.detection.torchvision_engine.detector import Detector
from transfer.detection.torchvision_engine.mask_targets import BitMasks, Polygons
from transfer.detection.torchvision_engine.weights import load_model

pytest.importorskip("detectron2.modeling", reason="detectron2 is not installed")
pytestmark = pytest.mark.detectron2

SMALL = {
    "rpn_pre_nms_topk_train": 200,
    "rpn_post_nms_topk_train": 100,
    "rpn_pre_nms_topk_test": 100,
    "rpn_post_nms_topk_test": 30,
    "roi_batch_size_per_image": 24,
    "score_thresh_test": 0.01,
}
C4 = {
    "architecture": "C4",
    "norm": "BN",
    "freeze_at": 0,
    "stride_in_1x1": False,
    "pixel_mean": (123.675, 116.28, 103.53),
    "pixel_std": (58.395, 57.12, 57.375),
}
FPN = {
    "architecture": "FPN",
    "mask_on": True,
    "mask_num_conv": 4,
    "box_pooler_resolution": 7,
    "box_head_num_fc": 2,
    "anchor_sizes": ((32,), (64,), (128,), (256,), (512,)),
}
CASES = {
    "c4_voc": {**C4, "num_classes": 20, "extra_norm": True},
    "c4_voc_naive": {**C4, "num_classes": 20, "extra_norm": True, "norm": "naiveSyncBN"},
    "c4_mask": {**C4, "num_classes": 80, "mask_on": True, "norm": "SyncBN"},
    "c4_frozen": {**C4, "num_classes": 20, "norm": "FrozenBN", "freeze_at": 2},
    "c4_bn_frozen_stem": {**C4, "num_classes": 20, "freeze_at": 3, "stride_in_1x1": True},
    "fpn_mask": {**FPN, "num_classes": 80, "norm": "FrozenBN", "freeze_at": 2},
    "fpn_mask_bn": {**FPN, "num_classes": 80, "norm": "BN", "stride_in_1x1": False},
    "fpn_4conv1fc": {
        **FPN,
        "num_classes": 5,
        "norm": "BN",
        "box_head_num_conv": 4,
        "box_head_num_fc": 1,
        "box_head_norm": "BN",
        "mask_norm": "BN",
        "fpn_norm": "BN",
    },
    "fpn_r18": {**FPN, "num_classes": 5, "norm": "BN", "depth": 18},
}


def detectron2_config(fields: dict) -> Any:
    """Detectron2's config of the same detector."""
    from detectron2.config import get_cfg

    cfg = get_cfg()
    model = cfg.MODEL
    model.DEVICE = "cpu"
    names = {
        "depth": (model.RESNETS, "DEPTH"),
        "norm": (model.RESNETS, "NORM"),
        "stride_in_1x1": (model.RESNETS, "STRIDE_IN_1X1"),
        "freeze_at": (model.BACKBONE, "FREEZE_AT"),
        "fpn_norm": (model.FPN, "NORM"),
        "num_classes": (model.ROI_HEADS, "NUM_CLASSES"),
        "mask_on": (model, "MASK_ON"),
        "pixel_mean": (model, "PIXEL_MEAN"),
        "pixel_std": (model, "PIXEL_STD"),
        "anchor_sizes": (model.ANCHOR_GENERATOR, "SIZES"),
        "rpn_pre_nms_topk_train": (model.RPN, "PRE_NMS_TOPK_TRAIN"),
        "rpn_post_nms_topk_train": (model.RPN, "POST_NMS_TOPK_TRAIN"),
        "rpn_pre_nms_topk_test": (model.RPN, "PRE_NMS_TOPK_TEST"),
        "rpn_post_nms_topk_test": (model.RPN, "POST_NMS_TOPK_TEST"),
        "roi_batch_size_per_image": (model.ROI_HEADS, "BATCH_SIZE_PER_IMAGE"),
        "score_thresh_test": (model.ROI_HEADS, "SCORE_THRESH_TEST"),
        "box_pooler_resolution": (model.ROI_BOX_HEAD, "POOLER_RESOLUTION"),
        "box_head_num_fc": (model.ROI_BOX_HEAD, "NUM_FC"),
        "box_head_num_conv": (model.ROI_BOX_HEAD, "NUM_CONV"),
        "box_head_norm": (model.ROI_BOX_HEAD, "NORM"),
        "mask_num_conv": (model.ROI_MASK_HEAD, "NUM_CONV"),
        "mask_norm": (model.ROI_MASK_HEAD, "NORM"),
    }
    for key, value in fields.items():
        if key in names:
            node, name = names[key]
            setattr(node, name, [list(v) for v in value] if key == "anchor_sizes" else value)
    if fields.get("depth") == 18:
        model.RESNETS.RES2_OUT_CHANNELS = 64
    if fields["architecture"] == "FPN":
        model.BACKBONE.NAME = "build_resnet_fpn_backbone"
        model.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
        model.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
        model.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
        model.ROI_HEADS.NAME = "StandardROIHeads"
        model.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
        model.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    return cfg


def build_theirs(fields: dict) -> torch.nn.Module:
    from detectron2.layers import get_norm
    from detectron2.modeling import build_model

    cfg = detectron2_config(fields)
    model = build_model(cfg)
    if fields.get("extra_norm"):
        model.roi_heads.res5.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, 2048))
    return model


def make_batch(seed: int, num_classes: int) -> list[dict]:
    """Two images of unequal sizes: one with objects (one of them 1 px), one maybe without."""
    random = np.random.default_rng(seed)
    batch = []
    for height, width, count in ((96, 128, 4), (112, 100, seed % 2)):
        corners = random.uniform(0, 0.6, (count, 2)) * (width, height)
        sizes = random.uniform(0.1, 0.4, (count, 2)) * (width, height)
        if count > 1:
            sizes[0] = 1.0
        boxes = np.concatenate([corners, corners + sizes], axis=1)
        polygons = []
        for x1, y1, x2, y2 in boxes:
            middle = (x1 + x2) / 2
            polygons.append(
                [
                    np.array([x1, y1, middle, y1 + 1, x1 + 1, y2]),
                    np.array([middle, y1, x2, y1, x2, y2, middle, y2]),
                ]
            )
        batch.append(
            {
                "image": torch.from_numpy(random.integers(0, 256, (3, height, width), np.uint8)),
                "height": int(height * 1.37),
                "width": int(width * 1.21),
                "boxes": torch.from_numpy(boxes).float().reshape(-1, 4),
                "classes": torch.from_numpy(random.integers(0, num_classes, count)),
                "polygons": polygons,
            }
        )
    return batch


def to_detectron2(batch: list[dict], mask_on: bool) -> list[dict]:
    from detectron2.structures import Boxes, Instances, PolygonMasks

    converted = []
    for sample in copy.deepcopy(batch):
        instances = Instances(tuple(sample["image"].shape[1:]))
        instances.gt_boxes = Boxes(sample.pop("boxes"))
        instances.gt_classes = sample.pop("classes")
        polygons = sample.pop("polygons")
        if mask_on:
            instances.gt_masks = PolygonMasks(polygons)
        converted.append({**sample, "instances": instances})
    return converted


def sensible_state(fields: dict) -> dict[str, torch.Tensor]:
    """Random weights with norm statistics that keep activations near one, also for FrozenBN."""
    source = build_detector(**{**fields, **SMALL, "norm": "BN", "freeze_at": 0})
    for module in source.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    predictor = source.roi_heads.box_predictor
    for layer in (predictor.bbox_pred, predictor.cls_score):
        torch.nn.init.normal_(layer.weight, std=0.05)
    with torch.no_grad():
        source(make_batch(1, fields["num_classes"]))
    return source.state_dict()


def build_both(case: str) -> tuple[Detector, torch.nn.Module, dict]:
    fields = {**CASES[case], **SMALL}
    torch.manual_seed(3)
    state = sensible_state(CASES[case])
    ours, theirs = build_detector(**fields), build_theirs(fields)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    for model in (ours, theirs):
        own = model.state_dict()
        model.load_state_dict({key: state[key] for key in own})
    return ours, theirs, fields


def losses_of(
    ours: Detector, theirs: torch.nn.Module, fields: dict, seed: int
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    from detectron2.utils.events import EventStorage

    batch = make_batch(seed, fields["num_classes"])
    torch.manual_seed(seed)
    with EventStorage():
        expected = theirs(to_detectron2(batch, fields.get("mask_on", False)))
    torch.manual_seed(seed)
    return ours(batch), expected


@pytest.mark.parametrize("case", CASES)
def test_random_initialisation_is_the_same(case: str) -> None:
    fields = {**CASES[case], **SMALL}
    torch.manual_seed(7)
    theirs = build_theirs(fields).state_dict()
    torch.manual_seed(7)
    ours = build_detector(**fields).state_dict()
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients(case: str) -> None:
    ours, theirs, fields = build_both(case)
    # Seed 2 has an image without objects.
    for seed in (1, 2) if case in ("c4_voc", "fpn_mask") else (1,):
        found, expected = losses_of(ours, theirs, fields, seed)
        assert set(found) == set(expected)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-6, atol=0.0, msg=key)
        ours.zero_grad(), theirs.zero_grad()
        sum(found.values()).backward()
        sum(expected.values()).backward()
        theirs_by_name = dict(theirs.named_parameters())
        assert set(theirs_by_name) == {name for name, _ in ours.named_parameters()}
        for name, parameter in ours.named_parameters():
            other = theirs_by_name[name]
            assert parameter.requires_grad == other.requires_grad, name
            if parameter.requires_grad:
                assert torch.equal(parameter.grad, other.grad), (name, seed)


@pytest.mark.parametrize("case", CASES)
def test_detections(case: str) -> None:
    ours, theirs, fields = build_both(case)
    ours.eval(), theirs.eval()
    batch = make_batch(5, fields["num_classes"])
    with torch.no_grad():
        expected = [result["instances"] for result in theirs(to_detectron2(batch, False))]
    found = ours(batch)
    for mine, other in zip(found, expected):
        assert len(mine) > 0
        assert torch.equal(mine.boxes, other.pred_boxes.tensor)
        assert torch.equal(mine.scores, other.scores)
        assert torch.equal(mine.classes, other.pred_classes)
        if fields.get("mask_on"):
            assert torch.equal(mine.masks, other.pred_masks)


@pytest.mark.parametrize("case", ["c4_voc", "fpn_mask"])
def test_three_steps(case: str) -> None:
    ours, theirs, fields = build_both(case)
    optimisers = [
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3, momentum=0.9)
        for model in (ours, theirs)
    ]
    for step in range(3):
        for losses, optimiser in zip(losses_of(ours, theirs, fields, step), optimisers):
            optimiser.zero_grad()
            sum(losses.values()).backward()
            optimiser.step()
    theirs_state = theirs.state_dict()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs_state[name], rtol=1e-6, atol=1e-9, msg=name)


def test_mask_targets_of_both_forms() -> None:
    from detectron2.structures import BitMasks as TheirBitMasks
    from detectron2.structures import PolygonMasks

    random = np.random.default_rng(0)
    polygons = [[random.uniform(0, 60, 10), random.uniform(0, 60, 8)] for _ in range(6)]
    corners = random.uniform(0, 50, (6, 2))
    boxes = np.concatenate([corners, corners + random.uniform(0, 30, (6, 2))], axis=1)
    boxes[0, 2:] = boxes[0, :2] + 0.05  # narrower than the least side that zooming divides by
    boxes_tensor, index = torch.from_numpy(boxes).float(), torch.arange(6)
    bitmaps = torch.from_numpy(random.uniform(size=(6, 60, 60)) > 0.5)
    for size in (14, 28):
        expected = PolygonMasks(copy.deepcopy(polygons)).crop_and_resize(boxes_tensor, size)
        assert torch.equal(Polygons(polygons).crop(index, boxes_tensor, size), expected)
        expected = TheirBitMasks(bitmaps).crop_and_resize(boxes_tensor, size)
        assert torch.equal(BitMasks(bitmaps).crop(index, boxes_tensor, size), expected)


def test_our_file_is_read_by_their_checkpointer(tmp_path: Path) -> None:
    from detectron2.checkpoint import DetectionCheckpointer

    fields = {**CASES["fpn_r18"], **SMALL}
    ours, theirs = build_detector(**fields), build_theirs(fields)
    torch.save({"model": ours.state_dict()}, tmp_path / "model_final.pth")
    DetectionCheckpointer(theirs).load(str(tmp_path / "model_final.pth"))
    expected = ours.state_dict()
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, expected[name]), name
    again = build_detector(**fields)
    report = load_model(again, {k: v.numpy() for k, v in theirs.state_dict().items()})
    assert report.unexpected == [] and report.expected_missing == []
