"""Singular values of a trunk's features: images in, a `Spectrum` out."""

from __future__ import annotations

from torch import nn

from pretrain.common.collapse_statistics import effective_rank, singular_values
from pretrain.common.distributed import process_device
from pretrain.common.errors import InputError
from pretrain.data.datasets import ImageDataset
from pretrain.data.preprocess import Preprocess
from pretrain.engine.monitor import LabelledImages, trunk_features
from pretrain.visual.curves import Spectrum

IMAGES = 512
BATCH_SIZE = 64


def measure_spectrum(
    trunk: nn.Module, dataset: ImageDataset, preprocess: Preprocess, size: int
) -> Spectrum:
    """Returns the spectrum of up to 512 images, spread evenly over the classes. Like those of the
    kNN monitor, they are central squares of `size` px, preprocessed as the weights expect.

    Raises:
        InputError: there are less than two images, or one is unreadable.
    """
    if len(dataset) < 2:
        raise InputError(f"a spectrum needs two images or more, but --images has {len(dataset)}")
    images = LabelledImages.read(dataset, size, IMAGES).images
    device = process_device()
    features = trunk_features(trunk.to(device), images, preprocess, device, BATCH_SIZE)
    return Spectrum(len(features), effective_rank(features), singular_values(features).tolist())
