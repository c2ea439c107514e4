"""Jobs of a suite as SLURM jobs, submitted through submitit (extra `slurm`).

A SLURM job runs one command. When it is preempted or its time ends, the command is stopped, the job
is requeued, and the same command continues from its checkpoint (`--resume`). With several nodes,
each node runs torchrun, and all connect to the first one. Jobs continue to run if the suite is
killed. The next suite waits for them instead of starting them again, because two commands in one
folder would damage each other's files.

The folder of the logs must be on a file system that the nodes share.
"""

from __future__ import annotations

import getpass
import os
import signal
import subprocess
import time
from ast import literal_eval
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pretrain.common.errors import InputError
from transfer.suite.launch import GRACE_SECONDS
from transfer.suite.local import LocalProcess
from transfer.suite.plan import Job

MAX_TIMEOUTS = 50  # most requeues after the time limit; requeues after preemption do not count
QUEUE_SECONDS = 10.0  # between two queries of the queue
LOST_SECONDS = 60.0  # out of the queue without a result: the job was cancelled or its node failed
UNLIMITED = 10_000
# submitit's names of the options that every cluster has; other options are passed to SLURM.
SHARED = {"time": "timeout_min", "gpus_per_node": "gpus_per_node", "cpus_per_task": "cpus_per_task"}


@dataclass
class Command:
    """Is what a SLURM job runs; submitit pickles it, and again when the job is requeued."""

    words: tuple[str, ...]
    log: str
    nodes: int = 1
    gpus: int = 1
    process: LocalProcess | None = field(default=None, repr=False)

    def __call__(self) -> int:
        """Runs the command to its end on this node; returns its exit status."""
        import submitit

        place = submitit.JobEnvironment()
        words, log = self.words, Path(self.log)
        if self.nodes > 1:
            head = place.hostnames[0]
            words = torchrun(words, self.nodes, self.gpus, place.node, head, place.job_id)
            if place.node > 0:
                log = log.with_suffix(f".node{place.node}.log")
        # SLURM signals every process of a job, but only `checkpoint` may stop the command.
        ignored = (signal.SIGUSR1, signal.SIGUSR2)
        self.process = LocalProcess(words, log, dict(os.environ), ignored)
        # Not wait(): during wait(), a signal handler could not wait for the process.
        while (status := self.process.poll()) is None:
            time.sleep(0.5)
        return status

    def checkpoint(self) -> Any:
        """Stops the command and returns what to run next. submitit calls it on preemption."""
        import submitit

        if self.process is not None:
            self.process.stop(GRACE_SECONDS)
        return submitit.helpers.DelayedSubmission(replace(self, process=None))


def torchrun(
    words: tuple[str, ...], nodes: int, processes: int, node: int, head: str, job_id: str
) -> tuple[str, ...]:
    """Returns the command of node `node` of `nodes`: torchrun, connected at the host `head`.

    The port depends on the job's number, so two jobs on one node use different ports. The static
    rendezvous keeps rank 0, which prints, on node 0; c10d's would choose a random node.
    """
    python, *rest = words
    number = int("".join(filter(str.isdigit, job_id)) or 0)
    meeting = f"{head}:{20000 + number % 20000}"
    options = ["--nnodes", str(nodes), "--nproc-per-node", str(processes), "--rdzv-id", job_id]
    options += ["--rdzv-backend", "static", "--rdzv-endpoint", meeting, "--node-rank", str(node)]
    return (python, "-m", "torch.distributed.run", *options, *rest)


