"""The grey probe against grey files and a slow reference; the floors against their definition."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from PIL import Image
from torch import Tensor

from benchmarks.floors import channel_moments, main, measure_floors, thumbnail, untrained_trunk
from benchmarks.probe import GRAY, ProbeSet, of_held_out, of_validation, probe
from pretrain.common.config import load_config
from pretrain.data.preprocess import Preprocess
from pretrain.defaults import get_defaults
from pretrain.methods.build import build_trunk

CPU = torch.device("cpu")


def write(folder: Path, split: str, count: int, gray: bool) -> None:
    """Noise of 20 px in 2 classes, reddish or bluish with one luma; the grey ones as grey files."""
    rng = np.random.default_rng(len(split))
    for number in range(count):
        label = number % 2
        pixels = rng.integers(105, 150, (20, 20, 1)) + (1 - 2 * label) * np.array([38, 0, -100])
        image = Image.fromarray(pixels.astype(np.uint8))
        path = folder / ("gray" if gray else "colour") / split / f"c{label}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        (image.convert("L") if gray else image).save(path)


@pytest.fixture
def cfgs(tmp_path: Path) -> dict[str, CfgNode]:
    """The same images in colour and as grey files."""
    found = {}
    for name in ("colour", "gray"):
        for split, count in (("train", 40), ("val", 30)):
            write(tmp_path, split, count, name == "gray")
        train, val = (f"folder:{tmp_path}/{name}:{split}" for split in ("train", "val"))
        words = f"DATASETS.TRAIN {train} DATASETS.KNN_TRAIN {train} DATASETS.KNN_TEST {val}"
        words += " VIEWS.SIZE 16 PRECISE_BN.IMAGES 32 PRECISE_BN.BATCH_SIZE 16"
        found[name] = load_config("masking_4_mscn_cpu.yaml", get_defaults(), words.split())
    return found


def test_a_gray_probe_is_the_probe_of_gray_files(cfgs: dict[str, CfgNode]) -> None:
    ours, saved = of_validation(cfgs["colour"]), of_validation(cfgs["gray"])
    for part in ("bank", "queries"):
        assert torch.equal(getattr(ours[GRAY], part).images, getattr(saved[""], part).images)
        assert not torch.equal(getattr(ours[GRAY], part).images, getattr(ours[""], part).images)
    held_out = cfgs["colour"].clone()
    held_out.defrost()
    held_out.DATASETS.LIMIT_PER_CLASS = 15
    sets = of_held_out(held_out)
    assert len(sets[GRAY].queries.images) == len(sets[""].queries.images) == 10
    torch.manual_seed(0)
    trunk = build_trunk(cfgs["colour"]).eval()
    results = [
        probe(trunk, Preprocess(), images, CPU, 0) for images in (ours[GRAY], saved[""], ours[""])
    ]
    assert results[0] == results[1] and results[0]["linear"] < results[2]["linear"]


def luma(image: Tensor) -> Tensor:
    """ITU-R 601 by hand, pixel by pixel, in PIL's 16-bit fixed point."""
    red, green, blue = (int(value) for value in image)
    value = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return torch.full((3,), value, dtype=torch.uint8)


def test_gray_is_itu_601(cfgs: dict[str, CfgNode]) -> None:
    """At the images' own size, so that no resizing comes between."""
    cfg = cfgs["colour"].clone()
    cfg.defrost()
    cfg.VIEWS.SIZE = 20
    sets = of_validation(cfg)
    for colour, gray in zip(sets[""].queries.images[:2], sets[GRAY].queries.images[:2]):
        for y in range(20):
            for x in range(20):
                assert torch.equal(gray[:, y, x], luma(colour[:, y, x]))


def test_pixel_floors_are_means_and_deviations() -> None:
    images = torch.randint(0, 256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    images = images.to(torch.uint8)
    moments, small = channel_moments(images), thumbnail(images)
    assert moments.shape == (3, 6) and small.shape == (3, 192)
    for i, image in enumerate(images.numpy().astype(float)):
        for channel in range(3):
            assert moments[i, channel] == pytest.approx(image[channel].mean(), rel=1e-6)
            assert moments[i, 3 + channel] == pytest.approx(image[channel].std(), rel=1e-6)
            for y in range(8):
                for x in range(8):
                    part = image[channel, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean()
                    assert small[i, 64 * channel + 8 * y + x] == pytest.approx(part, rel=1e-6)


def test_colour_alone_is_seen_in_colour_and_not_in_gray(cfgs: dict[str, CfgNode]) -> None:
    floors = measure_floors(cfgs["colour"], of_validation(cfgs["colour"]), 1, CPU)
    names = ["mean and std", "8x8 thumbnail", "untrained", "untrained, filtered"]
    assert list(floors) == names
    measures = {"linear", "knn20", "linear_gray", "knn20_gray"}
    assert all(set(found) == measures and len(found["linear"]) == 1 for found in floors.values())
    moments = floors["mean and std"]
    assert moments["linear"] == [100.0] and moments["knn20"] == [100.0]
    assert moments["linear_gray"][0] < 100.0


def test_an_untrained_network_has_the_statistics_of_its_input(cfgs: dict[str, CfgNode]) -> None:
    """Against the first layer's output computed directly; a PRECISE_BN of all 40 images."""
    cfg = cfgs["colour"].clone()
    cfg.defrost()
    cfg.PRECISE_BN.IMAGES, cfg.PRECISE_BN.BATCH_SIZE = 40, 40
    images = of_validation(cfg)[""]
    trunk = untrained_trunk(cfg, images, Preprocess(), CPU, 3)
    torch.manual_seed(3)
    start = build_trunk(cfg)
    weights = {
        k: v for k, v in start.state_dict().items() if "running" not in k and "num_" not in k
    }
    assert all(torch.equal(trunk.state_dict()[name], value) for name, value in weights.items())
    conv, norm = (next(m for m in trunk.modules() if type(m) is kind) for kind in KINDS)
    out = conv(Preprocess().apply(images.bank.images))
    torch.testing.assert_close(norm.running_mean, out.mean(dim=(0, 2, 3)), atol=1e-5, rtol=1e-4)
    assert not trunk.training


KINDS = (torch.nn.Conv2d, torch.nn.BatchNorm2d)


def test_the_command_writes_every_seed(cfgs: dict[str, CfgNode], tmp_path: Path) -> None:
    sets = cfgs["colour"].DATASETS
    words = ["--config", "masking_4_mscn_cpu.yaml", "--seeds", "2", "--output"]
    words += [str(tmp_path / "floors.json"), "VIEWS.SIZE", "16", "PRECISE_BN.IMAGES", "16"]
    words += ["PRECISE_BN.BATCH_SIZE", "16", "DATASETS.KNN_TRAIN", sets.KNN_TRAIN]
    assert main([*words, "DATASETS.KNN_TEST", sets.KNN_TEST]) == 0
    floors = json.loads((tmp_path / "floors.json").read_text())["floors"]
    assert all(len(values) == 2 for found in floors.values() for values in found.values())


def test_a_probe_set_knows_its_classes(cfgs: dict[str, CfgNode]) -> None:
    images = of_validation(cfgs["colour"], (10, 4))[""]
    assert isinstance(images, ProbeSet) and images.classes == 2
    assert len(images.bank.images) == 10 and len(images.queries.labels) == 4
