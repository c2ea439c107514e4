"""The trained head of a linear probe as a file, to score it on further test sets.

`linear` and `linear_crops` write `head.pth` next to their record; `robustness` reads it.
Legend: D dimensions of a feature, C classes, N images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.common.checkpoint import atomic_write, load_torch_file
from pretrain.common.errors import InputError

FILE = "head.pth"
TRAINED_BY = ("linear", "linear_crops")  # the protocols that leave one
TENSORS = ("weight", "bias", "mean", "scale")


@dataclass(frozen=True)
class TrainedHead:
    """Is a linear classifier of features, with the scaling of the features that it was trained on.

    Attributes:
        weight: (D, C); bias: (C,).
        mean, scale: (D,) each. A feature is (value - mean) * scale; they are 0 and 1 without
            PROTOCOL.STANDARDIZE, and without the batch norm of TRAIN.HEAD batchnorm_linear.
        classes: the names of the C classes, in the order of the logits.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor
    classes: tuple[str, ...]

    def logits(self, features: Tensor) -> Tensor:
        """Maps features (N, D), before scaling, to logits (N, C), on the head's device."""
        return ((features - self.mean) * self.scale) @ self.weight + self.bias

    def to(self, device: torch.device) -> TrainedHead:
        """Returns the head on a device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in TENSORS})

    def write(self, folder: Path) -> Path:
        """Writes `folder`/head.pth and returns its path."""
        content: dict[str, Any] = {name: getattr(self, name).cpu() for name in TENSORS}
        content["classes"] = list(self.classes)
        path = folder / FILE
        atomic_write(path, lambda file: torch.save(content, file))
        return path

    @classmethod
    def read(cls, path: Path) -> TrainedHead:
        """Reads a file that `write` wrote.

        Raises:
            InputError: it does not exist, is damaged, or does not contain a head.
        """
        content = load_torch_file(path)
        if not _is_head(content):
            raise InputError(
                f"{path} does not contain the head of a linear probe; train the head again with "
                f"PROTOCOL.NAME {' or '.join(TRAINED_BY)}"
            )
        tensors = {name: content[name] for name in TENSORS}
        return cls(**tensors, classes=tuple(content["classes"]))


@dataclass(frozen=True)
class HeadOfTrial:
    """Holds a trained head, the record of its trial, and their folder."""

    head: TrainedHead
    record: Mapping[str, Any]
    folder: Path


def _is_head(content: Any) -> bool:
    """Returns whether a file's content has float32 tensors of shapes that fit each other."""
    if not isinstance(content, dict) or not {*TENSORS, "classes"} <= content.keys():
        return False
    tensors, classes = [content[name] for name in TENSORS], content["classes"]
    floats = all(isinstance(t, Tensor) and t.dtype == torch.float32 for t in tensors)
    names = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    if not floats or not names or tensors[0].dim() != 2 or len(set(classes)) != len(classes):
        return False
    dims, count = tensors[0].shape
    shapes = [tuple(tensor.shape) for tensor in tensors[1:]]
    return shapes == [(count,), (dims,), (dims,)] and count == len(classes)
