"""Reads the first layer's kernels of a weights file, with their channels in RGB.

It takes any file that `read` takes, and this project's own checkpoints of backbones that `read`
does not take (timm's).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from pretrain.backbones.first_layer_kernels import first_layer
from pretrain.common.checkpoint import FORMAT
from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.formats.ours import check_version
from transfer.checkpoints.opened import OpenedWeights
from transfer.checkpoints.provenance import facts_of_ours
from transfer.checkpoints.read import read_weights
from transfer.checkpoints.weights import Weights

PREFIX = "trunk."


@dataclass(frozen=True)
class FirstLayer:
    """Holds the name of the first layer's weight and its kernels (K, 3, h, w), channels in RGB."""

    name: str
    kernels: Tensor


def read_first_layer(path: str, trust: bool = False) -> FirstLayer:
    """Returns the kernels of the first convolution.

    Args:
        trust: reads pickles without restrictions, which can run code from the file.

    Raises:
        InputError: unreadable, in no known format, or without such a layer.
    """
    opened = OpenedWeights(path, trust)
    raw = opened.raw
    model = raw.content.get("model")
    if raw.content.get("format") != FORMAT or not isinstance(model, Mapping):
        return first_layer_of(read_weights(opened), path)
    try:
        check_version(raw.content)
        preprocess = facts_of_ours(raw.content).preprocess
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    trunk = {
        name: value
        for name, value in model.items()
        if isinstance(value, Tensor) and name.startswith(PREFIX)
    }
    return _pick(path, trunk, preprocess)


def first_layer_of(weights: Weights, path: str = "the weights") -> FirstLayer:
    """Returns the first convolution's kernels of weights that were read; `path` is for messages.

    Raises:
        InputError: there is no such layer.
    """
    return _pick(path, weights.state, weights.preprocess)


def _pick(path: str, state: Mapping[str, Tensor], preprocess: Preprocess) -> FirstLayer:
    try:
        name, kernels = first_layer(state)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return FirstLayer(name, kernels.flip(1) if preprocess.channel_order == "BGR" else kernels)
