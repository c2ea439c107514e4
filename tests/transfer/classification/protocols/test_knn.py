"""kNN against a loop in numpy and two peers; metric names; a bank smaller than k."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch.nn.functional import normalize

from pretrain.common.errors import InputError
from pretrain.common.knn import nearest_neighbours
from transfer.classification.protocols.knn import check_k, check_temperatures, evaluate_knn

CLASSES, TEMPERATURE = 7, 0.07


def _brute_force(bank, bank_labels, queries, labels, k, top, temperature=TEMPERATURE):
    hits = 0
    for query, label in zip(queries, labels):
        similarity = [
            float(row @ query / np.linalg.norm(row) / np.linalg.norm(query)) for row in bank
        ]
        votes = np.zeros(CLASSES)
        for index in np.argsort(similarity)[::-1][:k]:
            votes[bank_labels[index]] += np.exp(similarity[index] / temperature)
        best = [c for c in np.argsort(-votes, kind="stable")[:top] if votes[c] > 0]
        hits += label in best
    return 100.0 * hits / len(labels)


def _clusters(images: int, tests: int) -> tuple[np.ndarray, ...]:
    """(bank, its labels, queries, theirs): seven overlapping clusters in 12 dimensions."""
    draws = np.random.default_rng(0)
    centres = draws.normal(size=(CLASSES, 12))
    bank_labels, labels = draws.integers(0, CLASSES, images), draws.integers(0, CLASSES, tests)
    bank = centres[bank_labels] + 2.0 * draws.normal(size=(images, 12))
    queries = centres[labels] + 2.0 * draws.normal(size=(tests, 12))
    return bank, bank_labels, queries, labels


def test_against_brute_force() -> None:
    bank, bank_labels, queries, labels = _clusters(90, 40)
    metrics, correct = evaluate_knn(
        torch.tensor(bank),
        torch.tensor(bank_labels),
        torch.tensor(queries),
        torch.tensor(labels),
        k=(1, 5, 20),
        temperature=TEMPERATURE,
        more_temperatures=(0.5, TEMPERATURE),
        num_classes=CLASSES,
    )
    names = {TEMPERATURE: "", 0.5: "_T0.5"}
    assert len(metrics) == 2 * 3 * 2
    for k, top, (t, name) in itertools.product((1, 5, 20), (1, 5), names.items()):
        expected = _brute_force(bank, bank_labels, queries, labels, k, top, t)
        assert metrics[f"knn{k}{name}_top{top}"] == pytest.approx(expected)
    assert metrics["knn20_top1"] != metrics["knn20_T0.5_top1"]
    assert set(correct) == set(metrics)
    assert 100 * correct["knn20_top1"].float().mean() == pytest.approx(metrics["knn20_top1"])
    assert 30 < metrics["knn20_top1"] < 95  # neither chance nor trivial


@pytest.mark.parametrize("k, temperature", [(20, 0.07), (200, 0.1)])
def test_predictions_are_lightlys(k: int, temperature: float) -> None:
    pytest.importorskip("lightly", reason="lightly is of the optional extra 'peers'")
    from lightly.utils.benchmarking import knn_predict

    bank, bank_labels, queries, labels = map(torch.tensor, _clusters(700, 300))
    unit = [normalize(x.float(), dim=1) for x in (bank, queries)]
    theirs = knn_predict(unit[1], unit[0].T, bank_labels, CLASSES, k, temperature)[:, 0]
    options = {"k": (k,), "temperature": temperature, "num_classes": CLASSES}
    metrics, correct = evaluate_knn(bank, bank_labels, queries, labels, **options)
    assert torch.equal(correct[f"knn{k}_top1"], theirs == labels)
    assert 30 < metrics[f"knn{k}_top1"] < 95


def test_neighbours_are_scikit_learns() -> None:
    bank, _, queries, _ = _clusters(700, 100)
    peer = NearestNeighbors(n_neighbors=50, algorithm="brute", metric="cosine").fit(bank)
    index = peer.kneighbors(queries, return_distance=False)
    ours = nearest_neighbours(torch.tensor(bank), torch.tensor(queries), 50).index.numpy()
    assert np.array_equal(ours, index)


def test_half_precision_moves_the_accuracy_by_at_most_one_image_in_a_hundred() -> None:
    bank, bank_labels, queries, labels = map(torch.tensor, _clusters(3000, 1000))
    options = {"k": (20, 200), "temperature": 0.07, "num_classes": CLASSES}
    exact, half = (
        evaluate_knn(b, bank_labels, q, labels, **options)[0]
        for b, q in ((bank, queries), (bank.half(), queries.half()))
    )
    assert all(abs(exact[name] - half[name]) <= 1.0 for name in exact)


def test_few_classes_have_no_top5() -> None:
    features, labels = torch.eye(4), torch.tensor([0, 0, 1, 1])
    options = {"k": (2,), "temperature": 0.1, "num_classes": 2}
    metrics, _ = evaluate_knn(features, labels, features, labels, **options)
    assert metrics == {"knn2_top1": 100.0}


def test_labels_out_of_range() -> None:
    features, labels = torch.eye(4), torch.tensor([0, 0, 1, 2])
    options = {"k": (2,), "temperature": 0.1, "num_classes": 2}
    with pytest.raises(InputError, match="labels of the training images are from 0 to 2"):
        evaluate_knn(features, labels, features, labels % 2, **options)
    with pytest.raises(InputError, match="labels of the test images are from -1 to 1"):
        evaluate_knn(features, labels % 2, features, labels - 1, **options)


@pytest.mark.parametrize("temperatures", [(0.0,), (0.1, 0.001), (float("nan"),)])
def test_bad_temperature(temperatures: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="MORE_TEMPERATURES .* must be 0.0125 or more"):
        check_temperatures(temperatures, "KNN.MORE_TEMPERATURES")


@pytest.mark.parametrize(
    "k, message", [((10, 200), "150 images"), ((0,), "1 or more"), ((), "1 or")]
)
def test_bad_k(k: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_k(k, 150, "folder:x:train")
