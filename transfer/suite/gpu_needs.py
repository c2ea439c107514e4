"""Computes without a GPU what the jobs of a plan need from one: a line for each need of each job.

It covers jobs that train a network or a detector, but not conversions, probes on features and
semantic segmentation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from fvcore.common.config import CfgNode

from pretrain.common.errors import InputError
from pretrain.common.gpus import Gpu
from pretrain.common.run_needs import Line, RunNeeds, gpu_lines, machine_lines
from pretrain.data.build import loader_batch_bytes, loader_shared_bytes
from pretrain.data.free_memory import available_memory
from transfer.detection.footprint import run_needs
from transfer.detection.task import DetectionTask
from transfer.suite.check import Checked, Checks, Pretraining, task_of_job
from transfer.suite.plan import Job


def needs_of_jobs(
    jobs: Sequence[Job], checks: Checks, pretraining: Pretraining, gpu: Gpu, here: bool
) -> dict[str, list[Line]]:
    """Returns the lines of each job that is not done, by its name.

    Jobs with the same config and the same numbers of processes and trials are computed once.

    Args:
        here: whether the jobs run on this machine's GPU.
    """
    known: dict[tuple, list[Line]] = {}
    found: dict[str, list[Line]] = {}
    for job in (job for job in jobs if not job.is_done()):
        key = (job.kind, job.config, job.overrides, job.processes, job.trials)
        if key not in known:
            facts = checks.facts.get(job.name, Checked())
            known[key] = list(_lines(job, facts, pretraining, gpu, here))
        if known[key]:
            found[job.name] = known[key]
    return found


def _lines(
    job: Job, facts: Checked, pretraining: Pretraining, gpu: Gpu, here: bool
) -> Iterator[Line]:
    if job.kind == "pretrain":
        cfg = pretraining.load_checked(job.config, job.overrides, job.processes)
        yield from gpu_lines(
            pretraining.run_needs(cfg, job.processes, facts.train_images or None), gpu
        )
        yield from loader_lines(cfg, job, here)
    elif job.kind == "det" and (needs := needs_of_detector(job)):
        yield from gpu_lines(needs, gpu)


def loader_lines(cfg: CfgNode, job: Job, here: bool) -> Iterator[Line]:
    """Yields what the loaders of a pretraining run need from one of its machines.

    Args:
        here: whether that is this machine. The cores of a different machine are not known, so each
            process has as many workers as the config asks for.
    """
    workers = None if here else cfg.DATALOADER.NUM_WORKERS
    shared = loader_shared_bytes(cfg, job.processes, workers)
    batch = loader_batch_bytes(cfg, job.processes)
    return machine_lines(shared, batch, job.gpus, available_memory(), here)


def needs_of_detector(job: Job) -> RunNeeds | None:
    """Returns what a det job needs for all its trials; None for semantic segmentation."""
    task = task_of_job(job)
    if not isinstance(task, DetectionTask):
        return None
    needs = run_needs(task.load_config(job.config, job.overrides), job.processes)
    return replace(needs, steps=(needs.steps or 0) * job.trials)


def check_needs(found: Mapping[str, Sequence[Line]]) -> None:
    """Raises InputError for the first need that is not met and would make a job fail."""
    for job, lines in found.items():
        for line in lines:
            if line.problem and line.fatal:
                raise InputError(f"{job}: {line.name}: {line.detail}")
