"""A `Training` to a checkpoint file and back: continuation is exact, also in the middle of an
epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pretrain.common.checkpoint import load_checkpoint, rng_state, save_checkpoint, set_rng_state
from pretrain.common.config import check_no_differences, differences, flat
from pretrain.common.environment import describe_environment
from pretrain.common.errors import InputError
from pretrain.common.roles import Role
from pretrain.data.fingerprint import check_training_data, read_fingerprint
from pretrain.defaults import get_defaults
from pretrain.engine.loop import Training
from pretrain.roles import ROLES


def describe_training(training: Training, facts: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint's content; `facts` holds method, backbone, config (YAML), preprocess and
    data (fingerprints)."""
    epochs = training.total_steps / training.loader.steps_per_epoch
    schedule = {
        "epochs": int(epochs) if epochs.is_integer() else epochs,
        "steps_per_epoch": training.loader.steps_per_epoch,
        "total_steps": training.total_steps,
        "images_seen": training.images_seen,
        "views_seen": training.views_seen,
        "views_per_image": len(training.branches),
        "seconds": training.seconds,
        "gpu_seconds": training.gpu_seconds,
    }
    scaled = training.scaler.is_enabled()
    return {
        "model": training.method.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "schedule": schedule,
        "loader": {"epoch": training.epoch, "step_in_epoch": training.step_in_epoch},
        "rng": rng_state(),
        "step": training.step,
        "environment": describe_environment(),
        **({"scaler": training.scaler.state_dict()} if scaled else {}),
        **facts,
    }


def save_training(training: Training, facts: dict[str, Any], path: Path) -> None:
    """Writes the checkpoint atomically."""
    save_checkpoint(describe_training(training, facts), path)


def resume_training(training: Training, facts: dict[str, Any], path: Path) -> None:
    """Restores networks, optimizer, progress and random state in place.

    Raises InputError when the checkpoint is unreadable, or of another config or other data.
    """
    saved = load_checkpoint(path)
    check_same_config(saved["config"], facts["config"], path)
    if now := read_fingerprint(facts.get("data", {}).get("train")):
        check_training_data(path, (saved.get("data") or {}).get("train"), now)
    steps = saved["schedule"]["steps_per_epoch"]
    if steps != training.loader.steps_per_epoch:
        raise InputError(
            f"{path} has {steps} steps an epoch, this run {training.loader.steps_per_epoch}: "
            "the data set has changed; start again in another --output"
        )
    training.method.load_state_dict(saved["model"])
    training.optimizer.load_state_dict(saved["optimizer"])
    # A run may go on with another dtype on a different GPU: the scale then starts from its default.
    if training.scaler.is_enabled() and "scaler" in saved:
        training.scaler.load_state_dict(saved["scaler"])
    training.step = saved["step"]
    training.seconds = saved["schedule"]["seconds"]
    set_rng_state(saved["rng"])


def check_same_config(saved: str, present: str, path: Path) -> None:
    """Raises InputError naming the first keys in which two configs (YAML) differ.

    Keys of the machine and of watching may differ. Keys that an older version did not have count as
    their defaults.
    """
    old = {**flat(get_defaults()), **flat(yaml.safe_load(saved))}
    new = flat(yaml.safe_load(present))
    free = [key for key in {*old, *new} if ROLES.entry(key).role in (Role.MACHINE, Role.WATCHING)]
    check_no_differences(differences(old, new, tuple(free)), f"{path} was trained with")
