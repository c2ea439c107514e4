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
    """Starts jobs on this machine; see `transfer.suite.launch.Launcher`.

    If a job takes G GPUs, slot s uses the GPUs s * G to s * G + G - 1 of `gpus`. If there are more
    slots than GPUs, the count wraps around and slots share GPUs.
    """

    def __init__(
        self, *, gpus: Sequence[str], gpus_per_job: int = 1, slots: int | None = None
    ) -> None:
        """
        Args:
            gpus: names of the GPUs as in CUDA_VISIBLE_DEVICES; empty: the CPU.
            slots: commands at once; None: as many as the GPUs allow, or one.

        Raises:
            InputError: there are fewer GPUs than a job takes, or no slot.
        """
        if gpus_per_job < 1 or (gpus_per_job > 1 and gpus_per_job > len(gpus)):
            raise InputError(
                f"--gpus-per-job {gpus_per_job}: this machine has {len(gpus)} GPUs; lower it"
            )
        self.groups = [
            gpus[first : first + gpus_per_job]
            for first in range(0, len(gpus) - gpus_per_job + 1, gpus_per_job)
        ]
        self.slots = slots if slots is not None else max(1, len(self.groups))
        if self.slots < 1:
            raise InputError(f"--jobs {slots}: give 1 or more")

    def start(self, job: Job, log: Path, slot: int) -> LocalProcess:
        """Starts the command in its own process group: the suite passes on a terminal's Ctrl-C."""
        environment = dict(os.environ)
        if self.groups:
            group = self.groups[slot % len(self.groups)]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(group)
        return LocalProcess(job.command, log, environment)


class LocalProcess:
    """Is a job's process on this machine; see `transfer.suite.launch.Process`."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: dict[str, str],
        ignored: Sequence[signal.Signals] = (),
    ) -> None:
        """`ignored`: signals that the command ignores."""
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
        """Returns the process id of the command itself."""
        return self.process.pid

    def poll(self) -> int | None:
        """Returns the exit status, or None while the command runs."""
        return self.process.poll()

    def state(self) -> str:
        """Returns "running": a local command never waits."""
        return "running"

    def interrupt(self) -> None:
        """Sends SIGINT only to the command, which stops its workers itself."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)

    def stop(self, grace_seconds: float) -> None:
        """Interrupts the command, and kills its remaining processes after `grace_seconds`."""
        try:
            self.interrupt()
            self.process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """Kills the command and all processes that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _ignore(numbers: Sequence[signal.Signals]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def visible_gpus() -> list[str]:
    """Returns the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in named.split(",")] if named else []
    count = torch.cuda.device_count()
    return names if len(names) == count else [str(number) for number in range(count)]
