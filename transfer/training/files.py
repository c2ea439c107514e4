"""Files of a model in training: the last two checkpoints, `last_checkpoint`, `model_final.pth`.

They hold tensors and builtins only, so that `weights_only=True` reads them, and Detectron2 loads
them ({"model": state_dict, ...}). `last_checkpoint` holds the newest file's name, as Detectron2
writes it.
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
    """The trained model's file, and the wall-clock seconds of training, resumed parts included."""

    model_file: Path
    seconds: float


def save_training(output: Path, state: Mapping[str, Any]) -> Path:
    """Writes model_NNNNNNN.pth, points `last_checkpoint` to it, and keeps the one before.

    `state` has "model", "optimizer", "iteration" (the last one finished), "rng", "seconds", and
    perhaps "classes" (names).
    """
    path = output / f"model_{state['iteration']:07d}.pth"
    atomic_write(path, lambda file: torch.save(dict(state), file))
    atomic_write_text(output / LAST, path.name)
    for older in checkpoints(output)[KEPT:]:
        older.unlink(missing_ok=True)
    return path


def checkpoints(output: Path) -> list[Path]:
    """The periodic checkpoints of a run, the newest first."""
    found = (path for path in output.glob("model_*.pth") if NUMBERED.fullmatch(path.name))
    return sorted(found, key=lambda path: int(path.stem.partition("_")[2]), reverse=True)


def last_checkpoint(output: Path) -> Path | None:
    """What `last_checkpoint` names: the newest checkpoint of a run, in the end model_final.pth."""
    marker = output / LAST
    if not marker.is_file():
        return None
    path = output / marker.read_text().strip()
    return path if path.is_file() else None


def name_newest_whole(output: Path) -> None:
    """Lets `last_checkpoint` name the newest checkpoint that is whole: Detectron2 goes on from what
    it names. Every process calls this."""
    present = checkpoints(output)
    if not present:
        return
    _, path = read_newest(present, check_whole)
    if is_main() and path != last_checkpoint(output):
        atomic_write_text(output / LAST, path.name)
    barrier()


def load_newest_training(output: Path) -> tuple[dict[str, Any], Path] | None:
    """The checkpoint that a run goes on from, and its file: of those that can be read the newest;
    None: there is none.

    Raises InputError if none of those that are there can be read.
    """
    present = checkpoints(output)
    if not present:
        return None
    state, path = read_newest(present, load_torch_file)
    return checked_training(state, path), path


def checked_training(state: Any, path: Path) -> dict[str, Any]:
    """What was read from `path`, if it is a periodic checkpoint; else InputError."""
    if not isinstance(state, dict) or not {"model", "optimizer", "iteration"} <= set(state):
        raise InputError(f"{path} is not a checkpoint of a model in training")
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
    """Writes model_final.pth with the facts about its input. The last checkpoint stays until the
    model was scored (`forget_last_checkpoint`): its file may be damaged before.

    Args:
        seconds: what the training took.
        classes: names of the predictors' classes, in their order; None: not known.
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
    """Removes the last periodic checkpoint of a run whose model has been scored."""
    for path in checkpoints(output)[:1]:
        path.unlink(missing_ok=True)


def read_tried(path: Path) -> dict[str, Any]:
    """What a file says of the learning rates that were tried; nothing if it is missing or damaged:
    they are then tried again."""
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
    """A whole model as it is on disk; what is not known of it is None.

    `architecture` is that of `transfer.checkpoints.weights.Weights`; `classes` are the names of the
    predictors' classes, in their order.
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
    """Reads a whole model: model_final.pth, ours or Detectron2's, or a `.pkl` of its zoo.

    Pickles are read by the restricted unpickler, before Detectron2 opens them without one.

    Args:
        part: what the name of some tensor of every `kind` of model begins with; one of these.

    Raises:
        InputError: unreadable, or not a whole model.
    """
    raw = as_opened(source).raw
    path, content = raw.path, raw.content
    model = content.get("model")
    if not isinstance(model, Mapping) or not any(str(name).startswith(part) for name in model):
        zoo = ", or a .pkl of Detectron2's model zoo" if kind == "detector" else ""
        raise InputError(f"{path} is not a {kind}: give the {MODEL_FILE} of a finished run{zoo}")
    state = {name: value for name, value in model.items() if isinstance(value, Tensor)}
    if "transfer" not in content:
        # A periodic checkpoint of ours has "classes".
        try:
            return ModelFile(state, None, None, classes=_names(content))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    return _with_facts(path, state, content["transfer"])


def _with_facts(path: Path, state: dict[str, Tensor], text: Any) -> ModelFile:
    """The model with the facts that `write_model` stored.

    Raises:
        InputError: a fact is missing, or of another kind.
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
            f"{path} has damaged 'transfer' facts ({reason}); take the file from its run again"
        ) from error


def finished_model(output: Path, read: Callable[[Path], ModelFile]) -> ModelFile | None:
    """The model of a run whose training is over; None: there is none, or it is damaged and a
    checkpoint is there to go on from.

    Raises InputError as `read` does, if there is no checkpoint.
    """
    path = output / MODEL_FILE
    if not path.is_file():
        return None
    try:
        return read(path)
    except InputError as error:
        if not checkpoints(output):
            raise
        logger.warning("%s: the training goes on from %s", error, checkpoints(output)[0].name)
        return None


def _names(content: Mapping[str, Any]) -> tuple[str, ...] | None:
    names = content.get("classes")
    if names is None:
        return None
    if not isinstance(names, (list, tuple)) or not all(isinstance(one, str) for one in names):
        raise InputError("its classes are not a list of names")
    return tuple(names)
