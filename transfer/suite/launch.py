"""Jobs in, finished jobs out: local processes, as many at once as asked, one line each.

A failed job does not stop the others; those that need it are skipped. Ctrl-C stops the running
commands, and the same suite command continues later.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transfer.suite.plan import Job

POLL_SECONDS = 0.5


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen
    log: Path
    slot: int
    started: float = field(default_factory=time.monotonic)


def run_jobs(
    jobs: Sequence[Job], *, logs: Path, parallel: int, gpus: int, say: Callable[[str], None]
) -> dict[str, str]:
    """Runs the jobs that are not done, and returns each name's state: done, skipped or failed.

    Args:
        logs: folder for one log file per job.
        parallel: how many run at once.
        gpus: GPUs of this machine; with parallel > 1 each job sees one of them.
        say: receives one line at each start and end.
    """
    logs.mkdir(parents=True, exist_ok=True)
    states = {job.name: "done" for job in jobs if job.is_done()}
    waiting = [job for job in jobs if job.name not in states]
    for name in states:
        say(f"{name}: already done")
    running: list[_Running] = []
    try:
        while waiting or running:
            _start_ready(waiting, running, states, logs, parallel, gpus, say)
            time.sleep(POLL_SECONDS)
            _show(running)
            for item in [item for item in running if item.process.poll() is not None]:
                running.remove(item)
                states[item.job.name] = _finish(item, say)
    finally:
        for item in running:
            item.process.terminate()
        for item in running:
            item.process.wait()
    return states


def _start_ready(
    waiting: list[Job],
    running: list[_Running],
    states: dict[str, str],
    logs: Path,
    parallel: int,
    gpus: int,
    say: Callable[[str], None],
) -> None:
    for job in list(waiting):
        missing = [need for need in job.needs if states.get(need) in ("failed", "skipped")]
        if missing:
            waiting.remove(job)
            states[job.name] = "skipped"
            say(f"{job.name}: skipped, {missing[0]} failed")
        elif len(running) < parallel and all(states.get(need) == "done" for need in job.needs):
            waiting.remove(job)
            used = {item.slot for item in running}
            slot = next(number for number in range(parallel) if number not in used)
            running.append(_start(job, logs, slot, gpus if parallel > 1 else 0))
            say(f"{job.name}: started")


def _start(job: Job, logs: Path, slot: int, gpus: int) -> _Running:
    log = logs / f"{job.name.replace('/', '__')}.log"
    environment = dict(os.environ)
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = str(slot % gpus)
    with log.open("ab") as file:
        process = subprocess.Popen(
            job.command, stdout=file, stderr=subprocess.STDOUT, env=environment
        )
    return _Running(job, process, log, slot)


def _finish(item: _Running, say: Callable[[str], None]) -> str:
    seconds = time.monotonic() - item.started
    if item.process.returncode == 0:
        if item.job.leaves_mark:
            item.job.mark.write_text(" ".join(item.job.command) + "\n", encoding="utf-8")
        say(f"{item.job.name}: done in {seconds:.0f} s")
        return "done"
    say(f"{item.job.name}: FAILED after {seconds:.0f} s: {last_line(item.log)} (see {item.log})")
    return "failed"


def last_line(log: Path) -> str:
    """The last non-empty line of a log file; a progress bar's latest state counts as a line."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    return lines[-1] if lines else "no output"


def _show(running: Sequence[_Running]) -> None:
    """Repaints one line with what the first running command shows, on a terminal."""
    if running and sys.stderr.isatty():
        width = os.get_terminal_size(sys.stderr.fileno()).columns - 1
        text = f"{running[0].job.name}: {last_line(running[0].log)}"[:width]
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
