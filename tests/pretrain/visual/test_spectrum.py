"""The spectrum of features against numpy, and the trunk that it describes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from torch import nn

from pretrain.common.checkpoint import save_checkpoint
from pretrain.common.collapse_statistics import effective_rank, singular_values
from pretrain.common.errors import InputError
from pretrain.data.datasets import ArrayImages
from pretrain.data.highpass import HighPass
from pretrain.data.preprocess import Preprocess
from pretrain.defaults import get_defaults
from pretrain.methods.build import build_trunk, load_trunk, trunk_width
from pretrain.visual.spectrum import measure_spectrum


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_defaults()
    cfg.BACKBONE.NAME, cfg.VIEWS.SIZE = "tiny_resnet", 16
    return cfg


def images(number: int) -> ArrayImages:
    pixels = np.random.default_rng(0).integers(0, 256, (number, 16, 16, 3), dtype=np.uint8)
    return ArrayImages(pixels, [-1] * number, [], [f"image {i}" for i in range(number)])


def test_singular_values_against_numpy() -> None:
    z = torch.randn(12, 5)
    values = np.linalg.svd(z.double().numpy() - z.double().numpy().mean(axis=0))[1]
    shares = values / values.sum()
    assert singular_values(z).tolist() == pytest.approx(shares.tolist())
    assert effective_rank(z) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert singular_values(torch.ones(3, 2)).tolist() == [0.0, 0.0]


def test_input_is_prepared_as_the_weights_want_it() -> None:
    """A trunk that returns its pixels: the spectrum is that of filtered, normalised images."""
    data, facts = images(9), Preprocess(highpass=HighPass(5, 1.5))
    found = measure_spectrum(nn.Flatten(), data, facts, 16)
    pixels = torch.from_numpy(data.pixels).permute(0, 3, 1, 2)
    features = facts.apply(pixels).flatten(1)
    assert found.images == 9 and len(found.shares) == 9
    assert found.shares == pytest.approx(singular_values(features).tolist(), abs=1e-6)
    assert found.effective_rank == pytest.approx(effective_rank(features), rel=1e-4)
    plain = measure_spectrum(nn.Flatten(), data, Preprocess(), 16)
    assert plain.shares != pytest.approx(found.shares, abs=1e-4), "unfiltered it is another"


def test_at_most_512_images() -> None:
    assert measure_spectrum(nn.Flatten(), images(515), Preprocess(), 16).images == 512


def test_images_that_give_no_spectrum() -> None:
    with pytest.raises(InputError, match="two images or more, but --images has 1"):
        measure_spectrum(nn.Flatten(), images(1), Preprocess(), 16)
    broken = images(3)
    broken.unreadable[2] = "image 2 is cut off"
    with pytest.raises(
        InputError, match=r"images are unreadable \(1: image 2 is cut off\); repair or remove"
    ):
        measure_spectrum(nn.Flatten(), broken, Preprocess(), 16)


def test_loads_the_trained_trunk(cfg: CfgNode, tmp_path: Path) -> None:
    assert trunk_width(cfg) == 128
    trained = build_trunk(cfg)
    with torch.no_grad():
        trained.bn1.running_mean.fill_(0.25)
    model = {f"trunk.{name}": value for name, value in trained.state_dict().items()}
    model["projector.0.weight"] = torch.zeros(2, 2)
    facts = Preprocess(highpass=HighPass(5, 1.5))
    path = tmp_path / "checkpoint.pth"
    save_checkpoint({"model": model, "preprocess": facts.to_dict()}, path)
    trunk, preprocess = load_trunk(cfg, path)
    assert preprocess == facts
    batch = torch.randn(2, 3, 16, 16)
    assert torch.equal(trunk.eval()(batch), trained.eval()(batch))
    cfg.BACKBONE.NAME = "resnet18"
    with pytest.raises(
        InputError, match="checkpoint.pth does not contain the BACKBONE.NAME resnet18"
    ):
        load_trunk(cfg, path)
