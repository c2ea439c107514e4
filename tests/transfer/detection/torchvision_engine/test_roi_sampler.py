"""Sampling of proposals for the heads, against loops."""

from __future__ import annotations

import pytest
import torch

from transfer.detection.torchvision_engine.boxes import pairwise_iou
from transfer.detection.torchvision_engine.roi_sampler import RoiSampler, RoiSamplerSpec
from transfer.detection.torchvision_engine.structures import Targets, foreground_rows

K = 4


def make_sampler(append_gt: bool = True) -> RoiSampler:
    spec = RoiSamplerSpec(
        batch_size_per_image=16,
        positive_fraction=0.25,
        iou_thresholds=(0.5,),
        proposal_append_gt=append_gt,
    )
    return RoiSampler(spec, num_classes=K)


def random_boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 30
    return torch.cat([corners, corners + 5 + torch.rand(count, 2, generator=generator) * 30], 1)


def make_targets(count: int) -> Targets:
    return Targets(random_boxes(count, 1), torch.arange(count) % K, None)


def test_classes_and_matches() -> None:
    targets, proposals = make_targets(3), random_boxes(60, 2)
    sample = make_sampler()([proposals], [targets])[0]
    iou = pairwise_iou(targets.boxes, sample.boxes)
    for row in range(len(sample.boxes)):
        best = int(iou[:, row].argmax())
        assert sample.gt_index[row] == best
        assert torch.equal(sample.gt_boxes[row], targets.boxes[best])
        foreground = iou[best, row] >= 0.5
        expected = targets.classes[best].item() if foreground else K
        assert sample.classes[row].item() == expected
    positives = sample.classes < K
    assert len(sample.boxes) == 16 and 1 <= positives.sum() <= 4
    assert positives.tolist() == sorted(positives.tolist(), reverse=True)


@pytest.mark.parametrize("append", [True, False])
def test_ground_truth_joins_the_proposals(append: bool) -> None:
    targets = make_targets(2)
    far = torch.tensor([[200.0, 200.0, 210.0, 210.0]])
    sample = make_sampler(append_gt=append)([far], [targets])[0]
    assert (sample.classes < K).sum() == (2 if append else 0)
    assert len(sample.boxes) == (3 if append else 1)


def test_image_without_objects() -> None:
    empty = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), None)
    sample = make_sampler()([random_boxes(30, 3)], [empty])[0]
    assert sample.classes.tolist() == [K] * 16
    assert torch.isfinite(sample.gt_boxes).all()
    assert len(make_sampler()([torch.zeros(0, 4)], [empty])[0].boxes) == 0


def test_objects_come_first_and_are_counted() -> None:
    proposals = [random_boxes(30, 3), random_boxes(20, 4), random_boxes(9, 5)]
    empty = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), None)
    samples = make_sampler()(proposals, [make_targets(2), empty, make_targets(3)])
    classes = torch.cat([sample.classes for sample in samples])
    assert torch.equal(foreground_rows(samples), torch.nonzero(classes < K).squeeze(1))
    for sample in samples:
        rows = torch.nonzero(sample.classes < K).squeeze(1)
        some = sample.foreground()
        assert some.positives == len(rows) and some.targets is sample.targets
        for field in ("boxes", "classes", "gt_boxes", "gt_index"):
            assert torch.equal(getattr(some, field), getattr(sample, field)[rows]), field
