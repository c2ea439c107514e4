"""What fine-tuning shares over tasks: the request, the loop over trials, their files and records.

Trial t lies in trial_t/ and uses seed SEED + t.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.common.checkpoint import atomic_write_text
from pretrain.common.cli import output_folder
from pretrain.common.config import dump_yaml
from pretrain.common.distributed import barrier, is_main, process_device, world_size
from pretrain.common.logs import setup_logging
from transfer.checkpoints.weights import Weights, default_name
from transfer.detection import config as detection_config
from transfer.detection.config import load_merged
from transfer.detection.earlier import CONFIG_FILE, WEIGHTS_FILE
from transfer.detection.weights.given import with_backbone
from transfer.results.artifacts import copy_pretrain_artifacts, draw_kernels, write_curves
from transfer.results.record import (
    FILE_NAME,
    check_trials,
    make_record,
    null_for_nan,
    takes_fewer,
    write_record,
)
from transfer.training.metrics import read_metrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    config: str
    weights: str  # a file, or "random"
    output: str
    name: str | None = None
    engine: str = "auto"
    trials: int = 1
    resume: bool = False
    overrides: tuple[str, ...] = field(default=())
    first_trial: int = 0  # those before it are another command's


@dataclass
class Trial:
    """One trial in progress: its number, folder, seed, and when it began."""

    number: int
    folder: Path
    seed: int
    started: str = field(
        default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds")
    )
    begin: float = field(default_factory=time.perf_counter)


def check_request(request: Request) -> None:
    """Refuses no trials and, in the first process of a launcher, the folder of another run."""
    check_trials(request.first_trial, request.trials)
    if int(os.environ.get("RANK", 0)) == 0:
        output_folder(request.output, request.resume)


def trial_folders(request: Request) -> dict[int, Path]:
    """Of the trials that the command runs, by their numbers."""
    numbers = range(request.first_trial, request.trials)
    return {number: Path(request.output) / f"trial_{number}" for number in numbers}


def each_trial(request: Request, seed: int, run: Callable[[Trial], None]) -> list[Path]:
    """Runs the trials that have no record yet; returns the records' paths."""
    barrier()
    paths = []
    for number, folder in trial_folders(request).items():
        paths.append(folder / FILE_NAME)
        if paths[-1].exists():
            logger.info("%s exists: trial %d is skipped", paths[-1], number)
            continue
        if is_main():
            folder.mkdir(parents=True, exist_ok=True)
            setup_logging(folder)
        run(Trial(number, folder, seed + number))
        barrier()
    return paths


def trial_config(
    cfg: CfgNode,
    request: Request,
    trial: Trial,
    weights: Weights,
    architecture: Mapping[str, Any] | None = None,
) -> CfgNode:
    """The trial's config, completed by the weights' facts, and written as config.yaml, with the
    weights' identity beside it.

    Args:
        architecture: in place of the weights' own.
    """
    for warning in weights.said:
        logger.warning("%s: %s", request.weights, warning)
    name = detection_config.protocol_name(cfg, request.config)
    if architecture is None:
        cfg = with_backbone(cfg, weights)
    else:
        cfg = detection_config.with_preprocess(cfg, weights.preprocess, architecture)
    facts = {"SEED": trial.seed, "OUTPUT_DIR": str(trial.folder), "MODEL.WEIGHTS": request.weights}
    facts["TRANSFER.PROTOCOL"] = name  # the written file has another stem
    cfg = detection_config.changed(cfg, facts)
    if is_main():
        atomic_write_text(trial.folder / CONFIG_FILE, dump_yaml(cfg))
        atomic_write_text(trial.folder / WEIGHTS_FILE, f"{weights.sha256}\n")
    return cfg


def write_artifacts(request: Request, weights: Weights, folder: Path) -> dict[str, str]:
    """Writes what every task shows beside its numbers; returns {name: path below the folder}."""
    rows = [{"step": row.pop("iteration"), **row} for row in read_metrics(folder)]
    write_curves(folder / "curves.json", rows)
    draw_kernels(weights, folder / "kernels.png")
    copied = copy_pretrain_artifacts(request.weights, folder)
    kept = {"config": CONFIG_FILE, "curves": "curves.json", "kernels": "kernels.png"}
    return {**kept, **copied}


def write_trial(
    request: Request,
    cfg: CfgNode,
    trial: Trial,
    weights: Weights,
    *,
    task: str,
    engine: str,
    engine_version: str,
    metrics: Mapping[str, float],
    per_class: Mapping[str, Mapping[str, float]] | None,
    artifacts: Mapping[str, str],
    seconds: float,
    views_seen: int,
) -> None:
    """Writes the trial's record; `cfg` is without the weights' facts, see `make_record`."""
    pairs = zip(request.overrides[::2], request.overrides[1::2])
    record = make_record(
        weights=weights,
        name=request.name or default_name(weights, request.weights),
        task=task,
        dataset=cfg.DATASETS.TEST[0],
        protocol={
            "name": detection_config.protocol_name(cfg, request.config),
            "config_sha256": detection_config.protocol_sha256(cfg),
            "engine": engine,
            "engine_version": engine_version,
            "overrides": [f"{key} {value}" for key, value in pairs],
        },
        trial=trial.number,
        seed=trial.seed,
        metrics=metrics,
        per_class=per_class,
        artifacts=artifacts,
        started=trial.started,
        seconds=seconds,
        gpu_seconds=(
            seconds * world_size() if process_device(cfg.MODEL.DEVICE).type == "cuda" else 0.0
        ),
        views_seen=views_seen,
        status="shortened" if shortened(request, cfg) else "done",
    )
    write_record(trial.folder, record)
    logger.info("trial %d: %s", trial.number, format_metrics(record["metrics"]))
    logger.info("%.0f s in all", time.perf_counter() - trial.begin)


def write_evaluation(
    request: Request,
    model: str,
    metrics: Mapping[str, float],
    per_class: Mapping[str, Mapping[str, float]],
) -> None:
    """Writes evaluation.json into the output: the scores of the `model` file that it names.

    What has no value (the AP of sizes that no object has) is null, as in a record.
    """
    content = {
        "model": model,
        "metrics": null_for_nan(metrics),
        "per_class": {name: null_for_nan(values) for name, values in per_class.items()},
    }
    path = Path(request.output) / "evaluation.json"
    atomic_write_text(path, json.dumps(content, indent=1, allow_nan=False))


def shipped(request: Request) -> CfgNode:
    """The config file alone, without the command's overrides."""
    return load_merged(request.config)


def shortened(request: Request, cfg: CfgNode) -> bool:
    """Whether the overrides train for less than the config file says, or on fewer images."""
    full = shipped(request)
    fewer = takes_fewer(cfg.TRANSFER.LIMIT_IMAGES, full.TRANSFER.LIMIT_IMAGES)
    return fewer or cfg.SOLVER.MAX_ITER < full.SOLVER.MAX_ITER


def format_metrics(metrics: Mapping[str, float | None]) -> str:
    """ "bbox/AP 12.34, bbox/AP50 ..."; "n/a" for the AP of sizes that no object has."""
    known = {name: value for name, value in metrics.items() if value is not None}
    texts = {name: f"{value:.2f}" for name, value in known.items() if not math.isnan(value)}
    return ", ".join(f"{name} {texts.get(name, 'n/a')}" for name in metrics)
