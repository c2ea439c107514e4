"""Errors that a command reports in one line: bad input (exit 2), and failures without traceback."""

from __future__ import annotations

import errno
import re
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pretrain.common.printable import printable

FULL = (errno.ENOSPC, errno.EDQUOT)
DISK = (*FULL, errno.EIO, errno.EROFS)  # a disk that is full, fails, or cannot be written
FORBIDDEN = (errno.EACCES, errno.EPERM)
UNLOCK = "change its permissions (chmod), or give a copy"  # for a path that this user may not use
MOST_OF_MESSAGE = 1900  # characters of one line
# Errors of the operating system, and what a user can do about them
REMEDIES = {
    FULL: (
        "free some space and run the command again, with --resume if it has that, or give "
        "another folder"
    ),
    (errno.EROFS, *FORBIDDEN): "give a place where this user may read and write",
    (errno.ENOENT, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.EHOSTDOWN, errno.ETIMEDOUT): (
        "it was there before, and is not there now; bring it back and run the command again, "
        "with --resume if it has that"
    ),
    (errno.EIO, errno.EREMOTEIO, errno.EUCLEAN): (
        "the disk or its connection fails; a command that has --resume continues from what was "
        "saved before"
    ),
    (errno.EMFILE, errno.ENFILE): (
        "raise the limit of open files (ulimit -n 65536), or lower DATALOADER.NUM_WORKERS"
    ),
    (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST): "give another path",
    (errno.EFBIG, errno.ETXTBSY): "give another folder",
    (errno.ENOMEM, errno.EAGAIN): "the host's memory or its number of processes is used up; stop "
    "other programs, or lower DATALOADER.NUM_WORKERS",
}
OTHER_REMEDY = "give another path"  # for a file that the system refuses for another reason
LOST_PEER = re.compile(
    r"gloo/|Connection (closed|reset) by peer|NCCL|ncclRemoteError|DistStore|TCPStore|"
    r"[Ss]ocket [Tt]imeout|wait timeout|Broken pipe"
)


class InputError(Exception):
    """Reports bad input. The message is one clear line that names the file or key, and the remedy.

    Each argument is one line; usually there is only one. Messages quote names and values from
    files, so each line is made printable, and cut, when it is shown.

    Attributes:
        status: the exit status of a command that it ends. Input that was good when the training
            began, such as an image that is deleted meanwhile, is a failed run (1).
    """

    status = 2

    def __str__(self) -> str:
        return "\nerror: ".join(printable(line, MOST_OF_MESSAGE) for line in self.args)


def check_probability(name: str, value: float) -> None:
    """Raises InputError if a value is not from 0 to 1; `name` is the name of its key or field."""
    if not 0 <= value <= 1:
        raise InputError(f"{name} {value} is not a probability; give a value from 0 to 1")


def failure(error: BaseException) -> str:
    """Returns the line that says why a run failed, if the cause is outside the program; ""
    otherwise.

    Such causes are: a training that diverged (FloatingPointError), errors of the operating system
    (a full or read-only disk, files that disappeared, no memory), a loader's process that something
    else ended, and a launched process, which has already printed its own message.
    """
    text = str(error).strip()
    if isinstance(error, FloatingPointError):
        return " ".join(text.split())
    died = [found for each in causes(error) if (found := _death_of_a_worker(each))]
    if died:  # the first cause names the signal, which torch's later message may hide
        return _worker_died(died[-1])
    # The data from a process breaks off before torch notices that the process has ended.
    if isinstance(error, (ConnectionError, EOFError)) and _in_loader(error):
        return _worker_died("its connection broke off")
    if type(error).__name__ == "ChildFailedError":
        return _process_line(error)
    if (found_os := refused_by_system(error)) is not None:
        return _system_line(found_os)
    return _memory_line(error) or _peer_line(error)


def _system_line(error: OSError) -> str:
    found = (text for codes, text in REMEDIES.items() if error.errno in codes)
    remedy = next(found, OTHER_REMEDY)
    name = "a file, or standard output" if error.filename is None else error.filename
    return f"{name}: {error.strerror}; {remedy}"


