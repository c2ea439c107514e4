"""What a run reports about its images, and what stops it before it starts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from PIL import Image

from pretrain.common.errors import InputError
from pretrain.engine.run import build_training, check_inputs

Config = Callable[..., CfgNode]
ALONE = ("DATASETS.KNN_TRAIN", "", "DATASETS.KNN_TEST", "")


def test_images_and_classes_are_said_once(
    tiny_config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cfg = tiny_config(*ALONE)
    name = cfg.DATASETS.TRAIN
    build_training(cfg, torch.device("cpu"))
    said = [r.message for r in caplog.records if r.message.startswith("training images of ")]
    assert said == [f"training images of {name}: 24 images, 3 classes (8 images a class)"]


def test_images_without_a_scale_stop_a_run_before_it_starts(
    tiny_config: Config, tmp_path: Path
) -> None:
    for number in range(40):
        values = np.full((8, 8), number, np.float32 if number % 10 == 5 else np.uint8)
        Image.fromarray(values).save(tmp_path / f"{number:02}.tif")
    cfg = tiny_config(*ALONE, "DATASETS.TRAIN", f"folder:{tmp_path}")
    with pytest.raises(InputError) as caught:
        check_inputs(cfg)
    text = str(caught.value)
    assert text.startswith(f"folder:{tmp_path}: images of 32-bit integers or floats")
    assert "(4, first: " in text and "05.tif (mode F, values 5 to 5)" in text
