"""RPN: labels, losses and proposals against loops; order of the flattened heads."""

from __future__ import annotations

import math

import pytest
import torch

from transfer.detection.torchvision_engine.anchors import AnchorSpec
from transfer.detection.torchvision_engine.box_losses import BoxLossSpec
from transfer.detection.torchvision_engine.boxes import pairwise_iou
from transfer.detection.torchvision_engine.rpn import RPN, RPNHead, RPNSpec

SIZES = [(40, 48), (33, 48)]


def make_rpn() -> RPN:
    torch.manual_seed(0)
    spec = RPNSpec(
        anchors=AnchorSpec(sizes=((8, 16), (16, 32)), aspect_ratios=((1.0, 2.0),), offset=0.0),
        in_features=("p3", "p4"),
        conv_dims=(-1,),
        iou_thresholds=(0.3, 0.7),
        batch_size_per_image=16,
        positive_fraction=0.5,
        bbox_reg_weights=(1.0, 1.0, 1.0, 1.0),
        box_loss=BoxLossSpec(kind="smooth_l1", beta=0.0, weight=1.0),
        loss_weight=1.0,
        pre_nms_topk_train=20,
        pre_nms_topk_test=10,
        post_nms_topk_train=12,
        post_nms_topk_test=5,
        nms_thresh=0.7,
    )
    return RPN(spec, channels={"p3": 6, "p4": 6}, strides={"p3": 8, "p4": 16})


def make_maps() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(2, 6, 5, 6), (2, 6, 3, 3)]
    return [torch.randn(shape, generator=generator) * 20 for shape in shapes]


def slow_nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> list[int]:
    iou = pairwise_iou(boxes, boxes)
    kept: list[int] = []
    for index in scores.argsort(descending=True).tolist():
        if all(iou[index, other] <= threshold for other in kept):
            kept.append(index)
    return kept


def test_head_flattens_to_row_column_anchor() -> None:
    head = RPNHead(6, 4)
    feature = make_maps()[0]
    logits, deltas = (part[0] for part in head([feature]))
    hidden = torch.relu(torch.nn.functional.conv2d(feature, head.conv.weight, head.conv.bias, 1, 1))
    raw_logits, raw_deltas = head.objectness_logits(hidden), head.anchor_deltas(hidden)
    position = 0
    for row in range(5):
        for column in range(6):
            for anchor in range(4):
                assert logits[1, position] == raw_logits[1, anchor, row, column]
                expected = raw_deltas[1, 4 * anchor : 4 * anchor + 4, row, column]
                assert torch.equal(deltas[1, position], expected)
                position += 1


def test_labels_of_anchors() -> None:
    rpn = make_rpn()
    anchors = torch.cat(rpn.anchor_generator(make_maps()))
    truth = torch.tensor([[3.0, 3.0, 20.0, 22.0], [10.0, 5.0, 40.0, 39.0]])
    labels, targets = rpn.label_anchors(anchors, [truth, torch.zeros(0, 4)])
    assert (labels[0] >= 0).sum() == 16
    assert 1 <= (labels[0] == 1).sum() <= 8
    assert (labels[1] == 1).sum() == 0 and (labels[1] == 0).sum() == 16
    iou = pairwise_iou(truth, anchors)
    for place in torch.nonzero(labels[0] == 1).flatten().tolist():
        best = int(iou[:, place].argmax())
        good = iou[best, place] >= 0.7
        ties = any(iou[row, place] == iou[row].max() for row in range(2))
        assert good or ties
        decoded = rpn.coder.decode(targets[0, place][None], anchors[place][None])
        torch.testing.assert_close(decoded[0], truth[best], rtol=1e-4, atol=1e-3)


def test_losses_against_sums() -> None:
    rpn = make_rpn()
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 30, generator=generator)
    deltas = torch.randn(2, 30, 4, generator=generator)
    targets = torch.randn(2, 30, 4, generator=generator)
    labels = torch.randint(-1, 2, (2, 30), generator=generator, dtype=torch.int8)
    targets[labels != 1] = math.inf  # never read
    classification = localisation = 0.0
    for image in range(2):
        for place in range(30):
            label = labels[image, place].item()
            if label >= 0:
                probability = torch.sigmoid(logits[image, place].double()).item()
                classification -= math.log(probability if label else 1 - probability)
            if label == 1:
                difference = deltas[image, place] - targets[image, place]
                localisation += difference.abs().sum().item()
    found = rpn.losses(logits, deltas, labels, targets, torch.zeros(30, 4))
    # Divided by the constant 16 * 2 images, not by the number of labels used.
    assert found["loss_rpn_cls"].item() == pytest.approx(classification / 32, rel=1e-5)
    assert found["loss_rpn_loc"].item() == pytest.approx(localisation / 32, rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_proposals(training: bool) -> None:
    rpn = make_rpn().train(training)
    maps = make_maps()
    anchors = rpn.anchor_generator(maps)
    logits, deltas = rpn.rpn_head(maps)
    found, finite = rpn.propose(anchors, logits, deltas, SIZES)
    assert finite
    pre, post = (20, 12) if training else (10, 5)
    for image, (height, width) in enumerate(SIZES):
        kept_boxes, kept_scores = [], []
        for level in range(2):
            order = logits[level][image].argsort(descending=True)[:pre]
            boxes = rpn.coder.decode(deltas[level][image][order], anchors[level][order])
            boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
            boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height)
            scores = logits[level][image][order]
            whole = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
            boxes, scores = boxes[whole], scores[whole]
            chosen = slow_nms(boxes, scores, 0.7)
            kept_boxes.append(boxes[chosen])
            kept_scores.append(scores[chosen])
        order = torch.cat(kept_scores).argsort(descending=True)[:post]
        torch.testing.assert_close(found[image], torch.cat(kept_boxes)[order])


def test_forward_detaches_proposals_and_trains_without_objects() -> None:
    rpn = make_rpn()
    proposals, losses = rpn(make_maps(), SIZES, [torch.zeros(0, 4), torch.zeros(0, 4)])
    assert not any(boxes.requires_grad for boxes in proposals)
    sum(losses.values()).backward()
    assert losses["loss_rpn_loc"].item() == 0.0
    assert rpn.rpn_head.objectness_logits.weight.grad.abs().sum() > 0
    assert rpn.rpn_head.anchor_deltas.weight.grad is not None


def test_not_finite() -> None:
    rpn = make_rpn()
    maps = make_maps()
    maps[0][0, 0, 0, 0] = math.nan
    proposals, losses = rpn(maps, SIZES, [torch.zeros(0, 4)] * 2)
    assert losses["loss_rpn_loc"].isnan(), "the loop stops, with the iteration and the losses"
    assert all(torch.isfinite(boxes).all() for boxes in proposals)
    proposals, losses = rpn.eval()(maps, SIZES)
    assert losses == {}
    assert all(torch.isfinite(boxes).all() for boxes in proposals)
