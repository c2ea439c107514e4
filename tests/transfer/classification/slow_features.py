"""The features of pictures, each passed through the network alone, without our own crops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from transfer.checkpoints.build import build_frozen_backbone
from transfer.checkpoints.read import random_weights


def features(pictures: Sequence[np.ndarray], side: int) -> np.ndarray:
    """Returns (N, D) float64 of the random tiny_resnet of seed 0.

    Args:
        pictures: N times (H, W, 3) uint8; the short side becomes `side`, by the bicubic filter.
    """
    network = build_frozen_backbone(random_weights("tiny_resnet", 0))
    crop = transforms.Compose(
        [
            transforms.Resize(side, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    with torch.no_grad():
        rows = [network(crop(Image.fromarray(pixels))[None])[0] for pixels in pictures]
    return torch.stack(rows).double().numpy()