class SlurmLauncher:
    """Starts jobs on SLURM; see `transfer.suite.launch.Launcher`."""

    def __init__(
        self,
        folder: Path,
        *,
        options: Mapping[str, str],
        slots: int | None = None,
        cluster: str = "slurm",
    ) -> None:
        """
        Args:
            folder: folder of submitit's files, shared by the nodes.
            options: options of sbatch with submitit's names: partition, time (minutes),
                constraint, account, qos, mem, cpus_per_task, gpus_per_node, ...
            slots: jobs in the queue at once; None: all.
            cluster: "slurm", or submitit's "local" for tests.

        Raises:
            InputError: submitit or SLURM is missing, an option is unknown, or squeue does not say
                whether jobs of an earlier suite are in the queue.
        """
        try:
            import submitit
        except ImportError:
            raise InputError("--launcher slurm needs submitit: pip install submitit") from None
        if slots is not None and slots < 1:
            raise InputError(f"--jobs {slots}: give 1 or more")
        self.slots, self.cluster, self.queue = slots or UNLIMITED, cluster, Queue()
        self.options = {key: _value(text) for key, text in options.items()}
        try:
            self.executor = submitit.AutoExecutor(
                folder=folder / "%j", cluster=cluster, slurm_max_num_timeout=MAX_TIMEOUTS
            )
            self.executor.update_parameters(**self._parameters("check", 1, 0))
        except RuntimeError as error:
            raise InputError(f"--launcher slurm: {_first_line(error)}") from None
        except (NameError, TypeError, ValueError) as error:
            raise InputError(f"--slurm: {' '.join(str(error).split())}") from None
        self._left = self._left_behind(folder) if cluster == "slurm" else {}

    def start(self, job: Job, log: Path, slot: int) -> SlurmProcess:
        """Submits the job, or waits for the one that a killed suite has left in the queue.

        If SLURM refuses the job, it has failed, and its log has SLURM's message.
        """
        import submitit

        several = job.kind != "convert"
        nodes, gpus = (job.nodes, job.gpus) if several else (1, 0)
        command = Command(job.command, str(log.resolve()), nodes, gpus)
        process = SlurmProcess(log, self.queue, self.cluster)
        left = self._left.pop(command.log, None) or self._of_same_trials(command.log)
        if left is not None:
            process.job = left
            if left.submission().function.words != command.words:
                process.fail(
                    f"SLURM job {left.job_id} of an earlier suite still runs a different command "
                    f"for this job; wait for it, or run: scancel {left.job_id}"
                )
            return process
        self.executor.update_parameters(**self._parameters(job.name, nodes, gpus))
        try:
            process.job = self.executor.submit(command)
        except submitit.core.utils.FailedJobError as error:
            process.fail(str(error))
        return process

    def _of_same_trials(self, log: str) -> Any | None:
        """Returns an earlier job for all trials if `log` is for one trial, or vice versa."""
        mine = _name_of(log)
        for other, job in self._left.items():
            theirs = _name_of(other)
            if mine.startswith(theirs) or theirs.startswith(mine):
                return job
        return None

    def _left_behind(self, folder: Path) -> dict[str, Any]:
        """Returns submitit's jobs of an earlier suite that are still queued, by their logs."""
        import submitit

        if not folder.is_dir():
            return {}
        states = self.queue.states()
        if not self.queue.answered:
            raise InputError(
                "--launcher slurm: squeue does not answer, but jobs of an earlier run may still be "
                f"in the queue (see {folder}); try again later"
            )
        found: dict[str, Any] = {}
        for number, state in states.items():
            if (folder / number).is_dir() and state != "COMPLETING":  # which has already ended
                command: Any = submitit.SlurmJob(folder / "%j", number).submission().function
                tasks = range(command.nodes)
                found[command.log] = submitit.SlurmJob(folder / "%j", number, tasks)
        return found

    def _parameters(self, name: str, nodes: int, gpus: int) -> dict[str, Any]:
        given = {SHARED.get(key, f"slurm_{key}"): value for key, value in self.options.items()}
        common = {"name": name.replace("/", "_"), "nodes": nodes, "tasks_per_node": 1}
        return {**common, "gpus_per_node": gpus, **given}


class SlurmProcess:
    """Is a job on SLURM; see `transfer.suite.launch.Process`."""

    job: Any  # submitit's job

    def __init__(self, log: Path, queue: Queue, cluster: str) -> None:
        self.log, self.queue, self.cluster = log, queue, cluster
        self.status: int | None = None
        self.seen = time.monotonic()  # in the queue

    def poll(self) -> int | None:
        """Returns the exit status; 1, with a line in the log, for a job that SLURM has lost."""
        if self.status is None:
            if self._has_result() or (self.cluster == "local" and self.job.done()):
                self.status = self._result()
            elif self.cluster != "local":
                self._look_in_queue()
        return self.status

    def state(self) -> str:
        """Returns SLURM's state of the job: pending, running, completing, ..."""
        if self.status is not None:
            return "ended"
        return self.queue.states().get(self.job.job_id, "running").lower()

    def interrupt(self) -> None:
        """Cancels the job; the next run of the suite submits its command again."""
        if self.status is None:
            self.job.cancel(check=False)
            self.status = 130

    def kill(self) -> None:
        """Does nothing: SLURM itself kills a cancelled job (KillWait)."""

    def _has_result(self) -> bool:
        return self.job.task(0).paths.result_pickle.exists()

    def _result(self) -> int:
        try:
            return int(self.job.task(0).result())
        except Exception as error:  # any error of the job, or submitit's message about its end
            self.fail(str(error))
            return 1

    def _look_in_queue(self) -> None:
        now = time.monotonic()
        if self.job.job_id in self.queue.states():
            self.seen = now
        elif now - self.seen > LOST_SECONDS:
            self.fail(
                f"SLURM job {self.job.job_id} left the queue without a result: cancelled, out of "
                f"memory, or its node failed; see {self.job.paths.folder}"
            )

    def fail(self, reason: str) -> None:
        """Ends the job with status 1 and writes the reason as the last line of its log."""
        self.status = 1
        with self.log.open("a", encoding="utf-8") as file:
            file.write(" ".join(reason.split()) + "\n")


class Queue:
    """Knows the states of this user's SLURM jobs, which are queried for all at once and not too
    often.
    """

    def __init__(self) -> None:
        self._states: dict[str, str] = {}
        self.answered = False  # whether squeue answered the last query
        self._looked = float("-inf")

    def states(self) -> dict[str, str]:
        """Returns the states by job id; the previous states if squeue does not answer."""
        if time.monotonic() - self._looked > QUEUE_SECONDS:
            self._looked = time.monotonic()
            command = ["squeue", "--noheader", "--format=%i %T", "--user", getpass.getuser()]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=60)
                self.answered = done.returncode == 0
            except (OSError, subprocess.TimeoutExpired):
                self.answered = False
            if self.answered:
                self._states = dict(line.split() for line in done.stdout.splitlines())
        return self._states


def parse_options(items: list[str]) -> dict[str, str]:
    """Parses KEY=VALUE texts to {key: value}; InputError for anything else."""
    options = dict(item.split("=", 1) for item in items if "=" in item)
    if len(options) != len(items):
        raise InputError(f"--slurm needs KEY=VALUE with different keys, got {' '.join(items)}")
    return options


def _value(text: str) -> Any:
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _name_of(log: str) -> str:
    """Returns the name of a log's job, with the ending that `launch` gives each part of a name."""
    return f"{log.removesuffix('.log')}__"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
