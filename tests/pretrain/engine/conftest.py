"""Tiny labelled images and a config that trains on them in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fvcore.common.config import CfgNode
from PIL import Image

from pretrain.common.config import load_config
from pretrain.defaults import get_defaults
from pretrain.engine.loop import Unlogged

TINY = """
DATASETS: {TRAIN: "folder:%(data)s", KNN_TRAIN: "folder:%(data)s", KNN_TEST: "folder:%(data)s"}
DATALOADER: {NUM_WORKERS: 0}
BACKBONE: {NAME: tiny_resnet}
METHOD: {PROJECTOR: {LAYERS: 2, HIDDEN_DIM: 16, OUT_DIM: 8}}
VIEWS: {SIZE: 16}
HIGHPASS: {KERNEL_SIZE: 5, SIGMA: 1.5}
MASK: {GRID_SIZE: 4}
SOLVER: {EPOCHS: 2, BATCH_SIZE: 8, WARMUP_EPOCHS: 0.5}
LOG: {EVERY_STEPS: 1}
KNN: {EVERY_EPOCHS: 1, K: 3}
"""


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 noise images of 20 px in 3 class folders."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 20, 3), dtype=np.uint8)
    for number, values in enumerate(pixels):
        path = folder / f"class_{number % 3}" / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(values).save(path)
    return folder


@pytest.fixture
def tiny_config(image_folder: Path, tmp_path: Path) -> Callable[..., CfgNode]:
    """Builds the config with KEY VALUE overrides."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY % {"data": image_folder})
    return lambda *overrides: load_config(str(path), get_defaults(), [str(x) for x in overrides])


def at(step: int, total: int = 12, steps_per_epoch: int = 3) -> SimpleNamespace:
    """A stand-in for a Training that has done `step` steps of 2 seconds and 4 images each."""
    return SimpleNamespace(
        step=step,
        total_steps=total,
        epoch=step // steps_per_epoch,
        step_in_epoch=step % steps_per_epoch,
        seconds=2.0 * step,
        batch_size=4,
        images_seen=4 * step,
        views_seen=8 * step,
        branches=[0, 1],
        gpu_seconds=0.0,
        guard=SimpleNamespace(skipped=0),
        loader=SimpleNamespace(steps_per_epoch=steps_per_epoch),
        lr_at=lambda step: 0.1,
        unlogged=Unlogged(step=step, seconds=2.0 * step),
    )


@pytest.fixture(name="at")
def at_fixture() -> Callable[..., SimpleNamespace]:
    """The function `at`."""
    return at
