"""A plan with its estimates, as a text and as JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType

from pretrain.common.progress import clock
from pretrain.common.run_needs import Line
from transfer.results.group import MANY_ROWS, TRIALS_OF_MANY
from transfer.suite.estimate import Estimate
from transfer.suite.plan import Job

EMPTY: Mapping[str, Sequence[Line]] = MappingProxyType({})
Needs = Mapping[str, Sequence[Line]]  # what jobs need from a GPU, by the job's name


def plan_text(jobs: Sequence[Job], estimates: Mapping[str, Estimate], needs: Needs = EMPTY) -> str:
    """Returns a line for each job (state, time, memory, note), its needs below it, and the sum."""
    width = max(len(job.name) for job in jobs)
    lines = []
    for job in jobs:
        found = estimates[job.name]
        time = "" if found.seconds is None else clock(found.seconds)
        memory = ""
        if found.memory_bytes is not None:
            memory = f"{found.memory_bytes / 2**30:.1f} GiB {found.memory_of}"
        row = f"{found.state:5} {job.name:{width}} {time:>13} {memory:>14}  {found.note}"
        lines.append(row.rstrip())
        lines += [f"        {need.name}: {need.detail}" for need in needs.get(job.name, ())]
    todo = [job for job in jobs if estimates[job.name].state != "done"]
    known = [s for job in todo if (s := estimates[job.name].seconds) is not None]
    text = f"{len(todo)} of {len(jobs)} jobs to do"
    if known:
        text += f"; {len(known)} of them estimated, {clock(sum(known))} one after the other"
    lines.append(text)
    if any(found.memory_of == "host" for found in estimates.values()):
        lines.append(
            "memory is that of the main process on this host; GPU memory was not measured here"
        )
    return "\n".join(lines + _few_trials(jobs))


def _few_trials(jobs: Sequence[Job]) -> list[str]:
    """Returns lines about tasks whose many checkpoints need more trials than the suite has.

    A classification with one trial is not listed: its protocol may be deterministic.
    """
    trials = defaultdict(list)
    for job in jobs:
        if job.kind == "det" or (job.kind == "cls" and job.trials > 1):
            trials[job.name.split("/")[0]].append(job.trials)
    lines = []
    for task, counts in trials.items():
        least = min(counts)
        if len(counts) >= MANY_ROWS and least < TRIALS_OF_MANY:
            have = f"{least} trial{'s' * (least > 1)} each"
            lines.append(
                f"{task}: {len(counts)} checkpoints with {have}: all pairs are corrected for; "
                f"{TRIALS_OF_MANY} trials (the task's `trials`) would resolve more differences"
            )
    return lines


def plan_json(jobs: Sequence[Job], estimates: Mapping[str, Estimate], needs: Needs = EMPTY) -> str:
    """Returns {"jobs": [{name, command, needs, trials, gpu, and the fields of `Estimate`}]}.

    gpu lists {name, text, problem} for each need of a GPU.
    """
    rows = [
        {"name": job.name, "command": job.command, "needs": job.needs, "trials": job.trials}
        | {"gpu": [asdict(need) for need in needs.get(job.name, ())]}
        | asdict(estimates[job.name])
        for job in jobs
    ]
    return json.dumps({"jobs": rows}, indent=1)
