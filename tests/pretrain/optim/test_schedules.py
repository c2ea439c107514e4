"""Warmup and cosine against torch's schedulers, and the linear scaling rule."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from pretrain.optim.schedules import scaled_lr, warmup_cosine


@pytest.mark.parametrize("final_fraction", [0.0, 0.1])
def test_matches_torch(final_fraction: float) -> None:
    warmup, total, base = 4, 20, 4.8
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    linear = LinearLR(optimizer, 1 / warmup, 1.0, warmup - 1)
    cosine = CosineAnnealingLR(optimizer, total - warmup, base * final_fraction)
    scheduler = SequentialLR(optimizer, [linear, cosine], [warmup])
    for step in range(total):
        ours = warmup_cosine(
            step,
            base_lr=base,
            total_steps=total,
            warmup_steps=warmup,
            final_fraction=final_fraction,
        )
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6, abs=1e-9)
        optimizer.step()
        scheduler.step()


def test_warmup_must_fit() -> None:
    with pytest.raises(ValueError, match="warmup of 10 steps"):
        warmup_cosine(0, base_lr=1.0, total_steps=10, warmup_steps=10)


def test_linear_scaling() -> None:
    assert scaled_lr(0.3, 4096) == pytest.approx(4.8)
