"""Runs the jobs of a plan: starts the jobs that are ready and watches them until all have ended.

A launcher starts commands as local processes (`local.py`) or as SLURM jobs (`slurm.py`). A failed
job does not stop the others; the jobs that need it are skipped. An interrupt (Ctrl-C, SIGTERM)
stops the running commands and is raised again. The same suite command continues later, because
every command is started with `--resume` and writes checkpoints.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pretrain.common.errors import InputError
from pretrain.common.progress import forget_progress
from pretrain.common.run_files import RECORD
from pretrain.common.stop_signals import held_back
from transfer.results.metrics import headline_texts
from transfer.results.record import read_record
from transfer.suite.log_tail import last_line
from transfer.suite.plan import Job

POLL_SECONDS = 0.5
GRACE_SECONDS = 30.0  # time for a command to stop by itself, as SLURM's KillWait

DONE, FAILED, SKIPPED = "done", "failed", "skipped"


class Process(Protocol):
    """Is a command that was started."""

    def poll(self) -> int | None:
        """Returns the exit status, or None while the command runs (or waits in a queue)."""
        ...

    def state(self) -> str:
        """Returns "running", or the state that keeps the command from running."""
        ...

    def interrupt(self) -> None:
        """Asks the command to stop; its checkpoints are kept."""
        ...

    def kill(self) -> None:
        """Stops the command immediately."""
        ...


class Launcher(Protocol):
    """Starts commands; `slots` is the largest number of commands at once."""

    slots: int

    def start(self, job: Job, log: Path, slot: int) -> Process:
        """Starts a job's command, which appends its output to `log`; slots in use are distinct."""
        ...


@dataclass
class Running:
    """Is a started job."""

    job: Job
    process: Process
    log: Path
    slot: int
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since its start, including the time in a queue."""
        return time.monotonic() - self.started


# Arguments: the event ("started", "done", "failed", "skipped"), the job, a detail
Tell = Callable[[str, Job, str], None]
Show = Callable[[Sequence[Running], int], None]  # running jobs, number of waiting jobs


def run_jobs(
    jobs: Sequence[Job], launcher: Launcher, *, logs: Path, tell: Tell, show: Show
) -> dict[str, str]:
    """Runs the jobs that are not done; returns each job's state: done, skipped or failed.

    Args:
        logs: folder for one log file per job.
        tell: called once for each event; show: called with the running jobs several times a second.
    """
    logs.mkdir(parents=True, exist_ok=True)
    states: dict[str, str] = {}
    for job in jobs:
        # Weights that are made again may differ from those of a record: its command compares them.
        if job.is_done() and all(states.get(need) == DONE for need in job.needs):
            states[job.name] = DONE
            tell(DONE, job, "already done")
    waiting = [job for job in jobs if job.name not in states]
    running: list[Running] = []
    try:
        while waiting or running:
            _start_ready(waiting, running, states, launcher, logs, tell)
            show(running, len(waiting))
            time.sleep(POLL_SECONDS)
            for item in list(running):
                status = item.process.poll()
                if status is not None:
                    running.remove(item)
                    states[item.job.name] = _finish(item, status, tell)
    except BaseException:
        stop(running)
        raise
    return states


def stop(running: Sequence[Running]) -> None:
    """Asks all jobs to stop, waits, and kills the rest; a second interrupt kills immediately."""
    for item in running:
        item.process.interrupt()
    deadline = time.monotonic() + GRACE_SECONDS
    try:
        while any(item.process.poll() is None for item in running) and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        for item in running:
            item.process.kill()  # also the child processes that a finished command has left


def _start_ready(
    waiting: list[Job],
    running: list[Running],
    states: dict[str, str],
    launcher: Launcher,
    logs: Path,
    tell: Tell,
) -> None:
    for job in list(waiting):
        missing = [need for need in job.needs if states.get(need) in (FAILED, SKIPPED)]
        if missing:
            waiting.remove(job)
            states[job.name] = SKIPPED
            tell(SKIPPED, job, f"{missing[0]} {states[missing[0]]}")
        elif len(running) < launcher.slots and all(states.get(need) == DONE for need in job.needs):
            waiting.remove(job)
            used = {item.slot for item in running}
            slot = next(number for number in range(launcher.slots) if number not in used)
            log = logs / f"{job.name.replace('/', '__')}.log"
            try:
                log.touch()
                forget_progress(job.progress_folder)
                with held_back():
                    running.append(Running(job, launcher.start(job, log, slot), log, slot))
            except OSError as error:  # no space, no right to write, no memory
                states[job.name] = FAILED
                tell(FAILED, job, f"it could not be started: {error}")
            else:
                tell("started", job, str(log))


def _metrics(job: Job) -> list[str]:
    """Returns the headline metrics of the job's last record, as texts."""
    path = job.results[-1]
    if path.name != RECORD:
        return []
    try:
        record = read_record(path)
    except InputError as error:  # the report has the same message
        return [str(error)]
    return headline_texts(record["task"], record["metrics"])


def _finish(item: Running, status: int, tell: Tell) -> str:
    job, took = item.job, f"{item.seconds:.0f} s"
    if status == 0 and job.leaves_mark:
        with suppress(OSError):  # reported below: without its mark the job is not done
            job.mark.write_text(" ".join(job.command) + "\n", encoding="utf-8")
    if status == 0 and job.is_done():
        tell(DONE, job, ", ".join([f"in {took}", *_metrics(job)]))
        return DONE
    reason = last_line(item.log) if status else "it ended without an error, but wrote no result"
    if status < 0:  # it could not log this itself; the kernel sends KILL if memory is full
        memory = ", perhaps because the host's memory is full" if -status == signal.SIGKILL else ""
        name = f"signal {-status} ({signal.strsignal(-status)})"
        reason = f"ended by {name}{memory}; last line of its log: {reason}"
    tell(FAILED, job, f"after {took}: {reason} (see {item.log})")
    return FAILED
