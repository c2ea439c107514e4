"""The result record: one JSON file per run, written once and never changed.

It says which checkpoint was tested, how, with which metrics and at which cost. Reading a record
does not need torch, so a report over many records starts quickly.

Units: metrics in percent; seconds of wall clock; gpu_seconds = seconds x GPUs (0 on a CPU);
views_seen = images passed through the backbone for training or extraction, counted in each pass.
`data` has, for both splits {"train", "test"}, the numbers of images, objects and classes, and the
fingerprint of their content (`pretrain/data/fingerprint.py`); `in_both` is the number of test
images that are also training images, null if they were not compared. Older records have no `data`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pretrain.common.errors import InputError
from pretrain.common.printable import shown
from pretrain.common.regular_file import MEGABYTE
from pretrain.common.run_files import RECORD
from pretrain.common.safe_json import check_depth, read_json
from transfer.results.metrics import is_percent
from transfer.results.migrate import migrate

if TYPE_CHECKING:
    from transfer.checkpoints.weights import Weights

SCHEMA = 2
MOST_BYTES = 16 * MEGABYTE  # largest record; the metrics per class of LVIS need some hundred kB
MOST = 1e15  # largest number (30 million years in seconds); sums and figures stay finite
SLACK = 1e-6  # tolerance of a percentage, for rounding
# "shortened": the protocol was cut (fewer iterations, a part of the data) to fit a budget.
STATUSES = ("done", "shortened", "failed")
# Why the backbone is known to equal the checkpoint's: it was read from a file of our pretraining,
# or from one that our converter wrote after its proof; "none": from another project's file.
PROOFS = ("own", "converted", "random", "none")

_TEXT, _NUMBER, _WHOLE = "a text", "a number >= 0", "a whole number >= 0"
_FIELDS: dict[str, str] = {
    "schema": _WHOLE,
    "checkpoint.name": _TEXT,
    "checkpoint.sha256": "64 hexadecimal digits",
    "checkpoint.source": _TEXT + " or null",
    "checkpoint.method": _TEXT + " or null",
    "checkpoint.backbone": _TEXT,
    "checkpoint.pretrain_epochs": _NUMBER + " or null",
    "checkpoint.pretrain_seed": "a whole number or null",
    "checkpoint.pretrain_config_sha256": _TEXT + " or null",
    "checkpoint.pretrain_seconds": _NUMBER + " or null",
    "checkpoint.pretrain_gpu_seconds": _NUMBER + " or null",
    "checkpoint.pretrain_views": _WHOLE + " or null",
    "checkpoint.proof": "one of " + ", ".join(PROOFS) + " or null",
    "task": _TEXT,
    "dataset": _TEXT,
    "protocol.name": _TEXT,
    "protocol.config_sha256": _TEXT,
    "protocol.engine": _TEXT,
    "protocol.engine_version": _TEXT,
    "protocol.overrides": "a list of texts",
    "trial": _WHOLE,
    "seed": "a whole number",
    "started": _TEXT,
    "seconds": _NUMBER,
    "gpu_seconds": _NUMBER,
    "views_seen": _WHOLE,
    "status": "one of " + ", ".join(STATUSES),
}
# Fields of record["data"]["train"] and ["test"]. Older records have no "data": the data on which
# they were measured is not known. "in_both" counts the test images that are also training images.
_SPLIT_FIELDS = {
    "images": _WHOLE,
    "objects": _WHOLE + " or null",
    "classes": _WHOLE,
    "fingerprint": "64 hexadecimal digits",
}
_MAPPINGS = ("checkpoint", "protocol", "metrics", "artifacts", "hardware", "environment")


def make_record(
    *,
    weights: Weights,
    name: str,
    task: str,
    dataset: str,
    protocol: Mapping[str, Any],
    trial: int,
    seed: int,
    metrics: Mapping[str, float],
    per_class: Mapping[str, Mapping[str, float | None]] | None,
    data: Mapping[str, Any] | None = None,
    artifacts: Mapping[str, str],
    started: str,
    seconds: float,
    gpu_seconds: float,
    views_seen: int,
    status: str = "done",
) -> dict[str, Any]:
    """Returns a validated record of one run; raises InputError if a field is malformed.

    `protocol` has the keys name, config_sha256, engine, engine_version, overrides (list of
    texts). `per_class` is {metric: {class: percent}}. `artifacts` are paths relative to the
    record. `data` has the keys train, test and in_both (see `_SPLIT_FIELDS`); None: not known.
    A metric that is NaN (the AP of a size that no object has) is stored as null.
    """
    from pretrain.common.environment import describe_environment, describe_hardware

    classes = None if per_class is None else {m: null_for_nan(v) for m, v in per_class.items()}
    record = {
        "schema": SCHEMA,
        "checkpoint": _checkpoint_facts(weights, name),
        "task": task,
        "dataset": dataset,
        **({} if data is None else {"data": dict(data)}),
        "protocol": {**protocol, "overrides": [str(o) for o in protocol.get("overrides") or []]},
        "trial": int(trial),
        "seed": int(seed),
        "metrics": null_for_nan(metrics),
        "per_class": classes,
        "artifacts": {key: str(path) for key, path in artifacts.items()},
        "started": started,
        "seconds": round(float(seconds), 3),
        "gpu_seconds": round(float(gpu_seconds), 3),
        "views_seen": int(views_seen),
        "hardware": dict(describe_hardware()),
        "environment": dict(describe_environment()),
        "status": status,
    }
    validate(record)
    return record


def write_record(folder: str | Path, record: Mapping[str, Any]) -> Path:
    """Writes `folder`/record.json atomically; InputError if it is invalid or already exists."""
    from pretrain.common.checkpoint import atomic_write_text

    path = Path(folder) / RECORD
    validate(record, str(path))
    if path.exists():
        raise InputError(f"{path} exists and is never overwritten; choose another --output")
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return path


def read_record(path: str | Path) -> dict[str, Any]:
    """Returns the record in `path` in the current schema, for any version that wrote it.

    Raises:
        InputError: a field is malformed, or the schema is from a newer version.
    """
    try:
        record = read_json(path, MOST_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); remove it and run again") from error
    record = migrate(record)
    validate(record, str(path))
    return record


def check_trials(first: int, trials: int) -> None:
    """Raises InputError if there is no trial from `first` to `trials` - 1."""
    if trials < 1:
        raise InputError(f"--trials must be 1 or above, got {trials}")
    if not 0 <= first < trials:
        raise InputError(
            f"--first-trial {first} must be from 0 to --trials - 1, which is {trials - 1}"
        )


def takes_fewer(limit: int, full: int) -> bool:
    """Returns whether a limit of images is lower than the config file's; 0 means all images."""
    return 0 < limit and (full == 0 or limit < full)


