"""How a command ends: its exit status, and the one line on stderr that says why.

0: success. 2: bad input. 1: a failed run; a traceback is for errors of the program alone. 130:
Ctrl-C. 143: SIGTERM or SIGUSR1; the same command with --resume goes on. 141: the reader of the
output has gone.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pretrain.common.errors import InputError, failure
from pretrain.common.stop_signals import INTERRUPTED, Stopped, describe_stop, heard
from pretrain.common.verbosity import is_verbose

CLOSED_PIPE = 128 + 13  # the status of a program that SIGPIPE ends


def exit_status(work: Callable[[], int | None], *, says_stop: bool = True) -> int:
    """Runs `work` to its end, says what went wrong, and returns the exit status.

    Args:
        says_stop: whether it also says that a signal ended it; in a process that a command has
            launched, the command does.
    """
    try:
        with heard():
            status = work() or 0
            sys.stdout.flush()
            return status
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        if says_stop and int(os.environ.get("RANK", 0)) == 0:  # the others stop with it
            print(describe_stop(error), file=sys.stderr)
        return error.status if isinstance(error, Stopped) else INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except Exception as error:
        with _no_news_of_children():
            line = failure(error)
            if line:
                _say_failure(line)
            if not line or is_verbose():
                logging.getLogger("mscn").exception("the run failed")
        return 1


@contextmanager
def _no_news_of_children() -> Iterator[None]:
    """Without torch's handler, which raises wherever the program is when a loader's process dies:
    also while a failure is being told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def _say_failure(line: str) -> None:
    """One line on stderr, as of bad input, and one in the run's log file, if it has one."""
    print(f"error: {line}", file=sys.stderr)
    record = logging.LogRecord("mscn", logging.ERROR, __file__, 0, line, None, None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
