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


def test_a_changed_file_is_extracted_again(folder: Path) -> None:
    weights, name = read_weights("random", backbone="tiny_resnet"), f"folder:{folder}:images"
    options = {"device": CPU, "cache_dir": str(folder / "cache")}
    first = extract_features(weights, open_split(name), TRANSFORM, **options)
    Image.new("RGB", (16, 16), "red").save(folder / "images/a/1.png")
    second = extract_features(weights, open_split(name), TRANSFORM, **options)
    changed = (first.values != second.values).any(dim=1)
    assert changed.tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("kind", ["torn", "foreign"])
def test_a_bad_cache_file_is_computed_again(
    folder: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    split, cache = open_split(f"folder:{folder}:images"), folder / "cache"
    weights = read_weights("random", backbone="tiny_resnet")
    options = {"device": CPU, "cache_dir": str(cache)}
    first = extract_features(weights, split, TRANSFORM, **options)
    (path,) = cache.glob("*.pt")
    if kind == "torn":
        path.write_bytes(path.read_bytes()[:100])
    else:
        other = read_weights("random", backbone="tiny_resnet", seed=1)
        extract_features(other, split, TRANSFORM, **options)
        (theirs,) = set(cache.glob("*.pt")) - {path}
        path.write_bytes(theirs.read_bytes())
    again = extract_features(weights, split, TRANSFORM, **options)
    assert "computed again" in caplog.text and path.name in caplog.text
    assert torch.equal(first.values, again.values)
    caplog.clear()
    extract_features(weights, split, TRANSFORM, **options)
    assert "computed again" not in caplog.text


def test_a_killed_extraction_goes_on_after_its_last_part(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed by an unreadable image: what was complete is not read again, the result is equal."""
    monkeypatch.setattr("transfer.classification.cache.PART_BATCHES", 1)
    weights = read_weights("random", backbone="tiny_resnet")
    split, cache = open_split(f"folder:{folder}:images"), folder / "cache"
    options = {"device": CPU, "cache_dir": str(cache), "batch_size": 2}
    whole = extract_features(weights, split, TRANSFORM, device=CPU, batch_size=2)
    read, fail = [], [True]
    original = type(split.images).read

    def reading(self, index: int) -> Image.Image:
        if index == 4 and fail[0]:
            raise OSError("b/2.png: killed here")
        read.append(index)
        return original(self, index)

    monkeypatch.setattr(type(split.images), "read", reading)
    with pytest.raises(InputError, match="killed here"):
        extract_features(weights, split, TRANSFORM, **options)
    assert not list(cache.glob("*.pt")) and len(list(cache.glob("*.partial/*.pt"))) == 2
    read.clear()
    fail[0] = False
    again = extract_features(weights, split, TRANSFORM, **options)
    assert read == [4] and torch.equal(again.values, whole.values)
    assert not list(cache.glob("*.partial"))


def test_weights_that_diverged(folder: Path) -> None:
    weights = read_weights("random", backbone="tiny_resnet")
    next(iter(weights.state.values())).fill_(float("nan"))
    with pytest.raises(InputError, match="are not finite"):
        extract_features(weights, open_split(f"folder:{folder}:images"), TRANSFORM, device=CPU)
