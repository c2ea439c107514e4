"""What a command can say in one line: wrong input (exit 2), and failures that need no traceback."""

from __future__ import annotations

import errno
import re
import traceback

from pretrain.common.printable import printable

FULL = (errno.ENOSPC, errno.EDQUOT)
MOST_OF_MESSAGE = 1900  # characters of one line


class InputError(Exception):
    """Bad input. The message is one clear line that names the file or key, and the remedy.

    Each argument is one line; a single one is the rule. Messages quote names and values from
    files, so that a line is made printable, and cut, wherever it is shown.
    """

    def __str__(self) -> str:
        return "\nerror: ".join(printable(line, MOST_OF_MESSAGE) for line in self.args)


def check_probability(name: str, value: float) -> None:
    """Raises InputError unless a value is from 0 to 1; `name` is its key's or field's."""
    if not 0 <= value <= 1:
        raise InputError(f"{name} {value} is not a probability; give 0 to 1")


def failure(error: BaseException) -> str:
    """The line that says why a run failed, for causes outside of the program; "" for others.

    These are a training that diverged (FloatingPointError), a loader's process that something else
    ended, and a process of several, which has said itself what was wrong.
    """
    text = str(error).strip()
    if isinstance(error, FloatingPointError):
        return text
    for each in (error.__cause__, error):  # torch's own message may hide the signal's
        found = re.match(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) ([^.]*)", str(each))
        if found and isinstance(each, RuntimeError):
            return _worker_died(found[1])
    # What the process was sending breaks off before torch notices that it has ended.
    if isinstance(error, (ConnectionError, EOFError)) and _in_loader(error):
        return _worker_died("its connection broke off")
    if type(error).__name__ == "ChildFailedError":
        return "one of the processes failed; its own message is above"
    return ""


def _worker_died(how: str) -> str:
    if "Bus error" in how:
        return (
            f"a process that loads images died ({how}): the shared memory in /dev/shm is full; "
            "give a container more of it (docker run --shm-size=16g, or --ipc=host), or lower "
            "DATALOADER.PREFETCH_GIB (pretraining), or lower DATALOADER.NUM_WORKERS (0: no such "
            "processes)"
        )
    return (
        f"a process that loads images died ({how}); mostly the memory, or the shared "
        "memory in /dev/shm, was full: lower DATALOADER.NUM_WORKERS (0: no such processes)"
    )


def _in_loader(error: BaseException) -> bool:
    """Whether an error came up while torch's loader waited for a batch."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(frame.filename.endswith("torch/utils/data/dataloader.py") for frame in frames)


def disk_full(error: BaseException | None) -> OSError | None:
    """The error of a full disk that is `error` or led to it; None: another cause.

    torch.save ends in a RuntimeError of its own when the file cannot take all bytes.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return error
        error = error.__cause__ or error.__context__
    return None
