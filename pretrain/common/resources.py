"""The processor cores that this process may use, and the loader processes for them."""

from __future__ import annotations

import math
import multiprocessing.queues
import os
import signal
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

CGROUP, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cores() -> int:
    """Returns CPU cores that this process may use, 1 or more: those it may run on, and no more than
    the share of their time that a container or a cluster's job is given (its cgroup).
    """
    has = hasattr(os, "sched_getaffinity")
    allowed = len(os.sched_getaffinity(0)) if has else os.cpu_count() or 1
    share = _cgroup_share()
    return allowed if share is None else max(1, min(allowed, math.ceil(share)))


def _cgroup_share() -> float | None:
    """Returns the cores' time that the cgroups of this process are given; None: there is no limit.

    A process is in a group inside of others, each of which may have a limit; of version 2, and of
    version 1 as a container shows it.
    """
    limits = []
    with suppress(OSError, ValueError):
        for line in OWN_CGROUP.read_text().splitlines():
            number, controllers, inside = line.split(":", 2)
            if number == "0" and not controllers:
                group = CGROUP / inside.strip("/")
                limits += [place / "cpu.max" for place in (group, *group.parents)]
    shares = [share for path in limits if (share := _quota(path)) is not None]
    with suppress(OSError, ValueError):
        old = CGROUP / "cpu"
        quota = int((old / "cpu.cfs_quota_us").read_text())
        if quota > 0:
            shares.append(quota / int((old / "cpu.cfs_period_us").read_text()))
    return min(shares, default=None)


def _quota(path: Path) -> float | None:
    """Of a file such as "150000 100000": microseconds of one period; "max": no limit."""
    try:
        quota, period = path.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def usable_workers(wanted: int) -> int:
    """Returns how many loader processes to start if a config asks for this number. It is at most
    one for each core that is this process's share, if a launcher has started several processes on
    this machine.

    More would wait for each other, and torch warns about them. Results do not depend on it.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(wanted, max(1, cores() // here))


def loader_processes(wanted: int) -> dict[str, Any]:
    """Returns the options of torch's DataLoader for its processes: their number, and how each
    starts.
    """
    return {"num_workers": usable_workers(wanted), "worker_init_fn": start_worker}


def start_worker(worker_id: int) -> None:
    """Prepares a loader's process; it must be called first there. The process then ends if a batch
    cannot be sent, and does not end for a signal that asks the command to end.

    Ctrl-C, the SIGHUP of a closed terminal and a launcher's SIGTERM reach all processes of a
    command, but the main process needs batches until it has saved at its next step.

    If a batch cannot be sent, multiprocessing's queue would only print the error and drop it, and
    the training would wait for the batch forever. If /dev/shm is full, the process ends by the
    signal SIGBUS. The same happens if the system finds no page for memory that it has already
    granted. `pretrain.common.errors.failure` has one line for both.
    """
    signal.signal(signal.SIGBUS, signal.SIG_DFL)  # torch's handler would print another line
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_for_parent, args=(os.getppid(),), daemon=True).start()
    setattr(multiprocessing.queues.Queue, "_on_queue_feeder_error", staticmethod(_end))


def _end_for_parent(parent: int) -> None:
    """Ends the process at a SIGTERM from its main process, and ignores any other SIGTERM."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _end(error: Exception, batch: object) -> None:
    if "shared memory" in str(error) or "No space left" in str(error):
        signal.raise_signal(signal.SIGBUS)
    traceback.print_exception(error)
    os._exit(1)
