"""The kNN monitor's images and measures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from pretrain.backbones.resnet import build_resnet
from pretrain.common.errors import InputError
from pretrain.common.logs import MetricsWriter
from pretrain.data.datasets import ArrayImages
from pretrain.data.preprocess import Preprocess
from pretrain.engine.monitor import (
    KnnMonitor,
    LabelledImages,
    centre_crop,
    spread_evenly,
    trunk_features,
)


def test_a_limit_takes_classes_in_turn() -> None:
    labels = [0] * 5 + [1] * 5 + [2]
    assert spread_evenly(labels, 5) == [0, 1, 5, 6, 10]
    assert spread_evenly(labels, 0) == spread_evenly(labels, 99) == list(range(11))


@pytest.mark.parametrize("size", [(16, 16), (40, 30), (15, 60), (5, 5)])
def test_centre_crop_is_square_and_central(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size)
    image.putpixel((size[0] // 2, size[1] // 2), (255, 255, 255))
    cropped = centre_crop(image, 16)
    assert cropped.size == (16, 16)
    assert (cropped is image) == (size == (16, 16))


def flat_colours() -> ArrayImages:
    """12 images of 3 flat colours, one class each."""
    colours = torch.tensor([[250, 10, 10], [10, 250, 10], [10, 10, 250]], dtype=torch.uint8)
    labels = [i % 3 for i in range(12)]
    pixels = colours[labels][:, None, None].expand(12, 16, 16, 3).contiguous().numpy()
    return ArrayImages(pixels, labels, ["r", "g", "b"], [str(i) for i in range(12)])


def test_an_unreadable_image_is_named() -> None:
    broken = flat_colours()
    broken.unreadable[2] = "image 2 is cut off"
    with pytest.raises(
        InputError, match=r"images are unreadable \(1: image 2 is cut off\); repair or remove"
    ):
        LabelledImages.read(broken, 16, 0)


def make_monitor(folder: Path, can_collapse: bool = True) -> KnnMonitor:
    monitor = KnnMonitor(
        flat_colours(),
        flat_colours(),
        MetricsWriter(folder),
        Preprocess(),
        size=16,
        every_epochs=1,
        k=3,
        temperature=0.07,
        limits=(9, 6),
        batch_size=4,
        can_collapse=can_collapse,
    )
    monitor._bank = LabelledImages.read(monitor.bank, 16, 9)
    monitor._queries = LabelledImages.read(monitor.queries, 16, 6)
    return monitor


def test_separable_classes_are_all_found(tmp_path: Path) -> None:
    trunk = build_resnet("tiny_resnet").train()
    monitor = make_monitor(tmp_path)
    values = monitor.measure(trunk, torch.device("cpu"))
    assert values["knn3_top1"] == 100.0
    assert 1.0 <= values["effective_rank"] <= 3.0 and values["feature_std"] > 0
    assert trunk.training  # measured in evaluation mode, then put back


def test_features_do_not_depend_on_the_batch() -> None:
    trunk = build_resnet("tiny_resnet")
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    one, all_at_once = (
        trunk_features(trunk, images, Preprocess(), torch.device("cpu"), size) for size in (1, 5)
    )
    torch.testing.assert_close(one, all_at_once, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in trunk.state_dict().items())


class OneFeature(torch.nn.Module):
    """A trunk that says the same of every image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(images), 8)


@pytest.mark.parametrize("step, can_collapse, warned", [(0, True, 0), (3, True, 1), (3, False, 0)])
def test_the_monitor_warns_after_the_start(
    step: int,
    can_collapse: bool,
    warned: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monitor = make_monitor(tmp_path, can_collapse)
    method = SimpleNamespace(trunk=OneFeature())
    monitor._measure(
        SimpleNamespace(step=step, total_steps=9, method=method, device=torch.device("cpu"))
    )
    assert sum("collapsed" in record.message for record in caplog.records) == warned
