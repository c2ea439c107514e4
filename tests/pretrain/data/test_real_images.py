"""Real photographs from `$TRANSFER_TEST_DATA`: class folders are found, every file decodes as PIL
decodes it, and batches of them load."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.data.crops import CropSpec
from pretrain.data.datasets import open_images
from pretrain.data.loader import CropLoader

REPOSITORY = Path(__file__).parents[3]
DATA = (REPOSITORY / os.environ.get("TRANSFER_TEST_DATA", "../shared/data")).resolve()


@pytest.mark.skipif(not (DATA / "unpack").exists(), reason=f"no real images in {DATA}")
def test_flowers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([str(DATA / "unpack"), str(tmp_path), "flowers5"], check=True)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    data = open_images("folder:flowers5:val")
    assert len(data) == 500 and len(data.classes) == 5
    assert set(data.labels) == set(range(5))
    for index in range(0, 500, 25):
        expected = np.asarray(Image.open(data.name(index)).convert("RGB")).astype(int)
        assert np.abs(np.asarray(data.read(index)) - expected).max() <= 1
    part = open_images("folder:flowers5:train", limit_per_class=4)
    loader = CropLoader(part, crops=[CropSpec(32)] * 2, batch_size=10, num_workers=1)
    assert [batch.crops.shape for batch in loader.epoch(0)] == [(2, 10, 3, 32, 32)] * 2
    assert not loader.corrupt
