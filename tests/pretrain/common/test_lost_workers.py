"""The death of a loader's process interrupts only who waits for its batches."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time

import pytest
from torch.utils.data import DataLoader, Dataset

from pretrain.common.errors import failure
from pretrain.common.lost_workers import Batches


class Numbers(Dataset[int]):
    """Items 0 to 199; the process that reads the one called `dies_at` kills itself."""

    def __init__(self, dies_at: int = -1) -> None:
        self._dies_at = dies_at

    def __len__(self) -> int:
        return 200

    def __getitem__(self, index: int) -> int:
        if index == self._dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


def loader(numbers: Numbers, workers: int = 1, keep: bool = False) -> Batches:
    return Batches(DataLoader(numbers, batch_size=10, num_workers=workers, persistent_workers=keep))


def kill_workers() -> None:
    """Returns some time after the system has told this process of the deaths."""
    for child in multiprocessing.active_children():
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
    time.sleep(0.3)


@pytest.mark.parametrize("workers, keep", [(0, False), (2, False), (2, True)])
def test_the_batches_are_those_of_the_loader(workers: int, keep: bool) -> None:
    batches = loader(Numbers(), workers, keep)
    assert len(batches) == 20
    for _ in range(2):
        assert [batch.tolist() for batch in batches] == [
            list(range(begin, begin + 10)) for begin in range(0, 200, 10)
        ]


@pytest.mark.parametrize("keep", [False, True])
def test_a_death_interrupts_nothing_but_the_next_batch(
    keep: bool, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """In particular no log line: the logging library prints an error in it and continues."""

    class Telling(logging.StreamHandler):  # type: ignore[type-arg]
        def format(self, record: logging.LogRecord) -> str:
            kill_workers()
            return super().format(record)

    log = logging.getLogger("test_lost_workers")
    log.addHandler(handler := Telling())
    try:
        batches = iter(loader(Numbers(), keep=keep))
        next(batches)
        log.warning("between two batches")
    finally:
        log.removeHandler(handler)
    assert capsys.readouterr().err == "between two batches\n"
    with pytest.raises(RuntimeError, match="is killed by signal: Killed") as caught:
        next(batches)
    assert failure(caught.value).startswith("a process that loads images died (is killed")
    assert sum(1 for _ in loader(Numbers())) == 20  # the news is not told twice


def test_a_death_while_a_batch_is_waited_for_is_told_at_once() -> None:
    batches = iter(loader(Numbers(dies_at=150)))
    next(batches)
    began = time.monotonic()
    # A batch that was sent before can break off first, which is one of the other errors.
    with pytest.raises((RuntimeError, ConnectionError, EOFError)) as caught:
        list(batches)
    assert failure(caught.value).startswith("a process that loads images died (")
    assert time.monotonic() - began < 4  # torch itself looks every 5 seconds
    time.sleep(0.3)  # if the batch broke off first, the news comes now: not in the next test


def test_a_death_after_the_last_batch_does_not_matter() -> None:
    batches = loader(Numbers(), keep=True)
    assert sum(1 for _ in batches) == 20
    kill_workers()
    assert sum(1 for _ in loader(Numbers())) == 20
