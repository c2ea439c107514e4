"""The protocol `knn`: each test image is classified by a weighted vote of its nearest neighbours.

The neighbours are training images, compared by the cosine of their features. A vote has the weight
exp(similarity / T) with T = 0.07, as in facebookresearch/dino eval_knn.py. Metrics are called
knnK_top1 at the protocol's temperature and, for example, knnK_T0.1_top1 at a different one.
`pretrain.common.knn` says how ties are broken.
Legend: N bank (training) images, M test images, D dimensions, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from pretrain.common.device_copy import send
from pretrain.common.errors import InputError
from pretrain.common.knn import check_labels, label_rank, nearest_neighbours, vote
from transfer.classification.features.extract import Features
from transfer.classification.metrics import per_class_accuracies
from transfer.classification.protocols.protocol import (
    ClassificationJob,
    Data,
    OnFeatures,
    check_counts,
    open_labelled,
)
from transfer.classification.score import Outcomes, Score

# At lower ones the votes overflow: an equal image votes with exp(1 / T), summed over thousands
LOWEST_TEMPERATURE = 0.0125


def check(cfg: CfgNode, trials: int) -> Data:
    """Opens the data; raises InputError for a K or a temperature that gives no vote."""
    check_temperatures([cfg.PROTOCOL.TEMPERATURE], "PROTOCOL.TEMPERATURE")
    check_temperatures(cfg.KNN.MORE_TEMPERATURES, "KNN.MORE_TEMPERATURES")
    data = open_labelled(cfg)
    check_k(cfg.PROTOCOL.K, len(data.train), data.train.name)
    return data


def score(job: ClassificationJob, bank: Features, queries: Features, seed: int) -> Score:
    """Scores every k and temperature by one search; the bank stays memory-mapped."""
    protocol, classes = job.cfg.PROTOCOL, job.train_set.classes
    metrics, correct = evaluate_knn(
        bank.values,
        bank.labels,
        queries.values,
        queries.labels,
        k=protocol.K,
        temperature=protocol.TEMPERATURE,
        more_temperatures=job.cfg.KNN.MORE_TEMPERATURES,
        num_classes=len(classes),
        device=job.device,
    )
    first = {f"knn{size}_top1": correct[f"knn{size}_top1"] for size in protocol.K}
    outcomes = Outcomes({name: right.numpy() for name, right in correct.items()})
    per_class = per_class_accuracies(first, queries.labels, classes)
    return Score(metrics, per_class, outcomes=outcomes)


PROTOCOL = OnFeatures(names=("knn",), check=check, score=score)


def check_k(k: Sequence[int], bank_size: int, bank_name: str) -> None:
    """Raises InputError unless every k is from 1 to the bank's number of images."""
    check_counts("PROTOCOL.K", k, "neighbourhood sizes")
    if max(k) > bank_size:
        raise InputError(
            f"PROTOCOL.K asks for {max(k)} neighbours, but {bank_name} has {bank_size} images; "
            "remove the larger values"
        )


def check_temperatures(temperatures: Sequence[float], name: str) -> None:
    """Raises InputError, with `name` in it, for a temperature that no vote can be computed with."""
    for value in temperatures:
        if not LOWEST_TEMPERATURE <= value < float("inf"):
            raise InputError(f"{name} {value} must be {LOWEST_TEMPERATURE} or more")


def evaluate_knn(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    *,
    k: Sequence[int],
    temperature: float,
    more_temperatures: Sequence[float] = (),
    num_classes: int,
    device: torch.device | None = None,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Returns ({"knn20_top1": percent, ...}, {"knn20_top1": correct (M,) bool on the CPU, ...}).

    One search serves every k and temperature. Top-5 is reported if there are six or more classes.

    Args:
        bank: (N, D), in memory or mapped from a file.
        queries: (M, D).
        device: device of the search; None: the queries' device.

    Raises:
        InputError: labels are outside 0..C-1.
    """
    check_labels(bank_labels, num_classes, "the training images")
    check_labels(query_labels, num_classes, "the test images")
    found = nearest_neighbours(bank, queries, max(k), device=device)
    labels = send(bank_labels, found.index.device)[found.index]
    wanted = send(query_labels, found.index.device)
    correct: dict[str, Tensor] = {}
    for value in dict.fromkeys([temperature, *more_temperatures]):
        suffix = "" if value == temperature else f"_T{value:g}"
        for size in k:
            name = f"knn{size}{suffix}"
            votes = vote(
                found.similarity, labels, k=size, temperature=value, num_classes=num_classes
            )
            rank = label_rank(votes, wanted)
            for top in (1, 5) if num_classes > 5 else (1,):
                correct[f"{name}_top{top}"] = rank < top
    # In one copy, because the host waits for the GPU at each copy.
    correct = dict(zip(correct, torch.stack(list(correct.values())).cpu()))
    metrics = {name: 100.0 * int(right.sum()) / len(right) for name, right in correct.items()}
    return metrics, correct
