"""Copies drawn numbers to a GPU without making the host wait."""

from __future__ import annotations

import torch
from torch import Tensor

STAGED = 64 * 1024  # up to this many bytes, CUDA copies pageable memory without a wait


def send(values: Tensor, device: torch.device) -> Tensor:
    """Returns the values on `device`. From a CPU to a GPU the copy runs asynchronously. Large
    values go through pinned memory, because CUDA always waits for large copies of pageable memory.
    """
    if device.type == "cuda" and values.device.type == "cpu" and values.nbytes > STAGED:
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
