"""Batches depend only on (seed, epoch, image); crops and flips as drawn; bad images are named."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pretrain.common.errors import InputError
from pretrain.data.crops import CropSpec, crop_image
from pretrain.data.loader import draw_seed
from transfer.classification.crops import check_readable
from transfer.classification.training.images import TrainImages, check_batch

from .conftest import CPU, SIZE, make_folder, splits_of


def loader(folder: Path, **more: Any) -> TrainImages:
    options = {"crop": CropSpec(SIZE), "flip_prob": 0.5, "batch_size": 8, "drop_last": False}
    options |= {"num_workers": 0, "seed": 3, "device": CPU, **more}
    return TrainImages(splits_of(folder)[0], **options)


def test_an_epoch_has_each_image_once_cropped_and_flipped_as_drawn(folder: Path) -> None:
    train = splits_of(folder)[0]
    order = np.random.default_rng((3, 2)).permutation(30)
    flips = np.random.default_rng((3, 2, 1)).random(30) < 0.5
    batches = list(loader(folder).epoch(2))
    assert [batch.total for batch in batches] == [8, 8, 8, 6] == [len(b.labels) for b in batches]
    images = torch.cat([batch.images for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    assert labels.tolist() == train.labels[order].tolist() and 0 < flips.sum() < 30
    for place, index in enumerate(order):
        draws = random.Random(draw_seed(3, 2, int(index), 0))
        crop = crop_image(train.images.read(int(index)), CropSpec(SIZE), draws).transpose(2, 0, 1)
        expected = crop[:, :, ::-1] if flips[index] else crop
        assert np.array_equal(images[place].numpy(), expected)


def test_epochs_and_seeds_differ_and_repeat(folder: Path) -> None:
    first = next(loader(folder).epoch(0)).images
    assert torch.equal(first, next(loader(folder).epoch(0)).images)
    assert not torch.equal(first, next(loader(folder).epoch(1)).images)
    assert not torch.equal(first, next(loader(folder, seed=4).epoch(0)).images)


def test_workers_change_nothing(folder: Path) -> None:
    alone, helped = (list(loader(folder, num_workers=n).epoch(1)) for n in (0, 1))
    assert all(torch.equal(a.images, b.images) for a, b in zip(alone, helped))


def test_last_batches(folder: Path) -> None:
    assert loader(folder, drop_last=True).steps_per_epoch == 3
    assert loader(folder, batch_size=29).steps_per_epoch == 2
    assert loader(folder, batch_size=29, min_share=2).steps_per_epoch == 1
    assert loader(folder, batch_size=500).steps_per_epoch == 1
    with pytest.raises(InputError, match="30 images do not fill one global batch of 500"):
        loader(folder, batch_size=500, drop_last=True)
    with pytest.raises(InputError, match="SOLVER.BATCH_SIZE 9 is not a multiple of 2 processes"):
        check_batch(9, 2)


def test_unreadable_images_are_all_counted_and_the_first_named(tmp_path: Path) -> None:
    train, test = splits_of(make_folder(tmp_path))
    check_readable([train, test], 0)
    broken = [Path(train.images.name(i)) for i in (2, 12, 13)] + [Path(test.images.name(0))]
    for path in broken:
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(
        InputError, match=r"^4 unreadable images: .*bright_2.png.*; and 1 more; rep"
    ):
        check_readable([train, test], 1)
