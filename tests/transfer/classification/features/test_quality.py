"""Measures of feature quality against slow references; the pairs of crops."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from transfer.classification.features.quality import (
    alignment,
    feature_quality,
    pair_splits,
    rank_me,
    uniformity,
)
from transfer.classification.splits import open_split


def rows(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + 0.5


@pytest.mark.parametrize("count, dim", [(40, 9), (9, 40), (5000, 4)])
def test_rank_is_that_of_an_svd(count: int, dim: int) -> None:
    z = rows(count, dim)
    sigma = np.linalg.svd(z.double().numpy(), compute_uv=False)
    p = sigma / sigma.sum() + 1e-7
    assert rank_me(z) == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-6)
    assert rank_me(torch.ones(6, 3)) == pytest.approx(1, abs=1e-3)


def test_alignment_and_uniformity_are_loops_over_pairs() -> None:
    x, y = rows(30, 7), rows(30, 7, 1)
    unit = [[row / np.linalg.norm(row) for row in part.double().numpy()] for part in (x, y)]
    near = np.mean([((a - b) ** 2).sum() for a, b in zip(*unit)])
    assert alignment(x, y) == pytest.approx(near, rel=1e-5)
    kernel = [
        math.exp(-2 * ((unit[0][i] - unit[0][j]) ** 2).sum()) for i in range(30) for j in range(i)
    ]
    assert uniformity(x) == pytest.approx(math.log(np.mean(kernel)), rel=1e-5)
    assert alignment(x, 3 * x) == pytest.approx(0, abs=1e-9)
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0, abs=1e-6)


def test_all_measures() -> None:
    x, y = rows(30, 7), rows(30, 7, 1)
    found = feature_quality(2 * x, (x, y))
    assert found["features/norm"] == pytest.approx(2 * np.mean(np.linalg.norm(x.numpy(), axis=1)))
    unit = x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True)
    assert found["features/std"] == pytest.approx(np.mean(np.std(unit, axis=0, ddof=1)), rel=1e-5)
    both = (uniformity(x) + uniformity(y)) / 2
    assert found["features/uniformity"] == pytest.approx(both)


def test_pairs_are_two_crops_of_an_image_and_the_same_in_every_run(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pixels = draws.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    split = open_split(f"folder:{tmp_path}")
    first, second = pair_splits(split, 2, 16, "bilinear")
    assert first.labels.tolist() == [0, 1] and len(second) == 2
    assert "a/0.png (random crop 0" in first.images.name(0)
    crops = [part.images.read(0) for part in (first, second)]
    assert crops[0].size == (16, 16) and crops[0].tobytes() != crops[1].tobytes()
    again = pair_splits(split, 2, 16, "bilinear")[0].images.read(0)
    assert again.tobytes() == crops[0].tobytes()
    assert len(pair_splits(split, 1000, 16, "bilinear")[0]) == 4