def validate(record: Any, where: str = "record") -> None:
    """Raises InputError naming `where` and the first field that breaks the schema."""
    if not isinstance(record, Mapping):
        raise InputError(f"{where}: a result record is a JSON object, not {shown(record)}")
    if "schema" in record and record["schema"] != SCHEMA:
        raise InputError(
            f"{where}: field 'schema' is {shown(record['schema'])}, but this version reads 1 to "
            f"{SCHEMA}; update mscn"
        )
    for key in _MAPPINGS:
        if not isinstance(record.get(key), Mapping):
            raise InputError(f"{where}: field '{key}' must be an object")
    for key, kind in _FIELDS.items():
        _check_field(record, key, kind, where)
    if record.get("data") is not None:
        _check_data(record, where)
    _check_numbers(record["metrics"], "metrics", where)
    _check_per_class(record.get("per_class"), where)
    _check_encoded(record, where)
    for key, path in record["artifacts"].items():
        if not isinstance(path, str) or path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise InputError(
                f"{where}: field 'artifacts.{key}' must be a path below the record's folder, "
                f"not {shown(path)}"
            )


def _checkpoint_facts(weights: Weights, name: str) -> dict[str, Any]:
    facts = weights.provenance
    return {
        "name": name,
        "sha256": weights.sha256,
        "source": facts.get("source"),
        "method": facts.get("method"),
        "backbone": weights.backbone,
        "pretrain_epochs": facts.get("epochs"),
        "pretrain_seed": facts.get("pretrain_seed"),
        "pretrain_config_sha256": facts.get("pretrain_config_sha256"),
        "pretrain_seconds": facts.get("pretrain_seconds"),
        "pretrain_gpu_seconds": facts.get("pretrain_gpu_seconds"),
        "pretrain_views": facts.get("pretrain_views"),
        "proof": weights.proof,
    }


def null_for_nan(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {
        key: None if value is None or math.isnan(value) else float(value)
        for key, value in values.items()
    }


def _check_field(record: Mapping[str, Any], key: str, kind: str, where: str) -> None:
    value: Any = record
    for part in key.split("."):
        if part not in value:
            raise InputError(f"{where}: field '{key}' is missing")
        value = value[part]
    if value is None and kind.endswith("or null"):
        return
    if not _matches(value, kind.removesuffix(" or null")):
        raise InputError(f"{where}: field '{key}' must be {kind}, not {shown(value)}")


def _check_data(record: Mapping[str, Any], where: str) -> None:
    for key in ("data", "data.train", "data.test"):
        value = record
        for part in key.split("."):
            value = value.get(part, {})
            if not isinstance(value, Mapping):
                raise InputError(f"{where}: field '{key}' must be an object")
    for split in ("train", "test"):
        for key, kind in _SPLIT_FIELDS.items():
            _check_field(record, f"data.{split}.{key}", kind, where)
    _check_field(record, "data.in_both", _WHOLE + " or null", where)


def _matches(value: Any, kind: str) -> bool:
    if kind == _TEXT:
        return isinstance(value, str) and bool(value)
    if kind.startswith("64"):
        return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None
    if kind.startswith("one of"):
        return value in kind.removeprefix("one of ").split(", ")
    if kind.startswith("a list"):
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    allowed = int if "whole" in kind else (int, float)
    if not isinstance(value, allowed) or isinstance(value, bool):
        return False
    return -MOST < value < MOST and (value >= 0 or ">= 0" not in kind)


def _check_numbers(values: Any, key: str, where: str) -> None:
    if not isinstance(values, Mapping) or not values:
        raise InputError(f"{where}: field '{key}' must hold at least one number")
    for name, value in values.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and -MOST < value < MOST):
            raise InputError(
                f"{where}: field '{key}.{name}' must be a finite number or null, "
                f"not {shown(value)}"
            )
        metric = name if key == "metrics" else key.partition(".")[2]
        if number and is_percent(metric) and not -SLACK <= value <= 100 + SLACK:
            raise InputError(
                f"{where}: field '{key}.{name}' is a percentage, from 0 to 100, not {shown(value)}"
            )


def _check_encoded(record: Mapping[str, Any], where: str) -> None:
    """Raises InputError if any field cannot be written as JSON or cannot be traversed."""
    try:
        check_depth(record)
        json.dumps(record, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{where}: cannot be written as JSON ({error})") from error


def _check_per_class(per_class: Any, where: str) -> None:
    if per_class is None:
        return
    if not isinstance(per_class, Mapping):
        raise InputError(f"{where}: field 'per_class' must be an object or null")
    for metric, values in per_class.items():
        _check_numbers(values, f"per_class.{metric}", where)
