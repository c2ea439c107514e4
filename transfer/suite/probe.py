"""Measures a command's speed on this machine by running it for a short time in a temporary folder.

The real command line runs on the real data, with the run's batch, images, decoding and
augmentation. Its progress.json gives seconds per unit; its memory is measured too. The run is
stopped as soon as its rate is steady.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pretrain.common.progress import PERIOD_VARIABLE, Progress, read_progress
from pretrain.common.stop_signals import heard, held_back
from transfer.suite.local import LocalProcess
from transfer.suite.log_tail import last_line

POLL_SECONDS = 0.2
STOP_SECONDS = 5.0
LEAST_UPDATES = 3  # a progress bar's rate is used only after so many updates
# Updates before a rate can be steady; largest relative difference between the rate of the later
# half and the rate of all updates
STEADY_UPDATES, STEADY = 6, 0.05
# Share of the requested seconds before a steady rate ends a probe: batches that workers have
# prepared during a slow first step arrive faster than later ones.
LEAST_SHARE = 1 / 3
PATIENCE_SECONDS = 180.0  # for a slow start or step, in addition to the requested seconds


@dataclass
class Stage:
    """Describes a progress bar of `total` units, seen from `begin` (`first` done) to `last`
    (`done`).
    """

    name: str
    total: int
    begin: float
    first: int
    last: float
    done: int
    updates: int = 0
    seen: list[tuple[float, int]] = field(default_factory=list)  # (when, units done)

    def note(self, now: float, done: int) -> None:
        """Notes an update of the bar."""
        if self.updates == 0 and self.first == 0:
            # The first units include work that is done once: choosing kernels, starting workers.
            self.begin, self.first = now, done
        self.last, self.done = now, done
        self.seen.append((now, done))
        self.updates += 1

    def is_steady(self) -> bool:
        """Returns whether the later half of the updates has the same rate as all updates."""
        if self.updates < STEADY_UPDATES or self.unit_seconds is None:
            return False
        when, done = self.seen[len(self.seen) // 2]
        late = (self.last - when) / (self.done - done)
        return abs(late / self.unit_seconds - 1) <= STEADY

    @property
    def left_seconds(self) -> float:
        """Seconds until the end of the bar, at its rate."""
        return (self.total - self.done) * (self.unit_seconds or 0.0)

    @property
    def unit_seconds(self) -> float | None:
        """Seconds per unit between the first and the last update; None before there are two."""
        if self.done <= self.first:
            return None
        return (self.last - self.begin) / (self.done - self.first)


@dataclass
class Measured:
    """Is a probe's result. `failure` is the command's last line if it failed."""

    stages: list[Stage] = field(default_factory=list)
    start_seconds: float = 0.0  # before the first timed stage
    seconds: float | None = None  # the complete command took them; None: it had not ended yet
    memory_bytes: int = 0  # peak memory of the GPUs, or of the host if it has none
    on_gpu: bool = False
    failure: str = ""


def probe(command: Sequence[str], stage: str = "", seconds: float = 30) -> Measured:
    """Runs `command` for about `seconds` after `stage` begins, and stops it.

    It stops earlier if the rate is steady and the stage would not end within the probe.

    Args:
        command: the value of its --output is replaced by a temporary folder.
        stage: the progress bar to time; the probe waits for earlier ones (such as a scan of the
            images). "": any bar.
    """
    with heard(), tempfile.TemporaryDirectory(prefix="mscn_probe_") as folder:
        words = list(command)
        words[words.index("--output") + 1] = str(Path(folder) / "run")
        log = Path(folder) / "log"
        memory = Memory()
        # The state must change several times within the probe.
        process = None
        try:
            with held_back():
                environment = {**os.environ, PERIOD_VARIABLE: str(POLL_SECONDS)}
                process = LocalProcess(words, log, environment)
            return _watch(process, memory, Path(folder), stage, seconds)
        finally:
            if process is not None:
                process.stop(STOP_SECONDS)


def _watch(
    process: LocalProcess, memory: Memory, folder: Path, stage: str, seconds: float
) -> Measured:
    """Watches the command until the probe ends; `folder` has its log, and its output in `run`."""
    result, log = Measured(), folder / "log"
    start = time.monotonic()
    while True:
        status, now = process.poll(), time.monotonic()
        bar = read_progress(folder / "run")
        if bar is not None and bar.total and stage in ("", bar.stage):
            _note(result, bar, now - start)
        memory.look(process.pid)
        if status is not None:
            result.seconds = now - start if status == 0 else None
            result.failure = "" if status == 0 else last_line(log)
            break
        since = now - start - result.start_seconds
        if _is_enough(result, since, seconds) or now - start > PATIENCE_SECONDS + seconds:
            break
        time.sleep(POLL_SECONDS)
    result.memory_bytes, result.on_gpu = memory.peak, memory.on_gpu
    return result


def _is_enough(result: Measured, since: float, seconds: float) -> bool:
    """Returns whether the current stage's rate is known, `since` seconds after the first began."""
    if not result.stages or result.stages[-1].updates < LEAST_UPDATES:
        return False
    stage = result.stages[-1]
    steady = since > LEAST_SHARE * seconds and stage.is_steady()
    return since > seconds or (steady and stage.left_seconds > seconds - since)


def _note(result: Measured, bar: Progress, now: float) -> None:
    current = result.stages[-1] if result.stages else None
    if current is None or (current.name, current.total) != (bar.stage, bar.total):
        if bar.done == 0 and current is None:
            result.start_seconds = now
        elif current is None:
            result.start_seconds = max(0.0, now - bar.elapsed)
        result.stages.append(Stage(bar.stage, bar.total, now, bar.done, now, bar.done))
    elif bar.done > current.done:
        current.note(now, bar.done)


class Memory:
    """Measures the peak memory since the start.

    On GPUs it is the increase over the memory in use before, which includes other programs that
    start on the same GPU. Without GPUs it is the host memory of the process itself.
    """

    def __init__(self) -> None:
        import torch

        self.on_gpu = torch.cuda.is_available()
        self.peak = 0
        self._before = self._used() if self.on_gpu else []

    def look(self, pid: int) -> None:
        """Takes a sample; `pid` is the command's."""
        if self.on_gpu:
            used = [now - before for now, before in zip(self._used(), self._before)]
            self.peak = max(self.peak, *used)
        else:
            self.peak = max(self.peak, _resident_peak(pid))

    @staticmethod
    def _used() -> list[int]:
        import torch

        pairs = [torch.cuda.mem_get_info(number) for number in range(torch.cuda.device_count())]
        return [total - free for free, total in pairs]


def _resident_peak(pid: int) -> int:
    """Returns bytes; 0 if the system does not say (no /proc), or if the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    kilobytes = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(kilobytes[0]) if kilobytes else 0
