"""Real photographs from `$TRANSFER_TEST_DATA`: class folders are found, every file decodes as PIL
decodes it, and batches of them load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.data.crops import CropSpec
from pretrain.data.datasets import open_images
from pretrain.data.loader import CropLoader


def test_flowers(real_data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(real_data("flowers5")))
    data = open_images("folder:flowers5:val")
    assert len(data) == 500 and len(data.classes) == 5
    assert set(data.labels) == set(range(5))
    for index in range(0, 500, 25):
        expected = np.asarray(Image.open(data.name(index)).convert("RGB")).astype(int)
        assert np.abs(np.asarray(data.read(index)) - expected).max() <= 1
    part = open_images("folder:flowers5:train", limit_per_class=4)
    loader = CropLoader(part, crops=[CropSpec(32)] * 2, batch_size=10, num_workers=1)
    shapes = [[crop.shape for crop in batch.crops] for batch in loader.epoch(0)]
    assert shapes == [[(10, 3, 32, 32)] * 2] * 2
    assert not loader.corrupt
