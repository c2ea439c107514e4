"""The optimizer and the learning-rate schedule of a classifier, from a recipe's settings.

A new recipe that needs only these parts is a YAML in configs/classification/ (`_BASE_:
linear_crops.yaml`).

Linear recipes use three forms of LARS; none of them decays parameters that it does not adapt:
    matrices  weights of two dimensions and more; facebookresearch/mae util/lars.py
    all       every parameter, as apex's LARC with clip=False; facebookresearch/simsiam
    backbone  the backbone's matrices, with the rate inside the momentum buffer; the head is trained
              by plain momentum SGD, because google-research/simclr excludes `head_supervised`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from pretrain.common.errors import InputError
from pretrain.common.lookup import find
from pretrain.optim.build import build_optimizer
from pretrain.optim.schedules import (
    SCHEDULES,
    by_epoch,
    check_milestones,
    scaled_lr,
    warmup_cosine,
    warmup_steps_down,
)
from transfer.classification.rates import check_solver
from transfer.classification.training.model import Classifier

OPTIMIZERS = ("sgd", "lars")
LARS_FORMS = ("matrices", "all", "backbone")


@dataclass(frozen=True)
class Recipe:
    """Says how a classifier is trained. Raises InputError, naming the config's key, for a bad
    setting.

    Attributes:
        batch_size: images per step in all processes together.
        weight_decay: on all parameters except normalisation layers; for LARS see the module.
        backbone_lr_ratio: the backbone's learning rate divided by the head's.
        per_epoch: the rate changes at the start of each epoch instead of at each step.
        milestones: epochs at which the "step" schedule multiplies the rate by `gamma`.
    """

    epochs: int
    batch_size: int
    optimizer: str = "sgd"
    lars: str = "matrices"
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    backbone_lr_ratio: float = 1.0
    schedule: str = "cosine"
    per_epoch: bool = False
    warmup_epochs: int = 0
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        check_solver(self.epochs, self.batch_size, self.momentum, self.weight_decay)
        if self.nesterov and not self.momentum:
            raise InputError("TRAIN.NESTEROV needs a SOLVER.MOMENTUM above 0")
        find(self.optimizer, dict.fromkeys(OPTIMIZERS), "optimizer", "TRAIN.OPTIMIZER")
        find(self.lars, dict.fromkeys(LARS_FORMS), "form of LARS", "TRAIN.LARS")
        find(self.schedule, dict.fromkeys(SCHEDULES), "schedule", "TRAIN.SCHEDULE")
        if self.backbone_lr_ratio <= 0:
            raise InputError(f"TRAIN.BACKBONE_LR_RATIO {self.backbone_lr_ratio} must be above 0")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise InputError(
                f"TRAIN.WARMUP_EPOCHS {self.warmup_epochs} must be from 0 to below SOLVER.EPOCHS "
                f"{self.epochs}"
            )
        if self.schedule == "step":
            self._check_milestones()

    def _check_milestones(self) -> None:
        try:
            check_milestones([epoch / self.epochs for epoch in self.milestones])
        except InputError:
            raise InputError(
                f"TRAIN.MILESTONES {self.milestones} must be increasing epochs below SOLVER.EPOCHS "
                f"{self.epochs}; change either of them"
            ) from None


def make_schedule(
    recipe: Recipe, lr_per_256: float, steps_per_epoch: int
) -> Callable[[int], float]:
    """Returns a function from step number to the head's learning rate, including warmup."""
    settings: dict[str, Any] = {
        "base_lr": scaled_lr(lr_per_256, recipe.batch_size),
        "total_steps": recipe.epochs * steps_per_epoch,
        "warmup_steps": recipe.warmup_epochs * steps_per_epoch,
    }
    if recipe.schedule == "cosine":
        rate = partial(warmup_cosine, **settings)
    else:
        shares = [epoch / recipe.epochs for epoch in recipe.milestones]
        rate = partial(warmup_steps_down, milestones=shares, factor=recipe.gamma, **settings)
    return by_epoch(rate, steps_per_epoch) if recipe.per_epoch else rate


def make_optimizer(recipe: Recipe, model: Classifier) -> Optimizer:
    """Returns the optimizer of all trainable parameters; `set_rates` sets its learning rates."""
    return build_optimizer(
        parameter_groups(recipe, model),
        recipe.optimizer,
        lr=0.0,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        momentum_holds_lr=recipe.lars == "backbone",
    )


def parameter_groups(recipe: Recipe, model: Classifier) -> list[dict[str, Any]]:
    """Returns the trainable parameters, grouped by: head or backbone, decayed, adapted."""
    kinds = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)
    norms = [module for module in model.modules() if isinstance(module, kinds)]
    of_norms = {id(p) for norm in norms for p in norm.parameters(recurse=False)}
    of_heads = {id(p) for p in model.heads.parameters()}
    groups: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        head = id(parameter) in of_heads
        adapt = recipe.lars == "all" or (
            parameter.ndim > 1 and not (recipe.lars == "backbone" and head)
        )
        decays = adapt if recipe.optimizer == "lars" else id(parameter) not in of_norms
        groups.setdefault((head, decays, adapt), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr_ratio": 1.0 if head else recipe.backbone_lr_ratio,
            "weight_decay": recipe.weight_decay if decays else 0.0,
            "adapt": adapt,
        }
        for (head, decays, adapt), parameters in groups.items()
    ]
