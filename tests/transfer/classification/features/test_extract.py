"""Features in the order of the images, with the weights' preprocessing, and from the cache."""

from __future__ import annotations

import json
import logging
import os
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.common.errors import InputError
from pretrain.data.datasets import ArrayImages, FolderImages
from tests.two_processes import run_in_two
from transfer.checkpoints.build import build_frozen_backbone
from transfer.checkpoints.read import read_weights
from transfer.classification.crops import ImageTransform
from transfer.classification.features import extract as features
from transfer.classification.features.cache import FeatureTable
from transfer.classification.features.extract import extract_features
from transfer.classification.splits import open_split

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


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of the images that are read from now on."""
    seen: list[int] = []
    original = FolderImages.read

    def reading(self: FolderImages, index: int) -> Image.Image:
        seen.append(index)
        return original(self, index)

    monkeypatch.setattr(FolderImages, "read", reading)
    return seen


def test_features_are_the_backbones(folder: Path) -> None:
    weights = read_weights("random", backbone="tiny_resnet")
    split = open_split(f"folder:{folder}:images")
    features = extract_features(weights, split, TRANSFORM, device=CPU, batch_size=2)
    images = torch.stack([TRANSFORM.apply(split.images.read(i)) for i in range(5)])
    expected = build_frozen_backbone(weights)(weights.preprocess.apply(images))
    torch.testing.assert_close(features.values, expected, rtol=1e-4, atol=1e-5)
    assert features.labels.tolist() == [0, 0, 1, 1, 1] and features.values.shape == (5, 128)


def test_gray_features_are_those_of_gray_files(folder: Path) -> None:
    split = open_split(f"folder:{folder}:images")
    for index in range(5):
        source = Path(split.images.name(index))
        target = folder / "gray" / source.relative_to(folder / "images")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(source).convert("L").save(target)
    weights = read_weights("random", backbone="tiny_resnet")
    gray, plain = replace(TRANSFORM, gray=True), TRANSFORM
    found = extract_features(weights, split, gray, device=CPU).values
    saved = extract_features(weights, open_split(f"folder:{folder}:gray"), plain, device=CPU).values
    assert torch.equal(found, saved)
    assert not torch.equal(found, extract_features(weights, split, plain, device=CPU).values)


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
    assert len(list((folder / "cache").glob("*/features.npy"))) == 3


def test_all_that_moves_a_feature_has_a_folder_of_its_own(folder: Path) -> None:
    """One thing at a time is another than in the first extraction."""
    split = open_split(f"folder:{folder}:images")
    weights = read_weights("random", backbone="tiny_resnet")
    swapped = replace(weights, preprocess=replace(weights.preprocess, channel_order="BGR"))
    calls = [
        (weights, split, ImageTransform(80, 64), {}),
        (swapped, split, ImageTransform(80, 64), {}),
        (weights, split, ImageTransform(72, 64), {}),
        (weights, split, ImageTransform(80, 80), {}),
        (weights, split, ImageTransform(80, 64, "bicubic"), {}),
        (weights, split, ImageTransform(80, 64, squash=True), {}),
        (weights, split, ImageTransform(80, 64, gray=True), {}),
        (weights, split.subset([1, 0, 2, 3, 4]), ImageTransform(80, 64), {}),
        (weights, split, ImageTransform(80, 64), {"window": 2}),
        (weights, split, ImageTransform(80, 64), {"precision": "bf16"}),
        (weights, split, ImageTransform(80, 64), {"storage": "fp16"}),
    ]
    kept = {"device": CPU, "cache_dir": str(folder / "cache")}
    found = [extract_features(*call, **options, **kept).values for *call, options in calls]
    assert len(list((folder / "cache").iterdir())) == len(calls)
    assert not any(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_are_counted_and_named(folder: Path, workers: int) -> None:
    for torn in ("images/a/0.png", "images/b/1.png"):
        (folder / torn).write_bytes((folder / torn).read_bytes()[:60])
    weights = read_weights("random", backbone="tiny_resnet")
    split = open_split(f"folder:{folder}:images")
    with pytest.raises(InputError, match="2 unreadable images in .*a/0.png.*b/1.png") as error:
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


def spoil(kind: str, ours: Path, theirs: Path) -> None:
    """Damages the cache folder of three batches; `theirs` holds features of other weights."""
    file, journal = ours / "features.npy", ours / "journal.jsonl"
    if kind == "cut off":
        file.write_bytes(file.read_bytes()[:-100])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "foreign":
        shutil.copytree(theirs, ours, dirs_exist_ok=True)
    elif kind == "foreign features":
        shutil.copy(theirs / "features.npy", file)
    elif kind == "journal of nothing":
        journal.write_text("[]\n\0")
    elif kind == "one batch torn":
        values = np.load(file, mmap_mode="r+")
        values[2] += 1
        values.flush()


@pytest.mark.parametrize(
    "kind, again",
    [
        ("cut off", 5),
        ("empty", 5),
        ("foreign", 5),
        ("foreign features", 5),
        ("journal of nothing", 5),
        ("one batch torn", 2),
    ],
)
def test_a_bad_cache_is_computed_again(
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    reads: list[int],
    kind: str,
    again: int,
) -> None:
    split, cache = open_split(f"folder:{folder}:images"), folder / "cache"
    weights = read_weights("random", backbone="tiny_resnet")
    options = {"device": CPU, "cache_dir": str(cache), "batch_size": 2}
    first = extract_features(weights, split, TRANSFORM, **options)
    (ours,) = cache.iterdir()
    expected = first.values.clone()
    other = read_weights("random", backbone="tiny_resnet", seed=1)
    extract_features(other, split, TRANSFORM, **options)
    (theirs,) = set(cache.iterdir()) - {ours}
    spoil(kind, ours, theirs)
    reads.clear()
    second = extract_features(weights, split, TRANSFORM, **options)
    assert "computed again" in caplog.text and ours.name in caplog.text
    assert torch.equal(second.values, expected) and len(reads) == again
    caplog.clear()
    extract_features(weights, split, TRANSFORM, **options)
    assert "computed again" not in caplog.text and len(reads) == again


def test_a_killed_extraction_goes_on_after_its_last_batch(
    folder: Path, reads: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """Killed by an unreadable image: what was complete is not read again, the result is equal."""
    caplog.set_level(logging.INFO)
    weights = read_weights("random", backbone="tiny_resnet")
    split, cache = open_split(f"folder:{folder}:images"), folder / "cache"
    options = {"device": CPU, "cache_dir": str(cache), "batch_size": 2}
    whole = extract_features(weights, split, TRANSFORM, device=CPU, batch_size=2)
    path = folder / "images/b/2.png"
    content, status = path.read_bytes(), path.stat()
    path.write_bytes(b"x" * len(content))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(InputError, match="b/2.png"):
        extract_features(weights, split, TRANSFORM, **options)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    (journal,) = cache.glob("*/journal.jsonl")
    journal.write_text(journal.read_text() + '{"batch": 2, "crc')  # and cut off in a line
    before = sum(json.loads(line)["seconds"] for line in journal.read_text().split("\n")[1:3])
    reads.clear()
    again = extract_features(weights, split, TRANSFORM, **options)
    assert reads == [4] and torch.equal(again.values, whole.values)
    assert "continuing after 2 of 3 batches" in caplog.text
    assert again.seconds > before > 0


def test_other_batches_go_on_with_a_whole_cache_only(folder: Path, reads: list[int]) -> None:
    weights = read_weights("random", backbone="tiny_resnet")
    split, cache = open_split(f"folder:{folder}:images"), folder / "cache"
    options = {"device": CPU, "cache_dir": str(cache)}
    first = extract_features(weights, split, TRANSFORM, batch_size=2, **options)
    reads.clear()
    second = extract_features(weights, split, TRANSFORM, batch_size=3, **options)
    assert not reads and torch.equal(first.values, second.values)
    (journal,) = cache.glob("*/journal.jsonl")
    journal.write_text("\n".join(journal.read_text().split("\n")[:2]))
    extract_features(weights, split, TRANSFORM, batch_size=3, **options)
    assert reads == [0, 1, 2, 3, 4]


def test_features_are_mapped_and_of_the_formats(folder: Path) -> None:
    weights = read_weights("random", backbone="tiny_resnet")
    split, options = open_split(f"folder:{folder}:images"), {"device": CPU, "batch_size": 2}
    exact = extract_features(weights, split, TRANSFORM, **options).values
    half = extract_features(weights, split, TRANSFORM, storage="fp16", **options).values
    assert half.dtype == torch.float16 and torch.equal(half, exact.half())
    kept = {"cache_dir": str(folder / "cache"), "storage": "fp16"}
    mapped = extract_features(weights, split, TRANSFORM, **kept, **options).values
    (file,) = (folder / "cache").glob("*/features.npy")
    assert torch.equal(mapped, half) and str(file) in Path("/proc/self/maps").read_text()
    coarse = extract_features(weights, split, TRANSFORM, precision="bf16", **options).values
    error = (coarse - exact).norm(dim=1) / exact.norm(dim=1)
    assert 0 < error.max() < 0.02, "some 2^-8 a layer"
    finer = extract_features(weights, split, TRANSFORM, precision="fp16", **options).values
    error = (finer - exact).norm(dim=1) / exact.norm(dim=1)
    assert 0 < error.max() < 0.0025, "some 2^-11 a layer"


def test_features_too_large_for_fp16(folder: Path) -> None:
    weights = read_weights("random", backbone="tiny_resnet")
    for name, value in weights.state.items():
        if name.endswith(("bn1.weight", "bn2.weight")):
            value.mul_(1e4)
    split = open_split(f"folder:{folder}:images")
    message = "too large for FEATURES.STORAGE fp16; set FEATURES.STORAGE to fp32"
    with pytest.raises(InputError, match=message):
        extract_features(weights, split, TRANSFORM, device=CPU, storage="fp16")
    with pytest.raises(InputError, match="values .* are too large for FEATURES.PRECISION fp16"):
        extract_features(weights, split, TRANSFORM, device=CPU, precision="fp16")


def test_cache_folders_that_cannot_serve(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = read_weights("random", backbone="tiny_resnet")
    split = open_split(f"folder:{folder}:images")
    with pytest.raises(InputError, match="CACHE_DIR .*0.png cannot be written; .*Not a directory"):
        path = str(folder / "images/a/0.png")
        extract_features(weights, split, TRANSFORM, device=CPU, cache_dir=path)
    full = shutil._ntuple_diskusage(10**9, 10**9, 0)
    monkeypatch.setattr(
        "transfer.classification.features.cache.shutil.disk_usage", lambda path: full
    )
    with pytest.raises(InputError, match="CACHE_DIR .*cache: the features need .* 0.0 kB are free"):
        path = str(folder / "cache")
        extract_features(weights, split, TRANSFORM, device=CPU, cache_dir=path)


def test_the_cache_knows_the_pixels_of_images_in_memory() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    images = ArrayImages(pixels, [0, 0, 1, 1], ["a", "b"], [f"image {i}" for i in range(4)])
    part = images.subset([3, 1])
    before = images.origin.all_stamps(), part.origin.all_stamps()
    assert before[1] == [before[0][3], before[0][1]]
    assert len({tuple(stamp) for stamp in before[0]}) == 4
    pixels[3, 0, 0, 0] ^= 1
    after = images.origin.all_stamps()
    assert after[:3] == before[0][:3] and after[3] != before[0][3]


class FullTable(FeatureTable):
    """Takes nothing."""

    def add(self, batch: int, values: torch.Tensor, seconds: float) -> None:
        raise InputError("full here")


def one_of_two(rank: int, folder: str) -> None:
    """Saves the features; is killed by the last image of an extraction with a cache, then by a
    table that the first process cannot write."""
    weights = read_weights("random", backbone="tiny_resnet")
    split = open_split(f"folder:{folder}:images")
    options = {"device": CPU, "batch_size": 2, "storage": "fp16"}
    found = extract_features(weights, split, TRANSFORM, **options)
    assert found.values.shape == ((0, 0) if rank else (5, 128))
    torch.save(found.values, f"{folder}/{rank}.pt")
    original = FolderImages.read

    def killed(self: FolderImages, index: int) -> Image.Image:
        if index == 4:
            raise OSError("killed here")
        return original(self, index)

    FolderImages.read = killed
    with pytest.raises(InputError, match="killed here"):  # in both, whoever has read it
        extract_features(weights, split, TRANSFORM, cache_dir=f"{folder}/cache", **options)
    FolderImages.read = original
    if rank == 0:
        features.open_table = lambda *arguments: nullcontext(FullTable(*arguments[1:]))
    with pytest.raises(InputError, match="full here"):  # the one that keeps them is not alone
        extract_features(weights, split, TRANSFORM, **options)


def test_two_processes_give_the_features_of_one_and_one_goes_on_for_them(
    folder: Path, reads: list[int]
) -> None:
    """Bit for bit, with three batches for two processes."""
    run_in_two(one_of_two, folder)
    weights = read_weights("random", backbone="tiny_resnet")
    split = open_split(f"folder:{folder}:images")
    options = {"device": CPU, "batch_size": 2, "storage": "fp16"}
    one = extract_features(weights, split, TRANSFORM, **options).values
    assert torch.equal(torch.load(folder / "0.pt", weights_only=True), one)
    reads.clear()
    kept = {"cache_dir": str(folder / "cache")}
    again = extract_features(weights, split, TRANSFORM, **kept, **options).values
    assert reads == [4] and torch.equal(again, one)


def test_weights_that_diverged(folder: Path) -> None:
    weights = read_weights("random", backbone="tiny_resnet")
    next(iter(weights.state.values())).fill_(float("nan"))
    with pytest.raises(InputError, match="are not finite"):
        extract_features(weights, open_split(f"folder:{folder}:images"), TRANSFORM, device=CPU)
