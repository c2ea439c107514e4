"""Linear probe on frozen features: features in, heads and percentages out.

Legend: N training images, M test images, D dimensions, C classes, L learning rates, B batch.

Heads for L learning rates train at once: the weights lie side by side as (D, L * C), so that one
matmul serves all, and the gradient of softmax cross-entropy is written out. The learning rate is
chosen on a held-out part of the training images; the test images are looked at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pretrain.common.errors import InputError
from pretrain.common.logs import progress
from transfer.classification.metrics import hits
from transfer.classification.rates import check_momentum, search

LOGITS = 2**26  # numbers that are held at once, 256 MiB


@dataclass(frozen=True)
class Solver:
    """Momentum SGD with a cosine to 0, no warmup; `weight_decay` leaves the bias alone."""

    epochs: int
    batch_size: int
    momentum: float = 0.9
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise InputError("SOLVER.EPOCHS and SOLVER.BATCH_SIZE must be 1 or more")
        check_momentum(self.momentum, self.weight_decay)


@dataclass(frozen=True)
class Heads:
    """L linear classifiers and how they were trained."""

    weight: Tensor  # (D, L * C)
    bias: Tensor  # (L * C,)
    num_classes: int
    curve: list[dict[str, float]]  # per epoch: {"step": epoch, "loss": mean of the first head's}

    def logits(self, features: Tensor) -> Tensor:
        """(N, D) -> (L, N, C)."""
        flat = features @ self.weight + self.bias
        return flat.unflatten(1, (-1, self.num_classes)).transpose(0, 1)

    def hits(
        self, features: Tensor, labels: Tensor, rows: Tensor, tops: Sequence[int] = (1,)
    ) -> Tensor:
        """Whether each row's label is among the T `tops` highest, bool (T, L, R) for R row numbers.

        In parts: the logits of iNaturalist's 8,142 classes would fill a GPU.
        """
        parts = []
        for index in rows.split(max(1, LOGITS // self.weight.shape[1])):
            logits, wanted = self.logits(features[index]), labels[index]
            found = [torch.stack([hits(one, wanted, top) for one in logits]) for top in tops]
            parts.append(torch.stack(found))
        return torch.cat(parts, dim=2)


def standardize_(train: Tensor, *others: Tensor, eps: float = 1e-6) -> None:
    """Zero mean and unit variance per dimension, statistics of `train` (N, D), for all given.

    In place: Places205's features are 20 GB, and a copy is as much again.

    In evaluation the same map as BatchNorm1d(affine=False, eps) whose running statistics are those
    of the whole training set (MAE's main_linprobe.py puts such a layer before the head).
    """
    mean, variance = train.mean(dim=0), train.var(dim=0, unbiased=False)
    scale = (variance + eps).rsqrt()
    for features in (train, *others):
        features.sub_(mean).mul_(scale)


def check_holdout(labels: Tensor, share: float, names: Sequence[str] = ()) -> None:
    """Raises InputError for a share outside (0, 1), or a class with a single image (named)."""
    if not 0 < share < 1:
        raise InputError(f"PROTOCOL.HOLDOUT {share} must lie between 0 and 1")
    single = (labels.bincount() == 1).nonzero()
    if len(single):
        label = int(single[0])
        raise InputError(
            f"class {repr(names[label]) if names else label} has one training image: none is left "
            "to choose the learning rate on; give one SOLVER.LR_PER_256"
        )


def split_holdout(
    labels: Tensor, share: float, generator: torch.Generator, names: Sequence[str] = ()
) -> tuple[Tensor, Tensor]:
    """Returns index tensors (kept, held out): `share` of each class's images, at least one.

    Raises InputError as `check_holdout`.
    """
    check_holdout(labels, share, names)
    kept, held = [], []
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        order = members[torch.randperm(len(members), generator=generator).to(members.device)]
        count = min(len(members) - 1, max(1, round(share * len(members))))
        held.append(order[:count])
        kept.append(order[count:])
    return torch.cat(kept), torch.cat(held)


def train_heads(
    features: Tensor,
    labels: Tensor,
    lrs: Sequence[float],
    solver: Solver,
    *,
    num_classes: int,
    generator: torch.Generator,
    rows: Tensor | None = None,
    desc: str = "linear probe",
) -> Heads:
    """Trains L heads from zero on features (N, D), labels (N,) int64 in 0..C-1.

    Args:
        lrs: learning rates for a batch of 256.
        generator: on the CPU; draws the order of the images.
        rows: numbers of the images to train on; None: all.
    """
    device = features.device
    rows = torch.arange(len(features), device=device) if rows is None else rows
    count = len(rows)
    heads, dim = len(lrs), features.shape[1]
    weight = torch.zeros(dim, heads * num_classes, device=device)
    bias = torch.zeros(heads * num_classes, device=device)
    speeds = [torch.zeros_like(weight), torch.zeros_like(bias)]
    batch_size = min(solver.batch_size, count)
    scaled = torch.tensor(lrs, device=device) * batch_size / 256
    column_lrs = scaled.repeat_interleave(num_classes)
    steps_per_epoch = math.ceil(count / batch_size)
    total, curve = solver.epochs * steps_per_epoch, []
    for epoch in progress(range(solver.epochs), desc=desc, unit="epoch", leave=False):
        order = rows[torch.randperm(count, generator=generator).to(device)]
        losses = []
        for step, index in enumerate(order.split(batch_size)):
            batch, target = features[index], one_hot(labels[index], num_classes).float()
            flat = (batch @ weight + bias).unflatten(1, (heads, num_classes))
            log_p = flat.log_softmax(dim=2)
            losses.append(-(log_p[:, 0] * target).sum(dim=1).mean())
            # d mean CE / d logits, (B, L * C). Below 1e-17 a probability moves nothing, but left to
            # become a denormal number it makes the CPU's matmul 10 times slower
            delta = log_p.clamp(min=-40).exp() - target[:, None]
            delta = (delta / len(index)).flatten(1)
            done = (epoch * steps_per_epoch + step) / total
            lr = column_lrs * (0.5 * (1 + math.cos(math.pi * done)))
            gradients = (batch.T @ delta + solver.weight_decay * weight, delta.sum(dim=0))
            for value, speed, gradient in zip((weight, bias), speeds, gradients):
                speed.mul_(solver.momentum).add_(gradient)
                value.sub_(lr * speed)
        curve.append({"step": epoch + 1, "loss": torch.stack(losses).mean().item()})
    return Heads(weight, bias, num_classes, curve)


def choose_lr(
    features: Tensor,
    labels: Tensor,
    lrs: Sequence[float],
    solver: Solver,
    *,
    num_classes: int,
    holdout: float,
    generator: torch.Generator,
) -> tuple[float, dict[float, float]]:
    """Returns (the best learning rate, {learning rate: held-out top-1 percent}); see `search`."""
    kept, held = split_holdout(labels, holdout, generator)

    def score(rates: list[float]) -> list[float]:
        heads = train_heads(
            features,
            labels,
            rates,
            solver,
            num_classes=num_classes,
            generator=generator,
            rows=kept,
            desc=f"choosing among {len(rates)} learning rates",
        )
        return (100.0 * heads.hits(features, labels, held)[0].double().mean(dim=1)).tolist()

    return search(lrs, score)
