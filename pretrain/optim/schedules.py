"""Learning rates: a step number in, a learning rate out."""

from __future__ import annotations

import math


def scaled_lr(lr_per_256: float, batch_size: int) -> float:
    """The linear scaling rule: `lr_per_256` is the rate for 256 images, `batch_size` the global
    batch."""
    return lr_per_256 * batch_size / 256


def warmup_cosine(
    step: int,
    *,
    base_lr: float,
    total_steps: int,
    warmup_steps: int = 0,
    final_fraction: float = 0.0,
) -> float:
    """Rate of step 0..total_steps-1: linear up to `base_lr`, then half a cosine.

    The cosine ends at `final_fraction` of the rate. Warmup gives step s the rate (s + 1) /
    warmup_steps, so that no step is spent at rate 0 (Google's SimCLR starts at 0). Raises
    ValueError when the warmup is not shorter than the run.
    """
    if not 0 <= warmup_steps < max(total_steps, 1):
        raise ValueError(f"warmup of {warmup_steps} steps does not fit in {total_steps} steps")
    if step < warmup_steps:
        return base_lr * (step + 1) / warmup_steps
    progress = min((step - warmup_steps) / (total_steps - warmup_steps), 1.0)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return base_lr * (final_fraction + (1.0 - final_fraction) * cosine)
