"""The processor cores that this process may use, and loader processes for them."""

from __future__ import annotations

import os


def cores() -> int:
    """CPU cores that this process may run on, 1 or more."""
    has = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has else os.cpu_count() or 1


def usable_workers(wanted: int) -> int:
    """Loader processes to start if a config asks for this number: at most one for each core.

    More would wait for each other, and torch warns of them. Numbers do not depend on it.
    """
    return min(wanted, cores())
