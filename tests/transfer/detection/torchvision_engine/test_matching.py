"""Matching against loops; sampling against its specification and its random draws."""

from __future__ import annotations

import pytest
import torch

from transfer.detection.torchvision_engine.matching import IGNORE, match, sample


def slow_match(iou: list[list[float]], low: float, high: float, low_quality: bool):
    count = len(iou[0])
    index, labels = [], []
    for column in range(count):
        values = [row[column] for row in iou]
        best = max(values)
        index.append(values.index(best))
        labels.append(1 if best >= high else 0 if best < low else IGNORE)
    if low_quality:
        for row in iou:
            for column in range(count):
                if row[column] == max(row):
                    labels[column] = 1
    return index, labels


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("thresholds", [(0.3, 0.7), (0.5, 0.5)])
def test_match(low_quality: bool, thresholds: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    # Steps of 0.1 make ties and values on the thresholds.
    iou = torch.randint(0, 11, (4, 30), generator=generator) / 10
    iou[3] = iou[3] * 0.25  # a ground truth with low-quality matches only
    low, high = thresholds
    index, labels = match(iou, low=low, high=high, allow_low_quality=low_quality)
    low, high = torch.tensor([low, high]).tolist()  # the comparison is one of float32 values
    expected_index, expected_labels = slow_match(iou.tolist(), low, high, low_quality)
    best = iou.gather(0, index[None])[0]
    assert torch.equal(best, iou.gather(0, torch.tensor(expected_index)[None])[0])
    assert labels.tolist() == expected_labels


def test_thresholds_are_half_open() -> None:
    iou = torch.tensor([[0.3, 0.7, 0.29999, 0.69999, 1.0]])
    _, labels = match(iou, low=0.3, high=0.7, allow_low_quality=False)
    assert labels.tolist() == [IGNORE, 1, 0, IGNORE, 1]


def test_a_truth_without_overlap_makes_untouched_boxes_positive() -> None:
    iou = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.8, 0.1]])
    index, labels = match(iou, low=0.3, high=0.7, allow_low_quality=True)
    assert labels.tolist() == [1, 1, 1]  # upstream's behaviour
    assert index[1].item() == 1


def test_no_ground_truth_is_all_background() -> None:
    index, labels = match(torch.zeros(0, 5), low=0.3, high=0.7, allow_low_quality=True)
    assert index.tolist() == [0] * 5
    assert labels.tolist() == [0] * 5


@pytest.mark.parametrize(
    "positives, negatives, expected", [(50, 50, (8, 24)), (3, 50, (3, 29)), (50, 4, (8, 4))]
)
def test_sample_counts(positives: int, negatives: int, expected: tuple[int, int]) -> None:
    labels = torch.tensor([1] * positives + [0] * negatives + [IGNORE] * 20)
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    (found,) = sample([labels], size=32, positive_fraction=0.25, background=0)
    assert (len(found[0]), len(found[1])) == expected
    assert (labels[found[0]] == 1).all() and (labels[found[1]] == 0).all()
    assert len(set(torch.cat(found).tolist())) == sum(expected)


def test_sample_draws_one_permutation_for_each_kind() -> None:
    labels = torch.tensor([0, 2, 5, 5, 1, IGNORE, 5])  # background 5
    torch.manual_seed(11)
    images = sample([labels, labels[:4]], size=4, positive_fraction=0.5, background=5)
    torch.manual_seed(11)
    for (positive, negative), places in zip(images, [([0, 1, 4], [2, 3, 6]), ([0, 1], [2, 3])]):
        assert positive.tolist() == _drawn(places[0]) and negative.tolist() == _drawn(places[1])


def _drawn(places: list[int]) -> list[int]:
    return torch.tensor(places)[torch.randperm(len(places))[:2]].tolist()
