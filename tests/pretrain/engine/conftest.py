"""Tiny labelled images and a config that trains on them in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fvcore.common.config import CfgNode
from PIL import Image

from pretrain.common.config import load_config
from pretrain.defaults import get_defaults

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
