"""The time and memory of each job: probes and what the configs say in, seconds and bytes out.

A probe gives seconds per iteration (of training) or per batch (of features); the whole follows by
multiplication. What a probe did not reach is named in the note, never guessed. One probe serves all
checkpoints of a task, which are taken to have one backbone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from transfer.suite.check import Checked, Checks, stand_in
from transfer.suite.plan import Job, command_of
from transfer.suite.probe import Measured, Stage, probe

FEATURES = "features of "
EPOCH, TESTING = "epoch ", "testing on "  # of what trains on random crops
# A probe makes its features itself, and does not spend its time on reading every image
CLS_WORDS = ("CACHE_DIR", "", "DATALOADER.CHECK_IMAGES", "False")
TIMED = {"pretrain": "pretrain", "det": "train"}  # the bar of each kind of job; cls: all
Probe = Callable[[Sequence[str], str], Measured]  # command, stage


@dataclass(frozen=True)
class Estimate:
    """Of one job; None where it was not measured, and the note says why."""

    state: str  # "done" or "to do"
    seconds: float | None = None
    memory_bytes: int | None = None
    note: str = ""


def estimate_jobs(
    jobs: Sequence[Job], checks: Checks, run_probe: Probe | None, say: Callable[[str], None]
) -> dict[str, Estimate]:
    """An Estimate for each job's name.

    Args:
        run_probe: see `probe.probe`; None measures nothing.
        say: hears what is probed, since that takes a while.
    """
    found: dict[str, Estimate] = {}
    measured: dict[tuple, Measured] = {}
    for job in jobs:
        if job.name in checks.problems:  # also where it has results: they are of something else
            found[job.name] = Estimate(
                "to do", note=f"not estimated: {checks.problems[job.name][1]}"
            )
        elif job.is_done():
            found[job.name] = Estimate("done")
        elif job.kind == "convert":
            found[job.name] = Estimate("to do", note="not estimated: converts one file")
        elif run_probe is None:
            found[job.name] = Estimate("to do", note="not estimated: no probe asked for")
        else:
            facts = checks.facts.get(job.name, Checked())
            backbone = checks.backbones.get(job.name)
            key = (job.kind, job.config, job.overrides, backbone or facts.untrained)
            if key not in measured:
                say(f"probing {job.name}")
                command, timed = probe_command(job, backbone), TIMED.get(job.kind, "")
                measured[key] = run_probe(command, timed)
            found[job.name] = extrapolate(job, facts, measured[key])
    return found


def timed_probe(seconds: float) -> Probe | None:
    """The probe that takes about so many seconds; None for 0."""
    return partial(probe, seconds=seconds) if seconds > 0 else None


def probe_command(job: Job, backbone: str | None) -> tuple[str, ...]:
    """The job's command for one trial, without a feature cache, on weights that exist."""
    overrides, options = job.overrides, ()
    if job.kind != "pretrain":
        weights, words = stand_in(job, backbone)
        options = ("--weights", weights)
        overrides = (*overrides, *words, *(CLS_WORDS if job.kind == "cls" else ()))
    return command_of(job.kind, job.config, Path("probe"), overrides, options, job.gpus)


def extrapolate(job: Job, facts: Checked, measured: Measured) -> Estimate:
    """The time of what is left of a job, from one probe."""
    memory = measured.memory_bytes or None
    job = replace(job, trials=trials_left(job))
    if measured.failure:
        return Estimate("to do", None, memory, f"the probe failed: {measured.failure}")
    if measured.seconds is not None:
        whole = measured.seconds * job.trials
        return Estimate("to do", whole, memory, "a whole trial was timed")
    stages = [stage for stage in measured.stages if stage.unit_seconds is not None]
    if not stages:
        return Estimate("to do", None, memory, "not estimated: nothing finished within the probe")
    seconds, note = _RULES[job.kind](job, facts, measured.start_seconds, stages)
    return Estimate("to do", seconds, memory, note)


def trials_left(job: Job) -> int:
    """Trials without a record; 1 of what has no trials."""
    return sum(not path.exists() for path in job.results) if job.trials > 1 else 1


def _pretraining(
    job: Job, facts: Checked, start: float, stages: Sequence[Stage]
) -> tuple[float, str]:
    stage = stages[0]
    note = f"{stage.unit_seconds:.3g} s a step; without kNN and checkpoints in between"
    return start + stage.unit_seconds * stage.total, note


def _detection(
    job: Job, facts: Checked, start: float, stages: Sequence[Stage]
) -> tuple[float, str]:
    stage = stages[0]
    # Above what prediction takes, which has no backward pass.
    predicted = facts.evaluations * facts.test_images / max(1, facts.batch_size)
    trial = start + stage.unit_seconds * (facts.iterations + predicted)
    note = f"{stage.unit_seconds:.3g} s an iteration; a test image as a training image"
    return trial * job.trials, note


def _classification(
    job: Job, facts: Checked, start: float, stages: Sequence[Stage]
) -> tuple[float, str]:
    if facts.iterations:
        return _random_crops(job, facts, start, stages)
    stage = stages[0]
    total = start + sum(stage.unit_seconds * stage.total for stage in stages)
    note = f"{stage.unit_seconds:.3g} s a unit of {stage.name!r}"
    last = stages[-1].name
    if stage.name.startswith(FEATURES):
        note += ", which serve all trials"
        if len(stages) == 1:
            batches = math.ceil(facts.test_images / max(1, facts.batch_size))
            total += stage.unit_seconds * batches
            last = "the features"
    else:
        total *= job.trials
    return total, f"{note}; what follows {last} is not in this"


def _random_crops(
    job: Job, facts: Checked, start: float, stages: Sequence[Stage]
) -> tuple[float, str]:
    """Of a linear probe or fine-tuning that sees the images anew in each epoch."""
    steps = next((stage for stage in stages if stage.name.startswith(EPOCH)), None)
    if steps is None:
        return start, f"not reached: training; {stages[0].name!r} was"
    test = next((stage for stage in stages if stage.name.startswith(TESTING)), None)
    trial = start + steps.unit_seconds * facts.iterations
    trial += test.unit_seconds * test.total * facts.evaluations if test else 0.0
    note = f"{steps.unit_seconds:.3g} s a step; without the check of the images"
    return trial * job.trials, note if test else f"{note} and the tests"


_RULES: Mapping[str, Callable[..., tuple[float, str]]] = {
    "pretrain": _pretraining,
    "det": _detection,
    "cls": _classification,
}
