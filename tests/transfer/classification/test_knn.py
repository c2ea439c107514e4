"""kNN against a loop in numpy; metric names; a bank smaller than k."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretrain.common.errors import InputError
from transfer.classification.knn import check_k, evaluate_knn

CLASSES, TEMPERATURE = 7, 0.07


def _brute_force(bank, bank_labels, queries, labels, k, top):
    hits = 0
    for query, label in zip(queries, labels):
        similarity = [
            float(row @ query / np.linalg.norm(row) / np.linalg.norm(query)) for row in bank
        ]
        votes = np.zeros(CLASSES)
        for index in np.argsort(similarity)[::-1][:k]:
            votes[bank_labels[index]] += np.exp(similarity[index] / TEMPERATURE)
        hits += label in np.argsort(votes)[::-1][:top]
    return 100.0 * hits / len(labels)


def test_against_brute_force() -> None:
    draws = np.random.default_rng(0)
    centres = draws.normal(size=(CLASSES, 12))
    bank_labels, labels = draws.integers(0, CLASSES, 90), draws.integers(0, CLASSES, 40)
    bank = centres[bank_labels] + 2.0 * draws.normal(size=(90, 12))
    queries = centres[labels] + 2.0 * draws.normal(size=(40, 12))
    metrics, correct = evaluate_knn(
        torch.tensor(bank),
        torch.tensor(bank_labels),
        torch.tensor(queries),
        torch.tensor(labels),
        k=(1, 5, 20),
        temperature=TEMPERATURE,
        num_classes=CLASSES,
    )
    assert set(metrics) == {f"knn{k}_top{top}" for k in (1, 5, 20) for top in (1, 5)}
    for k in (5, 20):
        for top in (1, 5):
            expected = _brute_force(bank, bank_labels, queries, labels, k, top)
            assert metrics[f"knn{k}_top{top}"] == pytest.approx(expected)
    assert 100 * correct["knn20_top1"].float().mean() == pytest.approx(metrics["knn20_top1"])
    assert 30 < metrics["knn20_top1"] < 95  # neither chance nor trivial


def test_few_classes_have_no_top5() -> None:
    features, labels = torch.eye(4), torch.tensor([0, 0, 1, 1])
    options = {"k": (2,), "temperature": 0.1, "num_classes": 2}
    metrics, _ = evaluate_knn(features, labels, features, labels, **options)
    assert metrics == {"knn2_top1": 100.0}


@pytest.mark.parametrize(
    "k, message", [((10, 200), "150 images"), ((0,), "1 or more"), ((), "1 or")]
)
def test_bad_k(k: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_k(k, 150, "folder:x:train")
