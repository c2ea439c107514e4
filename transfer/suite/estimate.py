"""Estimates the time and memory of each job from probes and the configs, in seconds and bytes.

A probe measures seconds per iteration (of training) or per batch (of features); multiplication
gives the total. The note names the stages that a probe did not reach; they are never guessed. One
probe is used for all checkpoints of a task that have the same backbone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transfer.checkpoints.files import RANDOM
from transfer.suite.check import Checked, Checks, stand_in
from transfer.suite.plan import Job, command_of
from transfer.suite.probe import Measured, probe

FEATURES = "features of "
EPOCH, TESTING = "epoch ", "testing on "  # progress bars of training on random crops
# A probe extracts its features without a cache, and skips the check of every image
CLS_WORDS = ("CACHE_DIR", "", "DATALOADER.CHECK_IMAGES", "False")
TIMED = {"pretrain": "pretrain", "det": "train"}  # the timed bar of each kind of job; cls: all
ALL_SECONDS, LEAST_SECONDS, MOST_SECONDS = 120.0, 5.0, 30.0  # for all probes; limits for each
Probe = Callable[[Sequence[str], str, int], Measured]  # command, stage, total number of probes


@dataclass(frozen=True)
class Estimate:
    """Is the estimate of one job; None if it was not measured: the note says why."""

    state: str  # "done" or "to do"
    seconds: float | None = None
    memory_bytes: int | None = None
    memory_of: str | None = None  # "gpu", or "host" if there is none: the main process
    note: str = ""


def estimate_jobs(
    jobs: Sequence[Job],
    checks: Checks,
    run_probe: Probe | None,
    say: Callable[[str], None],
    hint: str = "; --probe-seconds 0 leaves them out",
) -> dict[str, Estimate]:
    """Returns an Estimate for each job's name.

    Args:
        run_probe: see `timed_probe`; None measures nothing.
        say: called with a line about each probe, because probes take time.
        hint: end of each such line, which says how the user's command can skip the probes.
    """
    wanted: dict[tuple, Job] = {}
    found: dict[str, Estimate] = {}
    todo: list[Job] = []
    for job in jobs:
        known = _without_probe(job, checks)
        if known is not None:
            found[job.name] = known
        elif run_probe is None:
            found[job.name] = Estimate("to do", note="not estimated: probes are switched off")
        else:
            todo.append(job)
            wanted.setdefault(_probe_key(job, checks), job)
    if run_probe is None:
        return found
    measured: dict[tuple, Measured] = {}
    for number, (key, job) in enumerate(wanted.items(), 1):
        say(f"probing {job.name} ({number} of {len(wanted)}{hint})")
        command = probe_command(job, checks.backbones.get(job.name))
        measured[key] = run_probe(command, TIMED.get(job.kind, ""), len(wanted))
    for job in todo:
        facts = checks.facts.get(job.name, Checked())
        found[job.name] = extrapolate(job, facts, measured[_probe_key(job, checks)])
    return found


def _without_probe(job: Job, checks: Checks) -> Estimate | None:
    """Returns the estimate of a job that needs no probe; None for other jobs."""
    if job.name in checks.problems:  # also if it has results: they do not match the job
        return Estimate("to do", note=f"cannot start here: {checks.reason(job.name)}")
    if job.is_done():
        return Estimate("done")
    if job.waits_for_head:
        return Estimate("to do", note="not estimated: the heads that it scores are still to train")
    if job.kind == "convert":
        return Estimate("to do", note="not estimated: the job converts one file")
    return None


def _probe_key(job: Job, checks: Checks) -> tuple:
    """Returns a key that is equal for jobs that share one probe."""
    untrained = checks.facts.get(job.name, Checked()).untrained
    return (job.kind, job.config, job.overrides, checks.backbones.get(job.name) or untrained)


def timed_probe(seconds: float | None) -> Probe | None:
    """Returns a probe of about `seconds`; None: chosen to keep a plan short; 0: no probe."""
    if seconds is not None and seconds <= 0:
        return None

    def run(command: Sequence[str], stage: str, count: int) -> Measured:
        share = min(MOST_SECONDS, max(LEAST_SECONDS, ALL_SECONDS / count))
        return probe(command, stage, share if seconds is None else seconds)

    return run


def probe_command(job: Job, backbone: str | None) -> tuple[str, ...]:
    """Returns the job's command for one trial, without a feature cache, on existing weights."""
    overrides = job.overrides
    options: tuple[str, ...] = ()
    if job.kind != "pretrain":
        weights, words = stand_in(job, backbone)
        options = ("--weights", weights)
        overrides = (*overrides, *words, *(CLS_WORDS if job.kind == "cls" else ()))
    return command_of(job.kind, job.config, Path("probe"), overrides, options, job.gpus)


