"""Preprocessing facts: applied as written, carried as plain values, refused if they are wrong."""

from __future__ import annotations

import json

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from pretrain.common.errors import InputError
from pretrain.data.highpass import HighPass, highpass
from pretrain.data.preprocess import Preprocess

MSRA = Preprocess((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), "BGR", (0.0, 255.0))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 9, 9), generator=torch.Generator().manual_seed(0)).byte()


def test_default_is_torchvision(images: torch.Tensor) -> None:
    expected = F.normalize(images.float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(Preprocess().apply(images), expected, atol=1e-5, rtol=0)
    got = Preprocess().apply(images.float() / 255)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_range_and_order(images: torch.Tensor) -> None:
    """Detectron2's MSRA convention: BGR, 0 to 255, mean in BGR order."""
    expected = images.float()[:, [2, 1, 0]] - torch.tensor(MSRA.mean).view(1, 3, 1, 1)
    torch.testing.assert_close(MSRA.apply(images), expected, atol=1e-4, rtol=0)


def test_a_range_that_begins_below_zero(images: torch.Tensor) -> None:
    """Inception's -1 to 1; mean and std are on that scale."""
    facts = Preprocess((0.1, -0.2, 0.3), (2.0, 3.0, 4.0), value_range=(-1.0, 1.0))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (facts.mean, facts.std))
    expected = (images.float() / 127.5 - 1 - mean) / std
    torch.testing.assert_close(facts.apply(images), expected, atol=1e-5, rtol=0)


def test_filter_comes_last(images: torch.Tensor) -> None:
    with_filter = Preprocess(highpass=HighPass(5, 2.0))
    expected = highpass(Preprocess().apply(images), 5, 2.0)
    assert torch.equal(with_filter.apply(images), expected)


@pytest.mark.parametrize("facts", [Preprocess(), MSRA, Preprocess(highpass=HighPass(5, 2.0))])
def test_round_trip_through_json(facts: Preprocess) -> None:
    assert Preprocess.from_dict(json.loads(json.dumps(facts.to_dict()))) == facts


@pytest.mark.parametrize(
    "facts, match",
    [
        ({"means": [0, 0, 0]}, "means"),
        ({"channel_order": "GBR"}, "GBR"),
        ({"mean": [1.0]}, "three values"),
        ({"mean": "x"}, "cannot be read"),
        ({"std": [1, 0, 1]}, "std"),
        ({"value_range": [1, 0]}, "value_range"),
        ({"highpass": {"kernel": 3}}, "kernel"),
    ],
)
def test_bad_facts(facts: dict, match: str) -> None:
    with pytest.raises(InputError, match=match):
        Preprocess.from_dict(facts)