def _memory_line(error: BaseException) -> str:
    if type(error).__name__ == "OutOfMemoryError":  # torch's error for a GPU
        first = str(error).strip().split(". ")[0]
        return f"{first}: lower the batch size, or use more GPUs (--num-gpus)"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator: can't allocate" in str(error):
        return "the host's memory is full: lower the batch size, or DATALOADER.NUM_WORKERS"
    return ""


def _peer_line(error: BaseException) -> str:
    """Returns the line of a process that was waiting for another process of its run."""
    named = type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError")
    if not named and not (isinstance(error, RuntimeError) and LOST_PEER.search(str(error))):
        return ""
    reason = " ".join(str(error).split())[:120]
    return (
        f"another process of this run ended or does not answer ({reason}); its own message, if it "
        "printed one, has the cause; --resume continues from the last checkpoint"
    )


def _process_line(error: BaseException) -> str:
    """Returns the line of the command that launched the processes of a run, of which one failed."""
    for number, failed in getattr(error, "failures", {}).items():
        if failed.exitcode < 0:  # it could not say this itself
            name = signal.Signals(-failed.exitcode).name
            return (
                f"process {number} of this run was ended by {name}; if nobody did that, the host's "
                "memory is full: lower DATALOADER.NUM_WORKERS; --resume continues from the last "
                "checkpoint"
            )
    return "one of the processes failed; its own message is above"


def _worker_died(how: str) -> str:
    if "Bus error" in how:
        return (
            f"a process that loads images died ({how}): the shared memory in /dev/shm is full; "
            "give a container more of it (docker run --shm-size=16g, or --ipc=host), or lower "
            "DATALOADER.PREFETCH_GIB (pretraining), or lower DATALOADER.NUM_WORKERS (0: no such "
            "processes)"
        )
    return (
        f"a process that loads images died ({how}); the usual cause is full memory, or full "
        "shared memory in /dev/shm: lower DATALOADER.NUM_WORKERS (0: no such processes)"
    )


def _death_of_a_worker(error: BaseException) -> str:
    """Returns how a loader's process died, if `error` is torch's message about it; "" otherwise.
    torch raises it at any point of the program, so it may be the cause of a different error.
    """
    found = re.match(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\) ([^.]*)", str(error))
    return found[1] if found and isinstance(error, RuntimeError) else ""


def _in_loader(error: BaseException) -> bool:
    """Returns whether an error was raised while torch's loader waited for a batch."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(frame.filename.endswith("torch/utils/data/dataloader.py") for frame in frames)


def refused_by_system(error: BaseException | None) -> OSError | None:
    """Returns the system's error that is `error`, or the disk failure that led to it; None: there
    is another cause. A system's error is one of REMEDIES, or any that names a file.
    """
    if isinstance(error, OSError) and error.errno is not None:
        if error.filename is not None or any(error.errno in codes for codes in REMEDIES):
            return error
    return disk_failure(error)


def input_line(error: InputError) -> str:
    """Returns the lines of bad input. If this user may not use a path, and the message does not say
    what to do about it, the remedy is added, so a reader of a file needs to give only the reason.
    """
    text = said = str(error)
    forbidden = False
    for each in causes(error):
        if isinstance(each, OSError) and each.errno in FORBIDDEN:
            forbidden, said = True, said.replace(str(each.filename), "")
    return f"{text}; {UNLOCK}" if forbidden and ";" not in said else text


def disk_failure(error: BaseException | None) -> OSError | None:
    """Returns the error of a disk that is full, fails or cannot be written, if it is `error` or led
    to it; None: there is another cause.

    torch.save raises its own RuntimeError if the file cannot take all bytes.
    """
    for each in causes(error):
        if isinstance(each, OSError) and each.errno in DISK:
            return each
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields the error, the error that led to it, and so on to the first one."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def named_node(node: str) -> Iterator[None]:
    """Puts the name of a config's node before an InputError that is raised inside, by code that
    takes values and does not know their keys."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{node}: {error}") from error


@contextmanager
def named_file(path: str | Path) -> Iterator[None]:
    """Gives an OSError that is raised inside this file's name if it has none, as that of a write
    to an open file."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
