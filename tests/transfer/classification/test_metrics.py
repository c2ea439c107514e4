"""Accuracies, compared with values computed by hand."""

from __future__ import annotations

import torch

from transfer.classification.metrics import accuracy, per_class_accuracy


def test_accuracy() -> None:
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    labels = torch.tensor([1, 1, 0])
    assert accuracy(scores, labels) == 100 / 3
    assert accuracy(scores, labels, 2) == 200 / 3
    assert accuracy(scores, labels, 5) == 100.0


def test_diverged_rows_are_wrong() -> None:
    scores = torch.tensor([[float("nan"), 0.0], [1.0, float("inf")], [1.0, 0.0]])
    assert accuracy(scores, torch.tensor([0, 1, 0])) == 100 / 3


def test_per_class() -> None:
    labels = torch.tensor([0, 0, 2, 2])
    correct = torch.tensor([True, False, True, True])
    assert per_class_accuracy(correct, labels, ["a", "b", "c"]) == {
        "a": 50.0,
        "b": None,
        "c": 100.0,
    }
