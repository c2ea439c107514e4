"""Writes a `Training` to a checkpoint file and reads it back. A continued run is exact, also in the
middle of an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from pretrain.common.checkpoint import rng_state, save_checkpoint, set_rng_state
from pretrain.common.config import check_no_differences, differences, flat
from pretrain.common.distributed import gather_objects, is_main, rank, world_size
from pretrain.common.environment import describe_environment
from pretrain.common.errors import InputError
from pretrain.common.printable import printable
from pretrain.common.roles import Role
from pretrain.common.run_files import CHECKPOINT
from pretrain.common.safe_yaml import read_safe_yaml
from pretrain.data.fingerprint import check_training_data, read_fingerprint
from pretrain.defaults import get_defaults
from pretrain.engine.loop import Training, Unlogged
from pretrain.optim.restored import restore_optimizer
from pretrain.roles import ROLES

NO_CONFIG = "restore the file, or start again with another --output"


def describe_training(training: Training, facts: dict[str, Any]) -> dict[str, Any]:
    """Returns the checkpoint's content; `facts` holds method, backbone, config (YAML), preprocess
    and data (fingerprints).
    """
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
        "skipped_steps": training.guard.skipped,
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
    """Writes the checkpoint atomically; every process must call it. If its name is CHECKPOINT, the
    checkpoint before it is kept."""
    unlogged = gather_objects(_describe_unlogged(training.unlogged))
    if is_main():
        content = describe_training(training, facts)
        content["schedule"]["unlogged"] = unlogged
        save_checkpoint(content, path, keep_previous=path.name == CHECKPOINT)


def is_complete(saved: Mapping[str, Any]) -> bool:
    """Returns whether a checkpoint was written at the last step."""
    return saved["step"] >= saved["schedule"]["total_steps"]


def resume_training(
    training: Training, facts: dict[str, Any], saved: Mapping[str, Any], path: Path
) -> None:
    """Restores networks, optimizer, progress and random state in place.

    Args:
        saved: the content of the checkpoint at `path`.

    Raises InputError if the checkpoint was made with a different config or different data.
    """
    check_same_config(saved["config"], facts["config"], path)
    if now := read_fingerprint(facts.get("data", {}).get("train")):
        check_training_data(path, (saved.get("data") or {}).get("train"), now)
    steps = saved["schedule"]["steps_per_epoch"]
    if steps != training.loader.steps_per_epoch:
        raise InputError(
            f"{path} has {steps} steps per epoch, this run {training.loader.steps_per_epoch}: "
            "the data set has changed; start again with another --output"
        )
    training.method.load_state_dict(saved["model"])
    restore_optimizer(training.optimizer, saved["optimizer"], path)
    # On a different GPU a run may continue with another dtype; the scale then has its default.
    if training.scaler.is_enabled() and "scaler" in saved:
        training.scaler.load_state_dict(saved["scaler"])
    training.step = saved["step"]
    training.seconds = saved["schedule"]["seconds"]
    training.guard.skipped = saved["schedule"].get("skipped_steps", 0)
    training.unlogged = _restore_unlogged(saved["schedule"].get("unlogged", []), training)
    set_rng_state(saved["rng"])


def _describe_unlogged(unlogged: Unlogged) -> dict[str, Any]:
    """Returns the sums as tensors and builtins, on the CPU."""
    sums = {name: torch.as_tensor(value).cpu() for name, value in unlogged.sums.items()}
    return {**vars(unlogged), "sums": sums}


def _restore_unlogged(saved: list[dict[str, Any]], training: Training) -> Unlogged:
    """Returns this process's sums, or the mean of all if the number of processes was different. An
    older version's checkpoint has none; then the next row covers the steps since the checkpoint.
    """
    if not saved:
        return Unlogged(step=training.step, seconds=training.seconds)
    if len(saved) == world_size():
        mine = dict(saved[rank()])
    else:
        names = saved[0]["sums"]
        means = {
            name: torch.stack([part["sums"][name] for part in saved]).mean(0) for name in names
        }
        mine = {**saved[0], "sums": means}
    mine["sums"] = {name: value.to(training.device) for name, value in mine["sums"].items()}
    return Unlogged(**mine)


def check_same_config(saved: str, present: str, path: Path) -> None:
    """Raises InputError if two configs (YAML) differ, with the first keys that differ.

    Keys of the machine and of monitoring may differ. Keys that an older version did not have count
    as their defaults.
    """
    old = {**flat(get_defaults()), **flat(_config_in(saved, path))}
    new = flat(_config_in(present, path))
    free = [key for key in {*old, *new} if ROLES.entry(key).role in (Role.MACHINE, Role.WATCHING)]
    check_no_differences(differences(old, new, tuple(free)), f"{path} was trained with")


def _config_in(text: str, path: Path) -> dict[str, Any]:
    """Parses the config (YAML) of a checkpoint, or the one that is compared with it."""
    try:
        content = read_safe_yaml(text)
    except (yaml.YAMLError, TypeError) as error:  # TypeError: it is not text
        raise InputError(
            f"the config in {path} cannot be read ({printable(error)}); {NO_CONFIG}"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"the config in {path} cannot be read (it has no keys); {NO_CONFIG}")
    return content
