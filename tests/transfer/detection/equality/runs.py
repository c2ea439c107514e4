"""What a detector does in training and at test time, in full and as a few numbers.

From a side (ours or Detectron2's) and the name of a case it makes a `CaseRun` of everything that is
computed. `condense` turns this into the small arrays that are kept as golden outputs.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from tests.transfer.detection.equality.cases import (
    ADAMW,
    NOTHING,
    PRECISE_BN,
    STEPS,
    TEST,
    keys_of,
    make_batch,
    make_state,
    takes_nothing,
    training_batch,
)

# Short, so that three steps see three rates, the last one after a decay.
SOLVER = {
    "base_lr": 0.002,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "weight_decay_norm": 0.0,
    "max_iter": 4,
    "steps": (2,),
    "warmup_iters": 1,
    "warmup_factor": 0.5,
}


class Side(Protocol):
    """One implementation of the detectors."""

    def build(self, keys: Mapping[str, Any]) -> nn.Module: ...

    def losses(self, model: nn.Module, batch: list[dict[str, Any]]) -> dict[str, Tensor]: ...

    def detect(self, model: nn.Module, batch: list[dict[str, Any]]) -> list[dict[str, Tensor]]: ...

    def optimizer(
        self, model: nn.Module, adamw: Mapping[str, float] | None
    ) -> tuple[torch.optim.Optimizer, Callable[[int], None]]:
        """SOLVER's optimiser, or AdamW, and what sets its rate before an iteration."""

    def precise_bn(self, model: nn.Module, batches: list[list[dict[str, Any]]]) -> None: ...


@dataclass
class CaseRun:
    """Everything that one side computed for one case."""

    found: list[dict[str, Tensor]]  # per test image, with the first weights
    rates: list[float]  # per step
    losses: list[dict[str, Tensor]]  # per step, and last of a batch without any object
    gradients: dict[str, Tensor]  # of the first step
    changes: dict[str, Tensor]  # of every float entry of the state dict over all steps
    state: dict[str, Tensor]  # after all steps
    precise: dict[str, Tensor]  # the batch norms' statistics after PreciseBN


def make_model(side: Side, case: str) -> nn.Module:
    """The case's detector with the case's weights."""
    keys = keys_of(case)
    model = side.build(keys)
    model.load_state_dict(make_state(model.state_dict(), keys))
    return model


def run_case(side: Side, case: str) -> CaseRun:
    """Detects, then trains for a few steps, then replaces the statistics."""
    model = make_model(side, case)
    model.eval()
    found = side.detect(model, make_batch(TEST, 5))
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer, set_rate = side.optimizer(model, ADAMW.get(case))
    rates, losses, gradients = [], [], {}
    for step in range(STEPS):
        set_rate(step)
        rates.append(optimizer.param_groups[0]["lr"])
        torch.manual_seed(step)  # regions are sampled with the global generator
        losses.append(side.losses(model, training_batch(step)))
        optimizer.zero_grad()
        sum(losses[-1].values()).backward()
        if step == 0:
            # Maps that nothing uses give their layers none.
            named = model.named_parameters()
            gradients = {n: p.grad.clone() for n, p in named if p.grad is not None}
        optimizer.step()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    if takes_nothing(case):
        losses.append(side.losses(model, make_batch(NOTHING, 20)))
    if case in PRECISE_BN:
        side.precise_bn(model, [training_batch(0), training_batch(2)])
    return CaseRun(
        found=found,
        rates=rates,
        losses=[{k: v.detach() for k, v in step_losses.items()} for step_losses in losses],
        gradients=gradients,
        changes={n: v - before[n] for n, v in state.items() if v.is_floating_point()},
        state=state,
        precise=statistics(model) if case in PRECISE_BN else {},
    )


def statistics(model: nn.Module) -> dict[str, Tensor]:
    """Running means and variances, by name."""
    return {name: value for name, value in model.state_dict().items() if ".running_" in name}


def sketch(tensors: Mapping[str, Tensor]) -> np.ndarray:
    """float64 (n, 2), names sorted: each tensor's norm, and its product with a vector drawn from
    its name. Of an error of relative size e the second moves by about e / 2 of the norm."""
    rows = []
    for name in sorted(tensors):
        flat = tensors[name].detach().double().flatten().numpy()
        vector = np.random.default_rng(zlib.crc32(name.encode())).random(4093) * 2.0 - 1.0
        rows.append((np.sqrt((flat * flat).sum()), (flat * np.resize(vector, flat.size)).sum()))
    return np.array(rows).reshape(-1, 2)


def condense(run: CaseRun) -> dict[str, np.ndarray]:
    """A run in a few kilobytes: what the golden files hold."""
    small = {"rates": np.array(run.rates)}
    for step, losses in enumerate(run.losses):
        for name, value in losses.items():
            small[f"losses/{step}/{name}"] = value.numpy()
    for part in ("gradients", "changes", "precise"):
        tensors = getattr(run, part)
        small[f"{part}/names"] = np.array(sorted(tensors), dtype=np.str_)
        small[f"{part}/sketch"] = sketch(tensors)
    for image, found in enumerate(run.found):
        for name, value in found.items():
            array = value.numpy()
            small[f"found/{image}/{name}"] = np.packbits(array) if name == "masks" else array
    return small
