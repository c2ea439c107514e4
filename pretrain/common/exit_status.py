"""How a command ends: its exit status, and one line on stderr that gives the reason.

0: success. 2: bad input, also a path that this user may not read or write, if it is noticed before
the run begins. 1: a failed run, also if the cause is an image that disappeared during the
training, or a disk that is full or cannot be written, whoever noticed it; only an error in the
program prints a traceback. 130: Ctrl-C. 143: SIGTERM, SIGUSR1, or SIGHUP (a closed terminal); the
same command with --resume continues. 141: the reader of the output has ended.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

from pretrain.common.command_names import as_started
from pretrain.common.errors import InputError, disk_failure, failure, input_line
from pretrain.common.stop_signals import INTERRUPTED, Stopped, describe_stop, heard
from pretrain.common.terminal import outlives_terminal
from pretrain.common.verbosity import is_verbose

CLOSED_PIPE = 128 + 13  # the status of a program that was ended by SIGPIPE


def exit_status(work: Callable[[], int | None], *, says_stop: bool = True) -> int:
    """Runs `work` to its end, prints what went wrong, and returns the exit status.

    Args:
        says_stop: also print that a signal ended the command. In a launched process it is False,
            because the command that launched it prints this.
    """
    with outlives_terminal():
        return _exit_status(work, says_stop)


def _exit_status(work: Callable[[], int | None], says_stop: bool) -> int:
    try:
        with (
            heard(),
            # Such as TensorBoard's writer on a full disk
            _says_one_line(threading, "excepthook", "a thread of this command ended"),
            # While Python frees an object no code can catch an error: torch hears of a loader's
            # process that something killed also while it ends this process itself
            _says_one_line(sys, "unraisablehook", "while a part of this command ended"),
        ):
            status = work() or 0
            sys.stdout.flush()
            return status
    except InputError as error:
        print(f"error: {as_started(input_line(error))}", file=sys.stderr)
        return 1 if disk_failure(error) else error.status
    except KeyboardInterrupt as error:
        if says_stop and int(os.environ.get("RANK", 0)) == 0:  # the other processes stop too
            print(describe_stop(error), file=sys.stderr)
        return error.status if isinstance(error, Stopped) else INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has ended
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
def _says_one_line(module: ModuleType, hook: str, begin: str) -> Iterator[None]:
    """A failure that only a hook of Python hears says one line instead of a traceback; the command
    itself continues, and decides what that means.

    Args:
        hook: name of the module's function that gets the error.
        begin: the beginning of the line.
    """
    before = getattr(module, hook)

    def say(args: threading.ExceptHookArgs | sys.UnraisableHookArgs) -> None:
        line = failure(args.exc_value) if args.exc_value else ""
        if line and not is_verbose():
            logging.getLogger("mscn").warning("%s: %s", begin, line)
        else:
            before(args)

    setattr(module, hook, say)
    try:
        yield
    finally:
        setattr(module, hook, before)


@contextmanager
def _no_news_of_children() -> Iterator[None]:
    """Disables torch's handler, which raises an error at any point of the program when a loader's
    process dies, also while a failure is being reported."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)


def _say_failure(line: str) -> None:
    """Prints one line on stderr, as for bad input, and one into the run's log file if it exists."""
    print(f"error: {as_started(line)}", file=sys.stderr)
    record = logging.LogRecord("mscn", logging.ERROR, __file__, 0, line, None, None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
