"""Signals that ask a command to end: Ctrl-C, SIGTERM (a preemption, `kill`), SIGHUP (the terminal
or its connection was closed), and SIGUSR1, which SLURM sends before a time limit
(`--signal=USR1@120`). A signal that is ignored stays ignored: `nohup` ignores SIGHUP.

Inside `heard`, each of them ends the command by `Stopped`. Inside `deferred`, which a training loop
uses, they are only noted (`asked`). Not every process of a run gets the signal. So the processes
tell each other in the exchange of each step, and each calls `agree` in the same step. The loop then
reads `agreed`, saves, and calls `stop`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from pretrain.common.errors import InputError

INTERRUPTED, REQUEUE = 130, 143  # exit status: Ctrl-C; a job script restarts after the second
STOPPED = {INTERRUPTED: signal.SIGINT, REQUEUE: signal.SIGTERM}
IGNORE_SECONDS = 1.0  # a second Ctrl-C within this time is the same request

_deferred = _held = False
_says = b""
_waiting: signal.Signals | None = None  # a signal that `held_back` holds back
_asked: signal.Signals | None = None
_agreed = False
_asked_at = 0.0


class Stopped(KeyboardInterrupt):
    """Says that the command was asked to end by a signal.

    Args:
        text: what was saved; "" to say nothing about it.
    """

    def __init__(self, number: int, text: str = "") -> None:
        super().__init__(*([text] if text else []))
        self.number = signal.Signals(number)

    @property
    def status(self) -> int:
        """Returns the command's exit status."""
        return INTERRUPTED if self.number == signal.SIGINT else REQUEUE


def describe_stop(error: KeyboardInterrupt) -> str:
    """Returns the last line of a command: the signal, and what was saved."""
    number = error.number if isinstance(error, Stopped) else signal.SIGINT
    by = "" if number == signal.SIGINT else f" by {number.name}"
    return f"interrupted{by}{f'; {error}' if error.args else ''}"


@contextmanager
def heard(says: bytes = b"", always: Sequence[signal.Signals] = ()) -> Iterator[None]:
    """Makes the signals raise `Stopped` inside the block, unless something else already handles or
    ignores them: a launcher that stops its jobs in a different way, `nohup`, a shell's background.

    Args:
        says: a line for stderr at each signal.
        always: signals that also count if they are ignored.
    """
    global _says
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    defaults: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
        signal.SIGUSR1: signal.SIG_DFL,
    }
    before = {number: signal.getsignal(number) for number in defaults}
    ours = [number for number in defaults if before[number] == defaults[number] or number in always]
    _forget()
    said, _says = _says, says
    for number in ours:
        signal.signal(number, _hear)
    try:
        yield
    finally:
        for number in ours:
            if signal.getsignal(number) == _hear:
                signal.signal(number, before[number])
        _says = said
        _forget()


@contextmanager
def held_back() -> Iterator[None]:
    """Delays signals to the end of the block. Inside, something begins that nobody could stop if a
    signal interrupted its beginning, such as a process.
    """
    global _held, _waiting
    _held = True
    try:
        yield
    finally:
        _held = False
        number, _waiting = _waiting, None
        if number is not None:
            raise Stopped(number)


@contextmanager
def deferred() -> Iterator[None]:
    """Wraps a training: inside, a signal is only noted, except for a second Ctrl-C, and bad input
    is a failed run, since it was good when the command began.
    """
    global _deferred
    before, _deferred = _deferred, True
    try:
        yield
    except InputError as error:
        error.status = 1
        raise
    finally:
        _deferred = before


def asked() -> bool:
    """Returns whether this process has got a signal."""
    return _asked is not None


def agree() -> None:
    """Records the request to end; every process of the run must call this in the same step."""
    global _agreed
    _agreed = True


def agreed() -> bool:
    """Returns whether the run ends after this step."""
    return _agreed


def stop() -> NoReturn:
    """Ends the command after everything is saved; another process may have got the signal."""
    raise Stopped(_asked or signal.SIGTERM)


def end_quietly() -> None:
    """Makes Ctrl-C end Python without a traceback while it ends after the command."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def say(line: bytes) -> None:
    """Writes a line on stderr from a handler of signals, because `print` may be interrupted in the
    middle of a line. If the terminal is gone, nobody reads it."""
    with suppress(OSError):
        os.write(2, line)


def _forget() -> None:
    global _asked, _agreed
    _asked, _agreed = None, False


def _hear(number: int, frame: Any) -> None:
    global _asked, _asked_at, _waiting
    if not _deferred:
        say(_says)
        if not _held:
            raise Stopped(number)
        _waiting = signal.Signals(number)
        return
    if _asked is None:
        _asked, _asked_at = signal.Signals(number), time.monotonic()
        if int(os.environ.get("RANK", 0)) == 0:
            again = b"; again: ends at once" if number == signal.SIGINT else b""
            name = _asked.name.encode()
            say(b"\n" + name + b": saves after this step and ends" + again + b"\n")
        return
    # A launcher passes Ctrl-C on to processes that already got it from the terminal.
    alone = "LOCAL_RANK" not in os.environ
    if number == signal.SIGINT and alone and time.monotonic() - _asked_at > IGNORE_SECONDS:
        raise Stopped(number)
