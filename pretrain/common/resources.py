"""The processor cores that this process may use, and loader processes for them."""

from __future__ import annotations

import multiprocessing.queues
import os
import signal
import traceback
from typing import Any


def cores() -> int:
    """CPU cores that this process may run on, 1 or more."""
    has = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has else os.cpu_count() or 1


def usable_workers(wanted: int) -> int:
    """Loader processes to start if a config asks for this number: at most one for each core.

    More would wait for each other, and torch warns of them. Numbers do not depend on it.
    """
    return min(wanted, cores())


def loader_processes(wanted: int) -> dict[str, Any]:
    """The options of torch's DataLoader for its processes: how many, and how each begins."""
    return {"num_workers": usable_workers(wanted), "worker_init_fn": start_worker}


def start_worker(worker_id: int) -> None:
    """To be called first in a loader's process: lets it end if a batch cannot be sent.

    multiprocessing's queue only prints the error and drops the batch, for which the training would
    wait forever. With a full /dev/shm the process ends by the signal SIGBUS, as it does where the
    system finds no page for memory that was granted already: `pretrain.common.errors.failure` has
    one line for both.
    """
    signal.signal(signal.SIGBUS, signal.SIG_DFL)  # torch's handler adds a line of its own
    setattr(multiprocessing.queues.Queue, "_on_queue_feeder_error", staticmethod(_end))


def _end(error: Exception, batch: object) -> None:
    if "shared memory" in str(error) or "No space left" in str(error):
        signal.raise_signal(signal.SIGBUS)
    traceback.print_exception(error)
    os._exit(1)
