"""Files of a model in training: the last two checkpoints, `last_checkpoint`, `model_final.pth`.

They hold only tensors and builtins, so `weights_only=True` can read them, and Detectron2 can load
them ({"model": state_dict, ...}). `last_checkpoint` holds the newest file's name, as in Detectron2.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.common.checkpoint import (
    atomic_write,
    atomic_write_text,
    check_whole,
    load_torch_file,
    read_newest,
)
from pretrain.common.distributed import barrier, is_main
from pretrain.common.errors import InputError
from pretrain.common.safe_json import parse_json, read_json
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.opened import OpenedWeights, as_opened
from transfer.checkpoints.weights import check_facts

logger = logging.getLogger(__name__)

MODEL_FILE = "model_final.pth"  # in the folder of a run
LAST = "last_checkpoint"
NUMBERED, KEPT = re.compile(r"model_\d+\.pth"), 2


@dataclass(frozen=True)
class Fitted:
    """Holds the trained model's file, and the wall-clock seconds of training, including resumed
    parts.
    """

    model_file: Path
    seconds: float


def save_training(output: Path, state: Mapping[str, Any]) -> Path:
    """Writes model_NNNNNNN.pth, points `last_checkpoint` to it, and keeps the previous checkpoint.

    `state` has "model", "optimizer", "iteration" (the last one finished), "rng", "seconds", and
    optionally "classes" (names).
    """
    path = output / f"model_{state['iteration']:07d}.pth"
    atomic_write(path, lambda file: torch.save(dict(state), file))
    atomic_write_text(output / LAST, path.name)
    for older in checkpoints(output)[KEPT:]:
        older.unlink(missing_ok=True)
    return path


def checkpoints(output: Path) -> list[Path]:
    """Returns the periodic checkpoints of a run, newest first."""
    found = (path for path in output.glob("model_*.pth") if NUMBERED.fullmatch(path.name))
    return sorted(found, key=lambda path: int(path.stem.partition("_")[2]), reverse=True)


def last_checkpoint(output: Path) -> Path | None:
    """Returns the file that `last_checkpoint` names: the newest checkpoint or model_final.pth."""
    marker = output / LAST
    if not marker.is_file():
        return None
    path = output / marker.read_text().strip()
    return path if path.is_file() else None


def name_newest_whole(output: Path) -> None:
    """Makes `last_checkpoint` name the newest intact checkpoint, from which Detectron2 continues.

    Every process calls this.
    """
    present = checkpoints(output)
    if not present:
        return
    _, path = read_newest(present, check_whole)
    if is_main() and path != last_checkpoint(output):
        atomic_write_text(output / LAST, path.name)
    barrier()


def load_newest_training(output: Path) -> tuple[dict[str, Any], Path] | None:
    """Returns the newest readable checkpoint of a run and its file; None if the run has none.

    Raises:
        InputError: there are checkpoints, but none of them can be read.
    """
    present = checkpoints(output)
    if not present:
        return None
    state, path = read_newest(present, load_torch_file)
    return checked_training(state, path), path


def checked_training(state: Any, path: Path) -> dict[str, Any]:
    """Returns the content read from `path` if it is a periodic checkpoint; otherwise InputError."""
    if not isinstance(state, dict) or not {"model", "optimizer", "iteration"} <= set(state):
        raise InputError(
            f"{path} is not a checkpoint of a model in training; restore it, or remove it"
        )
    return state


def write_model(
    output: Path,
    model: Mapping[str, Tensor],
    *,
    iteration: int,
    preprocess: Preprocess,
    architecture: Mapping[str, Any],
    seconds: float,
    classes: Sequence[str] | None = None,
) -> Path:
    """Writes model_final.pth with the facts about its input.

    The last checkpoint is kept until the model has been scored (`forget_last_checkpoint`), because
    model_final.pth may be damaged before that.

    Args:
        seconds: duration of the training.
        classes: names of the predictors' classes, in order; None: not known.
    """
    path = output / MODEL_FILE
    facts = json.dumps(
        {
            "preprocess": preprocess.to_dict(),
            "architecture": dict(architecture),
            "seconds": seconds,
            **({} if classes is None else {"classes": list(classes)}),
        }
    )
    content = {"model": dict(model), "iteration": iteration, "transfer": facts}
    atomic_write(path, lambda file: torch.save(content, file))
    atomic_write_text(output / LAST, path.name)
    for older in checkpoints(output)[1:KEPT]:
        older.unlink(missing_ok=True)
    return path


def forget_last_checkpoint(output: Path) -> None:
    """Removes the periodic checkpoints of a run whose model has been scored. If there is an older
    one next to the last, a kill in `write_model` left it."""
    for path in checkpoints(output)[:KEPT]:
        path.unlink(missing_ok=True)


def read_tried(path: Path) -> dict[str, Any]:
    """Returns the learning rates that a file says were tried.

    Returns {} if the file is missing or damaged: the rates are then tried again.
    """
    try:
        content = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read (%s): its learning rates are tried again", path, error)
        return {}
    return content if isinstance(content, dict) else {}


@dataclass(frozen=True)
class ModelFile:
    """Is a complete model read from disk; fields that are not known are None.

    `architecture` is as in `transfer.checkpoints.weights.Weights`; `classes` are the names of the
    predictors' classes, in order.
    """

    state: dict[str, Tensor]
    preprocess: Preprocess | None
    seconds: float | None
    architecture: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None


def read_model(
    source: str | Path | OpenedWeights,
    part: str | tuple[str, ...] = ("roi_heads.", "head.cls_score."),
    kind: str = "detector",
) -> ModelFile:
    """Reads a complete model: our model_final.pth, Detectron2's, or a `.pkl` of its model zoo.

    The restricted unpickler reads pickles first: Detectron2 itself opens them without restrictions.

    Args:
        part: prefix of the name of at least one tensor in every model of this `kind`; or several
            prefixes, of which one is enough.

    Raises:
        InputError: the file is unreadable, or not a complete model.
    """
    raw = as_opened(source).raw
    path, content = raw.path, raw.content
    model = content.get("model")
    if not isinstance(model, Mapping) or not any(str(name).startswith(part) for name in model):
        zoo = ", or a .pkl of Detectron2's model zoo" if kind == "detector" else ""
        raise InputError(f"{path} is not a {kind}; give the {MODEL_FILE} of a finished run{zoo}")
    state = {name: value for name, value in model.items() if isinstance(value, Tensor)}
    if "transfer" not in content:
        # A periodic checkpoint of ours has "classes".
        try:
            return ModelFile(state, None, None, classes=_names(content))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    return _with_facts(path, state, content["transfer"])


def _with_facts(path: Path, state: dict[str, Tensor], text: Any) -> ModelFile:
    """Returns the model with the facts that `write_model` stored.

    Raises:
        InputError: a fact is missing or has the wrong type.
    """
    try:
        facts = parse_json(text) if isinstance(text, str) else None
        if not isinstance(facts, dict):
            raise ValueError("not a JSON object")
        architecture, seconds = facts.get("architecture", {}), facts["seconds"]
        check_facts({"pretrain_seconds": seconds}, architecture)
        preprocess = Preprocess.from_dict(facts["preprocess"])
        return ModelFile(state, preprocess, seconds, architecture, _names(facts))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise InputError(
            f"{path} has damaged 'transfer' facts ({reason}); copy the file from its run again"
        ) from error


def finished_model(output: Path, read: Callable[[Path], ModelFile]) -> ModelFile | None:
    """Returns the model of a run whose training has finished.

    Returns None if there is no such model, or if it is damaged but the training can continue from a
    checkpoint.

    Raises:
        InputError: `read` raises it and there is no checkpoint.
    """
    path = output / MODEL_FILE
    if not path.is_file():
        return None
    try:
        return read(path)
    except InputError as error:
        if not checkpoints(output):
            raise
        logger.warning("%s: the training continues from %s", error, checkpoints(output)[0].name)
        return None


def _names(content: Mapping[str, Any]) -> tuple[str, ...] | None:
    names = content.get("classes")
    if names is None:
        return None
    if not isinstance(names, (list, tuple)) or not all(isinstance(one, str) for one in names):
        raise InputError("its classes are not a list of names")
    return tuple(names)
