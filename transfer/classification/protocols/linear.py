"""The protocol `linear`: a linear classifier trained by SGD on frozen features of centre crops.

Heads for L learning rates train at once: their weights are side by side in (D, L * C), so one
matmul computes all of them. The gradient of softmax cross-entropy is written out. The learning rate
is chosen on a held-out part of the training images; the test images are used once.
Legend: N training images, M test images, D dimensions, C classes, L learning rates, B batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torch.nn.functional import one_hot

from pretrain.common.device_copy import send
from pretrain.common.logs import progress
from transfer.classification.features.extract import Features
from transfer.classification.metrics import hits, per_class_accuracies
from transfer.classification.protocols.protocol import (
    ClassificationJob,
    Data,
    OnFeatures,
    open_labelled,
)
from transfer.classification.rates import (
    check_holdout,
    check_rates,
    check_solver,
    search,
    selection_notes,
    split_holdout,
)
from transfer.classification.score import Outcomes, Score
from transfer.classification.trained_head import TrainedHead

LOGITS = 2**26  # most logits in memory at once, 256 MiB


def check(cfg: CfgNode, trials: int) -> Data:
    """Opens the data; raises InputError if it cannot be trained on or no rate can be chosen."""
    make_solver(cfg)
    data = open_labelled(cfg)
    if len(cfg.SOLVER.LR_PER_256) > 1:
        check_holdout(data.train.labels, cfg.PROTOCOL.HOLDOUT, data.train.classes)
    return data


def score(job: ClassificationJob, bank: Features, queries: Features, seed: int) -> Score:
    """Chooses the learning rate on held-out training images, then trains on all of them."""
    cfg, classes, device = job.cfg, job.train_set.classes, job.device
    solver = make_solver(cfg)
    values, test_values = (  # copies: the features may be mapped from a file
        split.values.to(device, torch.float32, copy=True) for split in (bank, queries)
    )
    labels, test_labels = (split.labels.to(device) for split in (bank, queries))
    scaling = values.new_zeros(values.shape[1]), values.new_ones(values.shape[1])
    if cfg.PROTOCOL.STANDARDIZE:
        scaling = standardize_(values, test_values)
    generator = torch.Generator().manual_seed(seed)
    count, holdout = len(classes), cfg.PROTOCOL.HOLDOUT
    lrs = [float(lr) for lr in cfg.SOLVER.LR_PER_256]
    lr = lrs[0]
    held_out: dict[float, float] = {}
    if len(lrs) > 1:
        lr, held_out = choose_lr(
            values, labels, lrs, solver, num_classes=count, holdout=holdout, generator=generator
        )
    heads = train_heads(
        values,
        labels,
        [lr],
        solver,
        num_classes=count,
        generator=generator,
        desc=f"head, lr {lr:g}",
    )
    tops = (1, 5) if count > 5 else (1,)
    found = heads.hits(test_values, test_labels, torch.arange(len(queries), device=device), tops)
    right = {f"top{top}": one for top, one in zip(tops, found[:, 0])}
    return Score(
        {name: 100.0 * int(one.sum()) / len(queries) for name, one in right.items()},
        per_class_accuracies({"top1": right["top1"]}, queries.labels, classes),
        heads.curve,
        selection_notes(lr, held_out, lrs),
        Outcomes({name: one.cpu().numpy() for name, one in right.items()}),
        head=TrainedHead(heads.weight, heads.bias, *scaling, classes),
    )


PROTOCOL = OnFeatures(names=("linear",), check=check, score=score)


def make_solver(cfg: CfgNode) -> Solver:
    """Reads SOLVER; raises InputError for settings with which no step can be taken."""
    node = cfg.SOLVER
    check_rates(node.LR_PER_256)
    return Solver(node.EPOCHS, node.BATCH_SIZE, node.MOMENTUM, node.WEIGHT_DECAY)


@dataclass(frozen=True)
class Solver:
    """Is momentum SGD with a cosine schedule to 0 and no warmup; the bias has no weight decay."""

    epochs: int
    batch_size: int
    momentum: float = 0.9
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_solver(self.epochs, self.batch_size, self.momentum, self.weight_decay)


@dataclass(frozen=True)
class Heads:
    """Holds L linear classifiers, and their training loss.

    Attributes:
        weight: (D, L * C).
        bias: (L * C,).
        num_classes: C.
        curve: for each epoch {"step": its number, "loss": mean loss of the first classifier}.
    """

    weight: Tensor
    bias: Tensor
    num_classes: int
    curve: list[dict[str, float]]

    def logits(self, features: Tensor) -> Tensor:
        """Maps features (N, D) to logits (L, N, C)."""
        flat = features @ self.weight + self.bias
        return flat.unflatten(1, (-1, self.num_classes)).transpose(0, 1)

    def hits(
        self, features: Tensor, labels: Tensor, rows: Tensor, tops: Sequence[int] = (1,)
    ) -> Tensor:
        """Returns whether the label of each of R `rows` is among the T `tops` highest, (T, L, R).

        The rows are computed in parts: all logits of iNaturalist's 8,142 classes would fill a GPU.
        """
        parts = []
        for index in rows.split(max(1, LOGITS // self.weight.shape[1])):
            logits, wanted = self.logits(features[index]), labels[index]
            found = [torch.stack([hits(one, wanted, top) for one in logits]) for top in tops]
            parts.append(torch.stack(found))
        return torch.cat(parts, dim=2)


def standardize_(train: Tensor, *others: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Shifts and scales all given features by the mean and variance of each dimension of `train`.

    This is done in place: Places205's features are 20 GB, and a copy would need 20 GB more. The
    result equals BatchNorm1d(affine=False, eps) in evaluation, with the statistics of the complete
    training set; MAE's main_linprobe.py has such a layer before the head. Returns the mean and
    the scale of each dimension, (D,).
    """
    mean, variance = train.mean(dim=0), train.var(dim=0, unbiased=False)
    scale = (variance + eps).rsqrt()
    for features in (train, *others):
        features.sub_(mean).mul_(scale)
    return mean, scale


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
    """Trains L heads from zero on features (N, D) with labels (N,), int64 in 0..C-1.

    Args:
        lrs: L learning rates for a batch of 256.
        generator: CPU generator that draws the order of the images.
        rows: indices of the images to train on; None: all.
    """
    device = features.device
    rows = torch.arange(len(features), device=device) if rows is None else rows
    count = len(rows)
    heads, dim = len(lrs), features.shape[1]
    weight = torch.zeros(dim, heads * num_classes, device=device)
    bias = torch.zeros(heads * num_classes, device=device)
    speeds = [torch.zeros_like(weight), torch.zeros_like(bias)]
    batch_size = min(solver.batch_size, count)
    scaled = send(torch.tensor(lrs), device) * batch_size / 256
    column_lrs = scaled.repeat_interleave(num_classes)
    steps_per_epoch = math.ceil(count / batch_size)
    total, means = solver.epochs * steps_per_epoch, []
    for epoch in progress(range(solver.epochs), desc=desc, unit="epoch", leave=False):
        order = rows[send(torch.randperm(count, generator=generator), device)]
        losses = []
        for step, index in enumerate(order.split(batch_size)):
            batch, target = features[index], one_hot(labels[index], num_classes).float()
            flat = (batch @ weight + bias).unflatten(1, (heads, num_classes))
            log_p = flat.log_softmax(dim=2)
            losses.append(-(log_p[:, 0] * target).sum(dim=1).mean())
            # d mean CE / d logits, (B, L * C). A probability below 1e-17 changes nothing, but if it
            # became a denormal number, the CPU's matmul would be 10 times slower
            delta = log_p.clamp(min=-40).exp() - target[:, None]
            delta = (delta / len(index)).flatten(1)
            done = (epoch * steps_per_epoch + step) / total
            lr = column_lrs * (0.5 * (1 + math.cos(math.pi * done)))
            gradients = (batch.T @ delta + solver.weight_decay * weight, delta.sum(dim=0))
            for value, speed, gradient in zip((weight, bias), speeds, gradients):
                speed.mul_(solver.momentum).add_(gradient)
                value.sub_(lr * speed)
        means.append(torch.stack(losses).mean())
    # Read at the end, because the host would wait for the GPU at each reading.
    values = torch.stack(means).tolist()
    curve = [{"step": step, "loss": loss} for step, loss in enumerate(values, start=1)]
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
    """Returns the best learning rate, and {learning rate: held-out top-1 percent}; see `search`."""
    # On the CPU: on a GPU the host would wait three times for each class.
    parts = split_holdout(labels.cpu(), holdout, generator)
    kept, held = (send(rows, labels.device) for rows in parts)

    def score(rates: list[float]) -> list[float]:
        heads = train_heads(
            features,
            labels,
            rates,
            solver,
            num_classes=num_classes,
            generator=generator,
            rows=kept,
            desc=f"choosing from {len(rates)} learning rates",
        )
        return (100.0 * heads.hits(features, labels, held)[0].double().mean(dim=1)).tolist()

    return search(lrs, score)
