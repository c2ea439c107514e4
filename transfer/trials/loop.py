"""The loop over trials, which writes the artifacts and the record of each trial.

Trial t is in trial_t/ and uses seed SEED + t. A trial that has a record is skipped. The first
process writes the record last: it means that the trial is complete.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.common.distributed import barrier, is_main, world_size
from pretrain.common.run_files import CONFIG, RECORD
from transfer.checkpoints.weights import default_name
from transfer.results.artifacts import copy_pretrain_artifacts, draw_kernels, write_curves
from transfer.results.record import make_record, write_record
from transfer.trials.task import Job, Outcome, Request, Task, Trial

logger = logging.getLogger(__name__)


def run_trials(task: Task[Any], job: Job[Any]) -> list[Path]:
    """Runs the trials that have no record yet; returns the paths of all trials' records."""
    barrier()
    paths = []
    for number, folder in job.request.folders().items():
        paths.append(folder / RECORD)
        if paths[-1].exists():
            logger.info("%s exists: trial %d is skipped", paths[-1], number)
            continue
        if is_main():
            job.data.warn_of_shared()
        trial = Trial(number, folder, job.cfg.SEED + number)
        outcome = task.run_trial(job, trial)
        if is_main() and outcome is not None:
            _write_trial(task, job, trial, outcome)
        barrier()
    return paths


def _write_trial(task: Task[Any], job: Job[Any], trial: Trial, outcome: Outcome) -> None:
    """Writes the artifacts of every task, and the record."""
    request = job.request
    pairs = zip(request.overrides[::2], request.overrides[1::2])
    record = make_record(
        weights=outcome.weights,
        name=request.name or default_name(outcome.weights, request.weights),
        task=task.task_in_records(job.cfg),
        dataset=job.test_set.name,
        protocol={
            "name": task.protocol_name(job.cfg, request.config),
            "config_sha256": task.identity(job),
            "engine": outcome.engine,
            "engine_version": outcome.engine_version,
            "overrides": [f"{key} {value}" for key, value in pairs],
            **outcome.protocol,
        },
        trial=trial.number,
        seed=trial.seed,
        metrics=outcome.metrics,
        per_class=outcome.per_class,
        data=job.data.facts(),
        artifacts={**_write_artifacts(request, trial.folder, outcome), **outcome.artifacts},
        started=trial.started,
        seconds=outcome.seconds,
        gpu_seconds=outcome.seconds * world_size() if outcome.on_gpu else 0.0,
        views_seen=outcome.views_seen,
        status="shortened" if task.is_shortened(job) else "done",
    )
    task.tidy(trial)
    write_record(trial.folder, record)
    logger.info("trial %d: %s", trial.number, format_metrics(record["metrics"]))
    logger.info("trial took %.0f s", time.perf_counter() - trial.begin)


def _write_artifacts(request: Request, folder: Path, outcome: Outcome) -> dict[str, str]:
    """Writes the artifacts that all tasks have; returns {name: path below the folder}."""
    draw_kernels(outcome.weights, folder / "kernels.png")
    artifacts = {"config": CONFIG, "kernels": "kernels.png"}
    if outcome.curve:
        artifacts["curves"] = write_curves(folder / "curves.json", outcome.curve).name
    return {**artifacts, **copy_pretrain_artifacts(request.weights, folder)}


def format_metrics(metrics: Mapping[str, float | None]) -> str:
    """Returns "bbox/AP 12.34, bbox/AP50 ..."; "n/a" for the AP of a size that no object has."""
    known = {name: value for name, value in metrics.items() if value is not None}
    texts = {name: f"{value:.2f}" for name, value in known.items() if not math.isnan(value)}
    return ", ".join(f"{name} {texts.get(name, 'n/a')}" for name in metrics)
