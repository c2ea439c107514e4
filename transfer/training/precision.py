"""Mixed precision of a training step: its autocast context and its scaled backward pass.

float16 has too few exponents for small gradients, so losses are multiplied before the backward pass
and gradients divided after it (torch's GradScaler, as in Detectron2's AMPTrainer); a step whose
gradients overflow is skipped. bfloat16 has the exponents of float32 and does not need this.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Precision:
    """Describes the precision of a training step; without a dtype, it computes in float32."""

    def __init__(self, dtype: torch.dtype | None = None, device_type: str = "cpu") -> None:
        """Args: device_type: "cuda" or "cpu", where the model is."""
        self.dtype, self.device_type = dtype, device_type
        self._scaler = torch.amp.GradScaler(device_type, enabled=dtype is torch.float16)

    def autocast(self) -> AbstractContextManager[None]:
        """Returns the context for the forward pass and the losses, not for the backward pass."""
        enabled = self.dtype is not None
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=enabled)

    def backward(self, loss: Tensor) -> None:
        """Adds the (scaled) gradients of `loss`."""
        self._scaler.scale(loss).backward()

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Takes the optimizer's step on the unscaled gradients."""
        self._scaler.step(optimizer)
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Returns the scaler's state; empty if nothing is scaled."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a scale; an empty state (from a run without scaling) changes nothing."""
        if state:
            self._scaler.load_state_dict(state)