def extrapolate(job: Job, facts: Checked, measured: Measured) -> Estimate:
    """Returns the estimated time of the rest of a job, from one probe."""
    memory: tuple[int | None, str | None] = (None, None)
    if measured.memory_bytes:
        memory = (measured.memory_bytes, "gpu" if measured.on_gpu else "host")
    job = replace(job, trials=trials_left(job))
    if measured.failure:
        return Estimate("to do", None, *memory, f"the probe failed: {measured.failure}")
    if measured.seconds is not None:
        whole = measured.seconds * job.trials
        return Estimate("to do", whole, *memory, "a complete trial was timed")
    stages = [
        Rate(stage.name, stage.total, stage.unit_seconds)
        for stage in measured.stages
        if stage.unit_seconds is not None
    ]
    if not stages:
        return Estimate("to do", None, *memory, "not estimated: nothing finished within the probe")
    seconds, note = _RULES[job.kind](job, facts, measured.start_seconds, stages)
    return Estimate("to do", seconds, *memory, note)


@dataclass(frozen=True)
class Rate:
    """Is a probe's result for a progress bar: its name, total units, and seconds per unit."""

    name: str
    total: int
    unit_seconds: float


def trials_left(job: Job) -> int:
    """Returns the number of trials without a record; 1 for a job without trials."""
    return sum(not path.exists() for path in job.results) if job.trials > 1 else 1


def _pretraining(
    job: Job, facts: Checked, start: float, stages: Sequence[Rate]
) -> tuple[float, str]:
    stage = stages[0]
    note = f"{stage.unit_seconds:.3g} s a step; without kNN and checkpoints in between"
    return start + stage.unit_seconds * stage.total, note


def _detection(job: Job, facts: Checked, start: float, stages: Sequence[Rate]) -> tuple[float, str]:
    stage = stages[0]
    # An upper bound for prediction, which has no backward pass.
    predicted = facts.evaluations * facts.test_images / max(1, facts.batch_size)
    trial = start + stage.unit_seconds * (facts.iterations + predicted)
    note = f"{stage.unit_seconds:.3g} s an iteration; a test image counts as a training image"
    return trial * job.trials, note


def _classification(
    job: Job, facts: Checked, start: float, stages: Sequence[Rate]
) -> tuple[float, str]:
    if facts.iterations:
        return _random_crops(job, facts, start, stages)
    stage = stages[0]
    total = start + sum(stage.unit_seconds * stage.total for stage in stages)
    note = f"{stage.unit_seconds:.3g} s a unit of {stage.name!r}"
    last = stages[-1].name
    if stage.name.startswith(FEATURES):
        if len(stages) == 1:
            batches = math.ceil(facts.test_images / max(1, facts.batch_size))
            total += stage.unit_seconds * batches
            last = "the features"
        if job.weights != RANDOM:  # each trial draws new random weights
            note += ", which serve all trials"
    if job.weights == RANDOM or not stage.name.startswith(FEATURES):
        total *= job.trials
    return total, f"{note}; what follows {last} is not included"


def _random_crops(
    job: Job, facts: Checked, start: float, stages: Sequence[Rate]
) -> tuple[float, str]:
    """Returns the estimate of a protocol that reads the images again in each epoch."""
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
