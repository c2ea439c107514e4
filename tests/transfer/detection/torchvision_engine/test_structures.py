"""Reading the ground truth of a batch's element."""

from __future__ import annotations

import numpy as np
import torch

from transfer.detection.torchvision_engine.mask_targets import BitMasks, Polygons
from transfer.detection.torchvision_engine.structures import Targets


def test_targets_from_a_sample() -> None:
    cpu = torch.device("cpu")
    sample = {"boxes": torch.zeros(1, 4), "classes": torch.zeros(1, dtype=torch.int64)}
    assert Targets.from_sample(sample, cpu).masks is None
    polygons = [[np.zeros(6)]]
    assert isinstance(Targets.from_sample({**sample, "polygons": polygons}, cpu).masks, Polygons)
    both = {**sample, "polygons": None, "bitmasks": torch.zeros(1, 4, 4, dtype=torch.bool)}
    assert isinstance(Targets.from_sample(both, cpu).masks, BitMasks)
