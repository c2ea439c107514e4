"""Features in the images' order, through the weights' preprocessing, and from the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.common.errors import InputError
from transfer.checkpoints.build import build_frozen_backbone
from transfer.checkpoints.read import read_weights
from transfer.classification.data import ImageTransform, open_split
from transfer.classification.features import extract_features

CPU = torch.device("cpu")
TRANSFORM = ImageTransform(resize=16, size=16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draws = np.random.default_rng(0)
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png", "b/2.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return tmp_path


def test_features_are_the_backbones(folder: Path) -> None:
    weights = read_weights("random", backbone="tiny_resnet")
    split = open_split(f"folder:{folder}:images")
    features = extract_features(weights, split, TRANSFORM, device=CPU, batch_size=2)
    images = torch.stack([TRANSFORM.apply(split.images.read(i)) for i in range(5)])
    expected = build_frozen_backbone(weights)(weights.preprocess.apply(images))
    torch.testing.assert_close(features.values, expected, rtol=1e-4, atol=1e-5)
    assert features.labels.tolist() == [0, 0, 1, 1, 1] and features.values.shape == (5, 128)


def test_cache_serves_the_same_and_only_the_same(folder: Path) -> None:
    split, cache = open_split(f"folder:{folder}:images"), str(folder / "cache")
    options = {"device": CPU, "cache_dir": cache}
    weights = read_weights("random", backbone="tiny_resnet", seed=0)
    first = extract_features(weights, split, TRANSFORM, **options)
    again = extract_features(weights, split, TRANSFORM, **options)
    assert torch.equal(first.values, again.values) and first.seconds == again.seconds
    other = read_weights("random", backbone="tiny_resnet", seed=1)
    assert not torch.equal(
        extract_features(other, split, TRANSFORM, **options).values, first.values
    )
    extract_features(weights, split, ImageTransform(20, 16), **options)
    assert len(list((folder / "cache").glob("*.pt"))) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_is_named(folder: Path, workers: int) -> None:
    torn = folder / "images/b/1.png"
    torn.write_bytes(torn.read_bytes()[:60])
    weights = read_weights("random", backbone="tiny_resnet")
    split = open_split(f"folder:{folder}:images")
    with pytest.raises(InputError, match="unreadable image in .*b/1.png") as error:
        extract_features(weights, split, TRANSFORM, device=CPU, num_workers=workers)
    assert "\n" not in str(error.value)
