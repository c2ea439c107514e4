"""Learning rates against the written-out formula."""

from __future__ import annotations

import math

import pytest

from pretrain.common.errors import InputError
from transfer.training.schedule import Schedule, check_steps

VOC = Schedule("WarmupMultiStepLR", 24000, (18000, 22000), warmup_iters=100)


@pytest.mark.parametrize(
    ("iteration", "rate"),
    [(0, 2e-5), (1, 2.198e-4), (50, 0.01001), (99, 0.0198002), (100, 0.02), (17999, 0.02)]
    + [(18000, 0.002), (21999, 0.002), (22000, 0.0002), (23999, 0.0002)],
)
def test_moco_voc_rates(iteration: int, rate: float) -> None:
    assert 0.02 * VOC.factor(iteration) == pytest.approx(rate, rel=1e-12)


def test_every_iteration_against_the_formula() -> None:
    schedule = Schedule("WarmupMultiStepLR", 60, (30, 50), warmup_iters=20, warmup_factor=0.01)
    for i in range(60):
        factor = 0.1 ** ((i >= 30) + (i >= 50))
        if i < 20:
            factor = 0.01 * (1 - i / 20) + i / 20
        assert schedule.factor(i) == pytest.approx(factor, rel=1e-12)


def test_cosine() -> None:
    schedule = Schedule("WarmupCosineLR", 100, warmup_iters=10, warmup_factor=0.0, end_factor=0.1)
    at_10 = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.1))
    assert schedule.factor(10) == pytest.approx(at_10)
    assert schedule.factor(5) == pytest.approx(at_10 / 2)
    assert schedule.factor(100) == pytest.approx(0.1)


def test_constant_warmup_and_warmup_longer_than_the_run() -> None:
    constant = Schedule(
        "WarmupMultiStepLR", 9, warmup_iters=3, warmup_factor=0.2, warmup_method="constant"
    )
    assert [constant.factor(i) for i in (0, 2, 3)] == [0.2, 0.2, 1.0]
    short = Schedule("WarmupMultiStepLR", 10, warmup_iters=100, warmup_factor=0.0)
    assert short.factor(5) == pytest.approx(0.5)


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="SOLVER.LR_SCHEDULER_NAME"):
        Schedule("WarmupMultistepLR", 10)
    with pytest.raises(InputError, match="SOLVER.WARMUP_METHOD"):
        Schedule("WarmupMultiStepLR", 10, warmup_method="cubic")


def test_steps() -> None:
    assert check_steps([3, 5, 9], 8) == (3, 5)
    with pytest.raises(InputError, match="must be increasing"):
        check_steps([5, 3], 8)
