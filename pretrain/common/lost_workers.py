"""A loader's process that dies is an error where its batches are waited for, and nowhere else.

torch hears of the death by the signal SIGCHLD, and its handler raises an error wherever the program
is at that moment. In a log line the logging library prints it as a traceback, and the run continues
until the batch is missing. Code that expects any error of a damaged file reports a damaged file. So
the news is kept here until the command waits for a batch, which it cannot get any more.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import DataLoader

_END = object()


class Batches:
    """Gives the batches of a loader, as often as they are iterated over.

    Raises:
        RuntimeError: a process of a loader died (`pretrain.common.errors.failure` has its line).
        ConnectionError, EOFError: the same, noticed by a batch that broke off.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        with _news.kept():
            with _news.raised():
                batches = iter(self._loader)  # torch sets its handler here
            _news.take_over()
            while True:
                with _news.raised():
                    batch = next(batches, _END)
                if batch is _END:
                    return
                yield batch


class _News:
    """The handler of SIGCHLD: torch's, whose error it keeps until somebody waits for a batch."""

    def __init__(self) -> None:
        self._error: RuntimeError | None = None
        self._open = 0  # iterations that have not ended: nobody else needs the news
        self._waits = False
        self._usual: Callable[..., Any] | None = None

    def take_over(self) -> None:
        """Replaces torch's handler if it is set; other threads than the main one cannot set any."""
        usual = signal.getsignal(signal.SIGCHLD)
        main = threading.current_thread() is threading.main_thread()
        if main and callable(usual) and usual is not self:
            self._usual = usual
            signal.signal(signal.SIGCHLD, self)

    def __call__(self, number: int, frame: Any) -> None:
        try:
            if self._usual is not None:
                self._usual(number, frame)
        except RuntimeError as error:
            self._error = error if self._open else None
        self._tell()

    def _tell(self) -> None:
        if self._error is not None and self._waits:
            raise self._error

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Inside, somebody iterates over a loader."""
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self._error = None

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Inside, a batch is waited for: the error is raised at once. If the process died while it
        sent a batch, the rest of that batch would be waited for without an end."""
        self._waits = True
        try:
            self._tell()  # it may have died before
            yield
        except RuntimeError:
            self._error = None
            raise
        finally:
            self._waits = False


_news = _News()
