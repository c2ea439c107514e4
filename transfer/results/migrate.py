"""Converts records of older schemas to the current one, so they can still be read.

Schema 1 had no `checkpoint.proof`: it becomes null, or "random" for untrained weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def migrate(record: Any) -> Any:
    """Converts an older record step by step; anything else is returned unchanged.

    The steps expect well-formed records: the validation that follows finds malformed ones.
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


# By schema: the step to the next one
STEPS: dict[int, Callable[[Mapping[str, Any]], dict[str, Any]]] = {1: _from_1}
