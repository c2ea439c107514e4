"""Losses in float32 for a network of any precision: a function in, a function in float32 out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def full_precision(loss: Callable[..., Result]) -> Callable[..., Result]:
    """Runs `loss` without autocast, with its floating tensors in float32 or better.

    Softmaxes, variances and differences of near-equal numbers lose too much in bfloat16.
    """

    @functools.wraps(loss)
    def guarded(*args: Any, **options: Any) -> Result:
        tensors = [_promoted(value) for value in args]
        named = {name: _promoted(value) for name, value in options.items()}
        kind = next(v.device.type for v in (*tensors, *named.values()) if isinstance(v, Tensor))
        with torch.autocast(kind, enabled=False):
            return loss(*tensors, **named)

    return guarded


def _promoted(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(torch.promote_types(value.dtype, torch.float32))
    return value
