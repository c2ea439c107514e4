"""A small folder of images with classes that are easy to distinguish, and what is built on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.data.crops import CropSpec
from transfer.checkpoints.read import read_weights
from transfer.classification.splits import Split, open_splits
from transfer.classification.training.images import TrainImages
from transfer.classification.training.loop import Trainer
from transfer.classification.training.model import build_classifier
from transfer.classification.training.optimizer_and_schedule import (
    Recipe,
    make_optimizer,
    make_schedule,
)

CPU = torch.device("cpu")
SIZE = 16


def make_folder(root: Path, train: int = 10, test: int = 4) -> Path:
    """root/images/{train,test}/{bright,dark,red}: noise of three levels."""
    draws = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for name, low in (("bright", [150] * 3), ("dark", [0] * 3), ("red", [150, 0, 0])):
            for index in range(count):
                path = root / "images" / split / name / f"{split}_{name}_{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                noise = draws.integers(0, 100, (20, 24, 3)) + np.array(low)
                Image.fromarray(noise.astype(np.uint8)).save(path)
    return root


def splits_of(root: Path) -> tuple[Split, Split]:
    return open_splits(f"folder:{root}/images:train", f"folder:{root}/images:test")


def build(
    root: Path, recipe: Recipe, lr: float, frozen: bool = True, seed: int = 0, **more: Any
) -> tuple[Trainer, TrainImages]:
    """A trainer of a random tiny ResNet on the folder."""
    weights = read_weights("random", backbone="tiny_resnet", seed=0)
    train, _ = splits_of(root)
    options = {name: more.pop(name) for name in ("norm_batch", "chunk") if name in more}
    flip, drop = more.pop("flip_prob", 0.5), more.pop("drop_last", False)
    head = {"head": "linear", "init": "normal", "vit_pool": "token", **more}
    model = build_classifier(
        weights, num_classes=3, image_size=SIZE, frozen=frozen, seed=seed, **head
    )
    images = TrainImages(
        train,
        crop=CropSpec(SIZE),
        flip_prob=flip,
        batch_size=recipe.batch_size,
        drop_last=drop,
        num_workers=0,
        seed=seed,
        device=CPU,
    )
    schedule = make_schedule(recipe, lr, images.steps_per_epoch)
    optimizer = make_optimizer(recipe, model)
    return Trainer(model, weights.preprocess, optimizer, schedule, **options), images


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder, made once; tests do not write into it."""
    return make_folder(tmp_path_factory.mktemp("crops"))


@pytest.fixture
def make(folder: Path) -> Callable[..., tuple[Trainer, TrainImages]]:
    """`build` on the folder."""
    return lambda *arguments, **options: build(folder, *arguments, **options)
