"""Box head and predictor: losses and detections against loops over boxes and classes."""

from __future__ import annotations

import math

import pytest
import torch

from transfer.detection.torchvision_engine.box_head import (
    BoxPredictor,
    BoxPredictorSpec,
    ConvFCHeadSpec,
)
from transfer.detection.torchvision_engine.box_losses import BoxLossSpec
from transfer.detection.torchvision_engine.boxes import pairwise_iou
from transfer.detection.torchvision_engine.structures import BoxTargets, RoiSample, Targets

K = 3


L1 = BoxLossSpec(kind="smooth_l1", beta=0.0, weight=1.0)


def make_predictor(score_thresh: float = 0.05, sigmoid: bool = False) -> BoxPredictor:
    torch.manual_seed(0)
    spec = BoxPredictorSpec(
        bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
        class_agnostic=False,
        sigmoid=sigmoid,
        box_loss=L1,
        score_thresh=score_thresh,
        nms_thresh=0.5,
        detections_per_image=6,
    )
    return BoxPredictor(spec, inputs=8, num_classes=K)


def random_boxes(count: int, generator: torch.Generator) -> torch.Tensor:
    corners = torch.rand(count, 2, generator=generator) * 40
    return torch.cat([corners, corners + 2 + torch.rand(count, 2, generator=generator) * 30], 1)


def make_sample(count: int, seed: int) -> RoiSample:
    generator = torch.Generator().manual_seed(seed)
    boxes, truth = random_boxes(count, generator), random_boxes(count, generator)
    classes = torch.randint(0, K + 1, (count,), generator=generator).sort().values
    targets = Targets(truth, classes, None)
    positives = int((classes < K).sum())
    return RoiSample(boxes, classes, truth, torch.arange(count), targets, positives)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_losses(sigmoid: bool) -> None:
    predictor = make_predictor(sigmoid=sigmoid)
    samples = [make_sample(6, 1), make_sample(4, 2)]
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(10, K + 1, generator=generator)
    deltas = torch.randn(10, 4 * K, generator=generator)
    classes = torch.cat([sample.classes for sample in samples]).tolist()
    boxes = torch.cat([sample.boxes for sample in samples])
    truth = torch.cat([sample.gt_boxes for sample in samples])
    entropy = distance = 0.0
    for row, label in enumerate(classes):
        if sigmoid:
            for number in range(K):
                score = logits[row, number].double().sigmoid().item()
                entropy -= math.log(score if number == label else 1.0 - score)
        else:
            entropy -= logits[row].double().log_softmax(0)[label].item()
        if label < K:
            wanted = predictor.coder.encode(boxes[row][None], truth[row][None])[0]
            distance += (deltas[row, 4 * label : 4 * label + 4] - wanted).abs().sum().item()
    found = predictor.losses(logits, deltas, BoxTargets.of(samples))
    assert found["loss_cls"].item() == pytest.approx(entropy / 10, rel=1e-5)
    assert found["loss_box_reg"].item() == pytest.approx(distance / 10, rel=1e-5)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_losses_without_boxes_are_zero_with_a_gradient(sigmoid: bool) -> None:
    predictor = make_predictor(sigmoid=sigmoid)
    truth = BoxTargets.of([make_sample(0, 0)])
    found = predictor.losses(*predictor(torch.zeros(0, 8)), truth)
    sum(found.values()).backward()
    assert found["loss_cls"].item() == 0.0 and found["loss_box_reg"].item() == 0.0
    assert predictor.cls_score.weight.grad is not None


def slow_detect(predictor: BoxPredictor, logits, deltas, boxes, size) -> list[tuple]:
    probabilities = logits.softmax(1)
    if predictor.spec.sigmoid:
        probabilities = 1.0 / (1.0 + (-logits).exp())
    decoded = predictor.coder.decode(deltas, boxes).view(len(boxes), K, 4)
    found = []
    for label in range(K):
        candidates = []
        for row in range(len(boxes)):
            score = probabilities[row, label].item()
            x1, y1, x2, y2 = decoded[row, label].tolist()
            clipped = [min(max(x1, 0), size[1]), min(max(y1, 0), size[0])]
            clipped += [min(max(x2, 0), size[1]), min(max(y2, 0), size[0])]
            if score > predictor.spec.score_thresh:
                candidates.append((score, label, clipped))
        kept: list[tuple] = []
        for candidate in sorted(candidates, key=lambda c: -c[0]):
            box = torch.tensor([candidate[2]])
            if all(pairwise_iou(box, torch.tensor([k[2]])).item() <= 0.5 for k in kept):
                kept.append(candidate)
        found += kept
    return sorted(found, key=lambda c: -c[0])[: predictor.spec.detections_per_image]


@pytest.mark.parametrize("sigmoid", [False, True])
def test_detect_against_loops(sigmoid: bool) -> None:
    predictor = make_predictor(sigmoid=sigmoid)
    generator = torch.Generator().manual_seed(5)
    proposals = [random_boxes(9, generator), random_boxes(7, generator)]
    logits = torch.randn(16, K + 1, generator=generator) * 2
    deltas = torch.randn(16, 4 * K, generator=generator)
    sizes = [(50, 60), (45, 40)]
    found = predictor.detect(logits, deltas, proposals, sizes)
    for image, rows in enumerate((slice(0, 9), slice(9, 16))):
        expected = slow_detect(
            predictor, logits[rows], deltas[rows], proposals[image], sizes[image]
        )
        assert len(expected) == len(found[image])
        for row, (score, label, box) in enumerate(expected):
            assert found[image].scores[row].item() == pytest.approx(score, rel=1e-6)
            assert found[image].classes[row].item() == label
            assert found[image].boxes[row].tolist() == pytest.approx(box, rel=1e-5, abs=1e-4)


def test_detect_finds_nothing_and_drops_what_is_not_finite() -> None:
    predictor = make_predictor(score_thresh=0.9)
    boxes = random_boxes(4, torch.Generator().manual_seed(0))
    logits, deltas = torch.zeros(4, K + 1), torch.zeros(4, 4 * K)
    assert len(predictor.detect(logits, deltas, [boxes], [(50, 50)])[0]) == 0
    logits[0, 1], logits[1, 1] = 50.0, 50.0
    deltas[1, 0] = math.nan
    found = predictor.detect(logits, deltas, [boxes], [(80, 80)])[0]
    assert len(found) == 1 and torch.allclose(found.boxes[0], boxes[0], atol=1e-4)


def test_conv_fc_head_is_its_layers_in_order() -> None:
    spec = ConvFCHeadSpec(num_conv=2, conv_dim=5, num_fc=1, fc_dim=6, norm="BN")
    head = spec.build(channels=4, resolution=3).eval()
    x = torch.randn(2, 4, 3, 3)
    y = x
    for layer in (head.conv1, head.conv2):
        y = torch.nn.functional.conv2d(y, layer.weight, None, padding=1)
        y = torch.relu(layer.norm(y))
    expected = torch.relu(head.fc1(y.flatten(1)))
    assert torch.allclose(head(x), expected)
    assert head.out_dim == 6 and head.conv1.bias is None
