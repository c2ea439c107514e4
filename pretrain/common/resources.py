"""The processor cores that this process may use, and the loader processes for them."""

from __future__ import annotations

import multiprocessing.queues
import os
import signal
import threading
import traceback
from typing import Any


def cores() -> int:
    """CPU cores that this process may run on, 1 or more."""
    has = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has else os.cpu_count() or 1


def usable_workers(wanted: int) -> int:
    """Loader processes to start if a config asks for this number: at most one for each core.

    More would wait for each other, and torch warns about them. Results do not depend on it.
    """
    return min(wanted, cores())


def loader_processes(wanted: int) -> dict[str, Any]:
    """The options of torch's DataLoader for its processes: their number, and how each starts."""
    return {"num_workers": usable_workers(wanted), "worker_init_fn": start_worker}


def start_worker(worker_id: int) -> None:
    """Must be called first in a loader's process. The process then ends if a batch cannot be sent,
    and does not end for a signal that asks the command to end.

    Ctrl-C and a launcher's SIGTERM reach all processes of a command, but the main process needs
    batches until it has saved at its next step.

    If a batch cannot be sent, multiprocessing's queue would only print the error and drop it, and
    the training would wait for the batch forever. If /dev/shm is full, the process ends by the
    signal SIGBUS. The same happens if the system finds no page for memory that it has already
    granted. `pretrain.common.errors.failure` has one line for both.
    """
    signal.signal(signal.SIGBUS, signal.SIG_DFL)  # torch's handler would print another line
    for number in (signal.SIGINT, signal.SIGUSR1):
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
