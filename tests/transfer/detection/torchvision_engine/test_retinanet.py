"""RetinaNet: labels, losses and detections against loops over anchors and classes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pretrain.common.errors import InputError
from tests.transfer.detection.equality.cases import RETINANET
from tests.transfer.detection.specs import make_spec
from transfer.detection.torchvision_engine.boxes import pairwise_iou
from transfer.detection.torchvision_engine.retinanet import RetinaNet
from transfer.detection.torchvision_engine.structures import Targets

K = 5


def make(**keys: Any) -> RetinaNet:
    torch.manual_seed(0)
    found = make_spec({**RETINANET, "MODEL.FPN.OUT_CHANNELS": 8, **keys}).build()
    assert isinstance(found, RetinaNet)
    return found


def random_boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 60
    return torch.cat([corners, corners + 4 + 50 * torch.rand(count, 2, generator=generator)], 1)


def test_labels_of_anchors() -> None:
    model, anchors = make(), random_boxes(60, 1)
    truth = Targets(random_boxes(3, 2), torch.tensor([4, 0, 2]), None)
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), None)
    classes, _ = model.label_anchors(anchors, [truth, nothing])
    overlaps = pairwise_iou(truth.boxes, anchors)
    best_of_truth = overlaps.max(dim=1).values
    for place in range(60):
        overlap, which = overlaps[:, place].max(dim=0)
        expected = K if overlap < 0.4 else -1 if overlap < 0.5 else int(truth.classes[which])
        if (overlaps[:, place] == best_of_truth).any():
            expected = int(truth.classes[which])
        assert classes[0, place] == expected
    assert (classes[1] == K).all()


def test_losses_and_their_running_divisor() -> None:
    model = make()
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 30, K, generator=generator)
    deltas, wanted = (torch.randn(2, 30, 4, generator=generator) for _ in range(2))
    classes = torch.randint(-1, K + 1, (2, 30), generator=generator)
    focal = distance = 0.0
    for image in range(2):
        for place in range(30):
            label = int(classes[image, place])
            if label < 0:
                continue
            for kind in range(K):
                p = torch.sigmoid(logits[image, place, kind].double()).item()
                if kind == label:
                    focal -= 0.25 * (1 - p) ** 2 * math.log(p)
                else:
                    focal -= 0.75 * p**2 * math.log(1 - p)
            if label < K:
                for x in (deltas - wanted)[image, place].abs().tolist():
                    distance += 0.5 * x * x / 0.1 if x < 0.1 else x - 0.05
    count = int(((classes >= 0) & (classes < K)).sum())
    divisor = 100.0
    for _ in range(2):
        found = model.losses_of(logits, deltas, classes, wanted, torch.zeros(30, 4))
        divisor = 0.9 * divisor + 0.1 * count
        assert found["loss_cls"].item() == pytest.approx(focal / divisor, rel=1e-5)
        assert found["loss_box_reg"].item() == pytest.approx(distance / divisor, rel=1e-5)
    assert model.running["divisor"] == pytest.approx(divisor)


def test_the_best_candidates_of_each_map_then_nms_per_class() -> None:
    model = make(**{"TEST.DETECTIONS_PER_IMAGE": 6, "MODEL.RETINANET.TOPK_CANDIDATES_TEST": 7})
    generator = torch.Generator().manual_seed(5)
    anchors = [random_boxes(12, 6), random_boxes(5, 7)]
    scores = [torch.rand(len(level), K, generator=generator) for level in anchors]
    deltas = [torch.randn(len(level), 4, generator=generator) * 0.2 for level in anchors]
    found = model._find_in_image(anchors, scores, deltas)
    candidates = []
    for anchor, score, delta in zip(anchors, scores, deltas):
        boxes = model.coder.decode(delta, anchor)
        level = [
            (score[row, kind].item(), kind, boxes[row])
            for row in range(len(anchor))
            for kind in range(K)
            if score[row, kind] > 0.3
        ]
        candidates += sorted(level, key=lambda each: -each[0])[:7]
    kept: list[tuple[float, int, Tensor]] = []
    for score, kind, box in sorted(candidates, key=lambda each: -each[0]):
        same = [other for _, other_kind, other in kept if other_kind == kind]
        if all(pairwise_iou(box[None], other[None]).item() <= 0.5 for other in same):
            kept.append((score, kind, box))
    kept = kept[:6]
    assert found.classes.tolist() == [kind for _, kind, _ in kept]
    torch.testing.assert_close(found.scores, torch.tensor([score for score, _, _ in kept]))
    torch.testing.assert_close(found.boxes, torch.stack([box for _, _, box in kept]))


def test_the_first_scores_are_the_prior() -> None:
    model = make(**{"MODEL.RETINANET.PRIOR_PROB": 0.02})
    logits, _ = model.head([torch.zeros(1, 8, 3, 3)])
    torch.testing.assert_close(logits[0].sigmoid(), torch.full((1, 54, K), 0.02))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.RETINANET.IN_FEATURES", ["p2"], "MODEL.RETINANET.IN_FEATURES .* p2 is not among"),
        (
            "MODEL.RETINANET.IN_FEATURES",
            ["p3"],
            r"5 rows for 1 feature maps \(MODEL.RETINANET.IN_F",
        ),
        ("MODEL.RETINANET.NORM", "SyncBN", "MODEL.RETINANET.NORM 'SyncBN' is not supported; known"),
        ("MODEL.RETINANET.PRIOR_PROB", 0.0, "PRIOR_PROB 0.0 must be between 0 and 1"),
        ("MODEL.RETINANET.FOCAL_LOSS_ALPHA", 1.5, "FOCAL_LOSS_ALPHA 1.5 must be between 0 and 1"),
        ("MODEL.RETINANET.FOCAL_LOSS_GAMMA", -1.0, "FOCAL_LOSS_GAMMA -1.0 must be 0 or above"),
        ("MODEL.RETINANET.IOU_THRESHOLDS", [0.5], "IOU_THRESHOLDS .* must be 2 numbers"),
        ("MODEL.RETINANET.BBOX_REG_LOSS_TYPE", "l2", "BBOX_REG_LOSS_TYPE 'l2' is unknown"),
        ("MODEL.RETINANET.NUM_CONVS", -1, "NUM_CONVS must be 0 or above, got -1"),
        ("MODEL.MASK_ON", True, "MODEL.MASK_ON True needs MODEL.META_ARCHITECTURE Generalized"),
        ("MODEL.BACKBONE.NAME", "build_resnet_backbone", "does not work with MODEL.BACKBONE.NAME"),
        ("MODEL.META_ARCHITECTURE", "FCOS", "FCOS"),
        ("MODEL.FPN.FUSE_TYPE", "max", "MODEL.FPN.FUSE_TYPE 'max' is unknown; known: sum, avg"),
    ],
)
def test_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**{key: value})


@pytest.mark.parametrize("used", [("p3", "p4", "p5", "p6", "p7"), ("p3", "p4", "p5", "p7")])
def test_every_layer_gets_a_gradient_unless_a_map_is_left_out(used: tuple[str, ...]) -> None:
    sizes = {"MODEL.ANCHOR_GENERATOR.SIZES": [[32]]}
    assert not make(**{"MODEL.RETINANET.IN_FEATURES": list(used), **sizes}).leaves_unused
    for gone in ("p3", "p5", "p7"):
        less = [name for name in used if name != gone]
        assert make(**{"MODEL.RETINANET.IN_FEATURES": less, **sizes}).leaves_unused
