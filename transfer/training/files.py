"""Files of a model in training: periodic checkpoints, `last_checkpoint`, `model_final.pth`.

They hold tensors and builtins only, so that `weights_only=True` reads them, and Detectron2 loads
them ({"model": state_dict, ...}). `last_checkpoint` holds the newest file's name, as Detectron2
writes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.common.checkpoint import atomic_write, atomic_write_text, load_torch_file
from pretrain.common.errors import InputError
from pretrain.common.safe_json import parse_json
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.opened import OpenedWeights, as_opened
from transfer.checkpoints.weights import check_facts

MODEL_FILE = "model_final.pth"  # in the folder of a run
LAST = "last_checkpoint"


@dataclass(frozen=True)
class Fitted:
    """The trained model's file, and the wall-clock seconds of training, resumed parts included."""

    model_file: Path
    seconds: float


def save_training(output: Path, state: Mapping[str, Any]) -> Path:
    """Writes model_NNNNNNN.pth, points `last_checkpoint` to it and removes the one before.

    `state` has "model", "optimizer", "iteration" (the last one finished), "rng", "seconds", and
    perhaps "classes" (names).
    """
    before = last_checkpoint(output)
    path = output / f"model_{state['iteration']:07d}.pth"
    atomic_write(path, lambda file: torch.save(dict(state), file))
    atomic_write_text(output / LAST, path.name)
    if before is not None and before != path:
        before.unlink(missing_ok=True)
    return path


def last_checkpoint(output: Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    marker = output / LAST
    if not marker.is_file():
        return None
    path = output / marker.read_text().strip()
    return path if path.is_file() else None


def load_training(path: Path) -> dict[str, Any]:
    """Reads a periodic checkpoint; InputError when it is not one."""
    state = load_torch_file(path)
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
    """Writes model_final.pth with the facts about its input, and removes the last checkpoint.

    Args:
        seconds: what the training took.
        classes: names of the predictors' classes, in their order; None: not known.
    """
    before, path = last_checkpoint(output), output / MODEL_FILE
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
    if before is not None and before != path:
        before.unlink(missing_ok=True)
    return path


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
    source: str | Path | OpenedWeights, part: str = "roi_heads.", kind: str = "detector"
) -> ModelFile:
    """Reads a whole model: model_final.pth, ours or Detectron2's, or a `.pkl` of its zoo.

    Pickles are read by the restricted unpickler, before Detectron2 opens them without one.

    Args:
        part: what the name of some tensor of every `kind` of model begins with.

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


def _names(content: Mapping[str, Any]) -> tuple[str, ...] | None:
    names = content.get("classes")
    if names is None:
        return None
    if not isinstance(names, (list, tuple)) or not all(isinstance(one, str) for one in names):
        raise InputError("its classes are not a list of names")
    return tuple(names)
