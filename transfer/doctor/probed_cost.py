"""Adds rows about the time and memory of runs: measured by the suite's probes, or computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from pretrain.common.progress import clock
from pretrain.common.run_needs import Line
from transfer.doctor.rows import FAIL, OK, WARN, Rows
from transfer.suite.check import Checks
from transfer.suite.estimate import estimate_jobs, timed_probe
from transfer.suite.plan import Job

PLACES = {
    "gpu": "GPU",
    "host": "host, by the main process; what a GPU needs cannot be measured without one",
}
FULL = 0.9  # share of the memory above which a longer run may run out of it


def add_estimates(
    rows: Rows, jobs: Sequence[Job], checks: Checks, seconds: float, say: Callable[[str], None]
) -> None:
    """Adds a row about time and one about memory for each job that could be probed.

    Args:
        seconds: length of a probe; say: called with a line about each probe.
    """
    found = estimate_jobs(jobs, checks, timed_probe(seconds), say, hint="")
    total = memory_of_this_machine()
    for job in jobs:
        estimate = found[job.name]
        suffix = f" {job.name}" if len(jobs) > 1 else ""
        if estimate.note.startswith("the probe failed"):
            rows.add(f"time{suffix}", FAIL, estimate.note)
        elif estimate.seconds is None:
            rows.add(f"time{suffix}", WARN, estimate.note)
        else:
            text = f"about {clock(estimate.seconds)} here ({estimate.note})"
            rows.add(f"time{suffix}", OK, text)
        if estimate.memory_bytes and estimate.memory_of and total:
            share = estimate.memory_bytes / total
            text = f"{estimate.memory_bytes / 2**30:.1f} of {total / 2**30:.0f} GiB "
            text += f"of the {PLACES[estimate.memory_of]}"
            rows.add(f"memory{suffix}", WARN if share > FULL else OK, text)


def add_lines(rows: Rows, lines: Iterable[Line], suffix: str = "") -> None:
    """Adds a row for each need; a need that is not met fails or warns. Names get the suffix."""
    for line in lines:
        bad = FAIL if line.fatal else WARN
        rows.add(f"{line.name}{suffix}", bad if line.problem else OK, line.detail)


def memory_of_this_machine() -> int:
    """Returns the bytes of the smallest GPU, or of the host if there is no GPU; 0: not known."""
    count = torch.cuda.device_count()
    if count:
        return min(torch.cuda.get_device_properties(i).total_memory for i in range(count))
    try:
        lines = open("/proc/meminfo", encoding="ascii").read().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemTotal")), 0)
