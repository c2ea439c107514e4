"""Jobs as processes of this machine, each on its own GPUs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pretrain.common.errors import InputError
from transfer.suite.plan import Job


class LocalLauncher:
    """See `transfer.suite.launch.Launcher`.

    Slot s of jobs that take G GPUs sees GPUs s * G to s * G + G - 1 of `gpus`, and wraps around
    where there are more slots than GPUs, which then are shared.
    """

    def __init__(
        self, *, gpus: Sequence[str], gpus_per_job: int = 1, slots: int | None = None
    ) -> None:
        """
        Args:
            gpus: names of the GPUs as CUDA_VISIBLE_DEVICES takes them; empty: the CPU.
            slots: commands at once; None: as many as the GPUs serve, or one.

        Raises:
            InputError: fewer GPUs than a job takes, or no slot.
        """
        if gpus_per_job < 1 or (gpus_per_job > 1 and gpus_per_job > len(gpus)):
            raise InputError(f"--gpus-per-job {gpus_per_job}: this machine has {len(gpus)} GPUs")
        self.groups = [
            gpus[first : first + gpus_per_job]
            for first in range(0, len(gpus) - gpus_per_job + 1, gpus_per_job)
        ]
        self.slots = slots if slots is not None else max(1, len(self.groups))
        if self.slots < 1:
            raise InputError(f"--jobs {slots}: give 1 or more")

    def start(self, job: Job, log: Path, slot: int) -> LocalProcess:
        """Starts the command in a process group of its own: a terminal's Ctrl-C is ours to pass."""
        environment = dict(os.environ)
        if self.groups:
            group = self.groups[slot % len(self.groups)]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(group)
        return LocalProcess(job.command, log, environment)


class LocalProcess:
    """See `transfer.suite.launch.Process`."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: dict[str, str],
        ignored: Sequence[signal.Signals] = (),
    ) -> None:
        """`ignored`: signals that the command does not hear."""
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                preexec_fn=(lambda: _ignore(ignored)) if ignored else None,
                close_fds=False,  # the suite's lock is inherited, see locks.one_writer
            )

    @property
    def pid(self) -> int:
        """Of the command itself."""
        return self.process.pid

    def poll(self) -> int | None:
        """Its exit status, or None."""
        return self.process.poll()

    def state(self) -> str:
        """It runs from the start."""
        return "running"

    def interrupt(self) -> None:
        """As Ctrl-C would, to the command alone: it stops its own workers."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def stop(self, grace_seconds: float) -> None:
        """Interrupts it, and kills what is left after a while."""
        try:
            self.interrupt()
            self.process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """The command with all that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _ignore(numbers: Sequence[signal.Signals]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in named.split(",")] if named else []
    count = torch.cuda.device_count()
    return names if len(names) == count else [str(number) for number in range(count)]
