"""All features that a protocol's trials share: weights and two splits in, one `Extracted` out."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from pretrain.common.distributed import is_main
from transfer.checkpoints.weights import Weights
from transfer.classification.data import ImageTransform, Split
from transfer.classification.features import Features, extract_features
from transfer.classification.quality import feature_quality, pair_splits


@dataclass(frozen=True)
class Extracted:
    """Features of the same weights.

    Attributes:
        sha256: of the weights; quality: see `feature_quality`, {} where it was not asked for.
        seconds: what all of it takes to make, also where some came from the cache.
    """

    sha256: str
    bank: Features
    queries: Features
    quality: dict[str, float]
    seconds: float


def extract_splits(
    weights: Weights,
    train: Split,
    test: Split,
    transform: ImageTransform,
    *,
    quality_images: int,
    **options: Any,
) -> Extracted:
    """Features of both splits and their quality, for the first process (see `extract_features`).

    Args:
        quality_images: test images of which two random crops are compared; 0: no quality.
        options: of `extract_features`.
    """
    bank = extract_features(weights, train, transform, **options)
    queries = extract_features(weights, test, transform, **options)
    pair: list[Features] = []
    if quality_images:
        crops = replace(transform, resize=transform.size)  # they have their size already
        views = pair_splits(test, quality_images, transform.size, transform.interpolation)
        labels = ("features of the first random crops", "features of the second random crops")
        pair = [
            extract_features(weights, view, crops, label=label, **options)
            for view, label in zip(views, labels)
        ]
    begun, quality = time.perf_counter(), {}
    if pair and is_main():
        quality = feature_quality(queries.values, [part.values for part in pair])
    seconds = sum(part.seconds for part in (bank, queries, *pair)) + time.perf_counter() - begun
    return Extracted(weights.sha256, bank, queries, quality, seconds)
