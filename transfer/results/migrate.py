"""Raises records of older schemas to the present one, so that they are still read.

Schema 1 did not know `checkpoint.proof`: it becomes null, or "random" for untrained weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def migrate(record: Any) -> Any:
    """Raises an older record step by step; anything but a record of a known schema stays as it is.

    The steps are for well-formed records: a malformed one is found by the validation that follows.
    """
    while isinstance(record, Mapping) and _version(record) in STEPS:
        record = STEPS[record["schema"]](record)
    return record


def _version(record: Mapping[str, Any]) -> Any:
    version = record.get("schema")
    return version if type(version) is int else None


def _from_1(record: Mapping[str, Any]) -> dict[str, Any]:
    checkpoint = record.get("checkpoint")
    if isinstance(checkpoint, Mapping):
        proof = "random" if checkpoint.get("source") == "random" else None
        checkpoint = {**checkpoint, "proof": checkpoint.get("proof", proof)}
    return {**record, "schema": 2, "checkpoint": checkpoint}


# Schema -> the step to the next one
STEPS: dict[int, Callable[[Mapping[str, Any]], dict[str, Any]]] = {1: _from_1}
