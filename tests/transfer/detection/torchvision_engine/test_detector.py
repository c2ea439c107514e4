"""Complete detectors on tiny images: losses, gradients, empty cases, batching, preprocessing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pretrain.common.errors import InputError
from pretrain.data.highpass import HighPass
from tests.transfer.detection import specs
from transfer.detection.torchvision_engine.detector import Detector

SMALL = {
    "MODEL.ROI_HEADS.NUM_CLASSES": 3,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 60,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 20,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 30,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 6,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 6,
    "MODEL.PIXEL_MEAN": (123.675, 116.28, 103.53),
    "MODEL.PIXEL_STD": (58.395, 57.12, 57.375),
}
KINDS = {
    "C4": {"MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm"},
    "FPN": {
        **specs.FPN,
        **specs.R18,
        "MODEL.ANCHOR_GENERATOR.SIZES": specs.LEVELS,
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
        "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
        "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
        "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
        "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
        "MODEL.MASK_ON": True,
        "MODEL.FPN.OUT_CHANNELS": 16,
    },
    "C5": {
        **specs.C5,
        "MODEL.RESNETS.RES5_DILATION": 2,
        "MODEL.RESNETS.NUM_GROUPS": 32,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 3,
        "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
        "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    },
    "TINY": {
        **specs.TINY,
        "MODEL.ANCHOR_GENERATOR.SIZES": ((16, 32),),
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 5,
        "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
        "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
        "MODEL.MASK_ON": True,
        "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
        "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    },
}


def make(kind: str, score_thresh: float = 0.05, highpass: HighPass | None = None) -> Detector:
    torch.manual_seed(0)
    keys = {**SMALL, **KINDS[kind], "MODEL.ROI_HEADS.SCORE_THRESH_TEST": score_thresh}
    return specs.make_detector(keys, highpass)


def make_sample(count: int, seed: int, size: tuple[int, int] = (64, 72)) -> dict:
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 20, (count, 2))
    boxes = np.concatenate([corners, corners + random.uniform(15, 40, (count, 2))], 1)
    return {
        "image": torch.from_numpy(random.integers(0, 256, (3, *size), np.uint8)),
        "height": size[0] * 2,
        "width": size[1] * 2,
        "file_name": f"{seed}.jpg",
        "boxes": torch.from_numpy(boxes).float().reshape(-1, 4),
        "classes": torch.from_numpy(random.integers(0, 3, count)),
        "polygons": [[np.array([x, y, u, y, u, v, x, v])] for x, y, u, v in boxes],
    }


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind: str) -> None:
    detector = make(kind)
    losses = detector([make_sample(2, 0), make_sample(1, 1, (56, 80))])
    names = {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}
    assert set(losses) == names | ({"loss_mask"} if detector.spec.roi_heads.mask_head else set())
    sum(losses.values()).backward()
    assert torch.isfinite(torch.stack(list(losses.values()))).all()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    assert detector.backbone.state_dict()
    stem = detector.backbone.bottom_up.stem if kind == "FPN" else detector.backbone.stem
    assert stem.conv1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["FPN", "TINY"])
def test_images_without_objects_train(kind: str) -> None:
    detector = make(kind)
    losses = detector([make_sample(0, 0), make_sample(0, 1)])
    sum(losses.values()).backward()
    assert losses["loss_box_reg"].item() == 0.0 and losses["loss_rpn_loc"].item() == 0.0
    if "loss_mask" in losses:
        assert losses["loss_mask"].item() == 0.0
    assert all(parameter.grad is not None for parameter in detector.parameters())


@pytest.mark.parametrize("kind", ["FPN", "TINY"])
def test_detections_lie_in_the_original_image(kind: str) -> None:
    detector = make(kind, score_thresh=0.0).eval()
    sample = make_sample(0, 0)
    found = detector([sample])[0]
    assert len(found) > 0 and not found.boxes.requires_grad
    assert found.masks.shape == (len(found), sample["height"], sample["width"])
    assert found.masks.dtype == torch.bool
    assert (found.boxes >= 0).all()
    assert (found.boxes[:, 2] <= sample["width"]).all()
    assert (found.boxes[:, 3] <= sample["height"]).all()
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


@pytest.mark.parametrize("kind", ["FPN", "TINY"])
def test_no_detections(kind: str) -> None:
    found = make(kind, score_thresh=1.0).eval()([make_sample(0, 0)])[0]
    assert found.boxes.shape == (0, 4) and found.scores.shape == (0,)
    assert found.classes.dtype == torch.int64
    assert found.masks is None or found.masks.shape == (0, 128, 144)


@pytest.mark.parametrize("kind", ["FPN", "TINY"])
def test_a_batch_is_its_images(kind: str) -> None:
    detector = make(kind, score_thresh=0.0).eval()
    nn.init.normal_(detector.roi_heads.box_predictor.cls_score.weight, std=0.2)
    samples = [make_sample(0, 0), make_sample(0, 1)]
    together = detector(samples)
    for sample, found in zip(samples, together):
        alone = detector([sample])[0]
        torch.testing.assert_close(found.boxes, alone.boxes, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found.scores, alone.scores, rtol=1e-4, atol=1e-5)
        assert torch.equal(found.classes, alone.classes)


def test_padding_is_zero_after_normalisation_and_sizes_are_kept() -> None:
    images = [make_sample(0, seed, size)["image"] for seed, size in ((0, (40, 70)), (1, (50, 33)))]
    for kind, shape in (("TINY", (50, 70)), ("FPN", (64, 96))):
        detector = make(kind)
        padded, sizes = detector.preprocess(images)
        assert padded.shape == (2, 3, *shape)
        assert sizes == [(40, 70), (50, 33)]
        expected = (images[1].float() - detector.pixel_mean) / detector.pixel_std
        assert torch.equal(padded[1, :, :50, :33], expected)
        assert not padded[1, :, 50:].any() and not padded[1, :, :, 33:].any()


def test_highpass_comes_between_normalisation_and_padding() -> None:
    filtered = make("TINY", highpass=HighPass(5, 2.0))
    plain = make("TINY")
    images = [make_sample(0, seed, size)["image"] for seed, size in ((0, (40, 70)), (1, (50, 33)))]
    found, _ = filtered.preprocess(images)
    for index, image in enumerate(images):
        normalised, ((height, width),) = plain.preprocess([image])
        expected = HighPass(5, 2.0).apply(normalised)[0]
        assert torch.equal(found[index, :, :height, :width], expected)
    assert not found[0, :, 40:].any() and not found[1, :, :, 33:].any()


def test_masks_are_missing() -> None:
    sample = {**make_sample(1, 7), "polygons": None}
    with pytest.raises(InputError, match="7.jpg.*MASK_ON"):
        make("TINY")([sample])


def test_bitmasks_train() -> None:
    sample = {**make_sample(1, 7), "polygons": None}
    sample["bitmasks"] = torch.zeros(1, 64, 72, dtype=torch.bool)
    sample["bitmasks"][0, 5:40, 5:40] = True
    assert torch.isfinite(make("TINY")([sample])["loss_mask"])
