"""Puts an optimizer's state back from a checkpoint, also from one of an earlier version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from pretrain.common.errors import InputError


def restore_optimizer(optimizer: Optimizer, state: Mapping[str, Any], path: Path) -> None:
    """Loads what `Optimizer.state_dict` returned.

    torch replaces each group's settings by those of the checkpoint. What an earlier version did not
    store, such as `lr_ratio`, keeps the value with which this run has built the optimizer: the
    config is the same, so the value is too.

    Args:
        path: the checkpoint's file.

    Raises:
        InputError: the state is of different parameters, or damaged.
    """
    built = [dict(group) for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(dict(state))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the optimizer's state in {path} does not fit this run ({type(error).__name__}: "
            f"{error}); continue with the version that wrote it, or start again with another "
            "--output"
        ) from error
    for group, own in zip(optimizer.param_groups, built):
        for name, value in own.items():
            group.setdefault(name, value)
