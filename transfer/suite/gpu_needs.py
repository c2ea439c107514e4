"""What the jobs of a plan need of a GPU, before one is at hand: a line for each need of each job.

Counted are the jobs that train a network or a detector; conversions, probes on features and
semantic segmentation are not.
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
    """The lines of each job that is not done, by its name.

    Jobs of one config, as many processes and as many trials are looked at once.

    Args:
        here: whether the GPU is this machine's.
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
        cfg = pretraining.load(job.config, job.overrides, job.processes)
        yield from gpu_lines(pretraining.needs(cfg, job.processes, facts.train_images or None), gpu)
        yield from loader_lines(cfg, job, here)
    elif job.kind == "det" and (needs := needs_of_detector(job)):
        yield from gpu_lines(needs, gpu)


def loader_lines(cfg: CfgNode, job: Job, here: bool) -> Iterator[Line]:
    """What the loaders of a pretraining need of one of its machines.

    Args:
        here: whether that is this machine. Of another one the cores are not known, so that each
            process has as many workers as the config asks for.
    """
    workers = None if here else cfg.DATALOADER.NUM_WORKERS
    shared = loader_shared_bytes(cfg, job.processes, workers)
    batch = loader_batch_bytes(cfg, job.processes)
    return machine_lines(shared, batch, job.gpus, available_memory(), here)


def needs_of_detector(job: Job) -> RunNeeds | None:
    """What a det job needs, for all its trials; None of semantic segmentation, not counted here."""
    task = task_of_job(job)
    if not isinstance(task, DetectionTask):
        return None
    needs = run_needs(task.load_config(job.config, job.overrides), job.processes)
    return replace(needs, steps=(needs.steps or 0) * job.trials)


def check_needs(found: Mapping[str, Sequence[Line]]) -> None:
    """Raises InputError for the first need without which a job would fail."""
    for job, lines in found.items():
        for line in lines:
            if line.problem and line.fatal:
                raise InputError(f"{job}: {line.name}: {line.detail}")
