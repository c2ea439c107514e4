"""Limits how much a file's pickle may create by calls, in proportion to the file's size.

A pickle of some kilobytes can name a long text once and have it copied a million times. Every
function that copies its arguments asks here first. Real files copy each of their bytes twice at
most (a text to bytes, bytes to an array).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from transfer.checkpoints.readers.refused_content import NotPlain

TIMES = 4  # times the size of the file
BEYOND = 1 << 20  # bytes that small files may have anyway
PER_ITEM = 16  # number of bytes that an item of a container counts as


class _Budget:
    """Counts down `left`, the number of bytes that may still be read."""

    def __init__(self, size: int) -> None:
        self.left = TIMES * size + BEYOND


_budget: ContextVar[_Budget | None] = ContextVar("budget", default=None)


@contextmanager
def budget_for(size: int) -> Iterator[None]:
    """Limits what is made from a file of `size` bytes."""
    token = _budget.set(_Budget(size))
    try:
        yield
    finally:
        _budget.reset(token)


def spend(made: int) -> None:
    """Counts bytes that are about to be made.

    Raises:
        NotPlain: the file asks for more than real files do.
    """
    budget = _budget.get()
    if budget is not None:
        budget.left -= made
        if budget.left < 0:
            raise NotPlain("content that expands to far more than the file's size")
