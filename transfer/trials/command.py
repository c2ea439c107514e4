"""Runs the commands that train or score a task's model, from the request to the last lines printed.

The command checks the input before it launches processes; then each process opens the data itself.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from pretrain.common.checkpoint import atomic_write_text
from pretrain.common.cli import interrupt_says, note_fresh_start
from pretrain.common.distributed import (
    check_gpus,
    close_distributed,
    init_distributed,
    is_first_of_launcher,
    is_main,
    launch,
    process_device,
    take_gpu,
    will_launch,
)
from pretrain.common.locks import one_writer
from pretrain.common.logs import setup_logging
from pretrain.common.output_path import check_output
from pretrain.common.precision import allow_tf32
from pretrain.common.progress import keep_progress, progress_folder
from pretrain.common.run_files import RECORD
from pretrain.common.safe_json import read_json
from transfer.results.last_lines import last_lines, where_resume_continues
from transfer.results.metrics import headline_texts
from transfer.results.record import null_for_nan
from transfer.trials.earlier import check_trial_folders
from transfer.trials.loop import run_trials
from transfer.trials.task import Job, Request, Scored, Task, Trained

logger = logging.getLogger(__name__)

EVALUATION = "evaluation.json"


def run_command(task: Task[Any], request: Request, num_gpus: int) -> list[str]:
    """Runs a command that trains: checks the input, then runs all trials.

    Returns the last lines to print; under torchrun, only the first process returns any, and only
    this one scans the image files. A process that is not launched from here continues with the data
    that it has opened for the checks; launched processes open the data themselves.
    """
    check_gpus(num_gpus)
    check_output(request.output)
    take_gpu()
    trials = range(request.first_trial, request.trials)
    with (
        _one_writer(*request.folders().values()),
        keep_progress(
            progress_folder(request.output, request.first_trial),
            [folder / RECORD for folder in request.folders().values()],
        ),
        interrupt_says(lambda: where_resume_continues(request.output, trials, task.saved)),
    ):
        job = task.prepare(request, scan=is_first_of_launcher())
        task.check_processes(job.cfg, max(num_gpus, int(os.environ.get("WORLD_SIZE", 1))))
        check_trial_folders(task, job)
        if request.resume:
            saved = [f"trial_*/{name}" for name in (RECORD, *task.saved)]
            note_fresh_start(request.output, saved)
        launches = will_launch(num_gpus)
        if launches:
            request.opened.close()  # each process opens its own
        launch(run_request, num_gpus, (task, request, None if launches else job))
    return last_lines(list(request.folders().values())) if is_first_of_launcher() else []


def run_request(task: Task[Any], request: Request, job: Job[Any] | None = None) -> list[Path]:
    """Joins the processes and runs all trials. A launched process calls this.

    Args:
        job: the job if this process has prepared it; None: it is prepared here, without a scan of
            the image files, which the command has already checked.
    """
    with _processes():
        job = job or task.prepare(request, scan=False)
        if key := task.tf32_key(job.cfg):
            logger.info("%s", allow_tf32(process_device(), key))
        for line in task.describe(job):
            logger.info("%s", line)
        return run_trials(task, job)


def show_command(task: Task[Any], request: Request, count: int) -> list[str]:
    """Runs a command that shows `count` of the training images."""
    with _one_writer(request.output):
        return [str(path) for path in task.show_data(request, count)]


def _one_writer(*folders: str | Path) -> AbstractContextManager[None]:
    """Locks the folders in the first process.

    Several commands with one output may run different trials at the same time, so each trial has
    its own lock.
    """
    return one_writer(*folders if is_first_of_launcher() else ())


@contextmanager
def _processes() -> Iterator[None]:
    """Joins the launcher's processes and sets up logging, for the duration of the context."""
    init_distributed()
    try:
        setup_logging()
        yield
    finally:
        close_distributed()


def evaluate_command(task: Task[Any], request: Request, num_gpus: int) -> list[str]:
    """Runs a command that scores a trained model; see `run_command`."""
    check_gpus(num_gpus)
    take_gpu()
    with _one_writer(request.output), keep_progress(request.output):
        trained = task.open_trained(request, scan=is_first_of_launcher())
        launches = will_launch(num_gpus)
        if launches:
            request.opened.close()  # each process opens its own
        launch(evaluate_request, num_gpus, (task, request, None if launches else trained))
    if not is_first_of_launcher():
        return []
    path = Path(request.output) / EVALUATION
    content = read_json(path)
    return [f"{path}: {', '.join(headline_texts(task.name, content['metrics']))}"]


def evaluate_request(
    task: Task[Any], request: Request, trained: Trained[Any] | None = None
) -> Scored | None:
    """Joins the processes and scores the model; writes evaluation.json into the output.

    Args:
        trained: what this process has opened; None: it is opened here, without a scan.
    """
    with _processes():
        scored = task.evaluate(request, trained or task.open_trained(request, scan=False))
        if is_main() and scored is not None:
            write_evaluation(request, scored)
        return scored


def write_evaluation(request: Request, scored: Scored) -> None:
    """Writes evaluation.json into the output: the model's file and its scores.

    A metric without a value (such as the AP of a size that no object has) is null, as in a record.
    """
    content = {
        "model": scored.model,
        "metrics": null_for_nan(scored.metrics),
        "per_class": {name: null_for_nan(values) for name, values in scored.per_class.items()},
    }
    path = Path(request.output) / EVALUATION
    atomic_write_text(path, json.dumps(content, indent=1, allow_nan=False))
