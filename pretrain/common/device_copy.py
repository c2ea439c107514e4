"""Copies of drawn numbers to a GPU that the host does not wait for."""

from __future__ import annotations

import torch
from torch import Tensor

STAGED = 64 * 1024  # bytes up to which CUDA takes a copy of pageable memory without a wait


def send(values: Tensor, device: torch.device) -> Tensor:
    """The values on `device`. From a CPU to a GPU the copy runs beside the host: large values go
    by way of pinned memory, since CUDA would wait for pageable memory whatever was asked for."""
    if device.type == "cuda" and values.device.type == "cpu" and values.nbytes > STAGED:
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
