"""Weights as a user gives them to a function: read already, or the name of a file."""

from __future__ import annotations

from pathlib import Path

from transfer.checkpoints.read import read_weights
from transfer.checkpoints.weights import Weights

GivenWeights = Weights | str | Path


def as_weights(weights: GivenWeights) -> Weights:
    """Returns the weights, read if they are a file; raises what `transfer.read_weights` raises."""
    return weights if isinstance(weights, Weights) else read_weights(weights)
