"""Allows one process at a time in a folder: others wait, or refuse to start.

The lock is the kernel's (flock), so a killed process loses it at once. Over NFS the kernel asks the
server. We do not use the library filelock, because it would empty the file that says who holds the
lock. It also unlocks explicitly, which would take the lock from processes that inherited it; here
the file is only closed. On a file system without locks, the content of the file decides
(`_is_held`).
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import multiprocessing.reduction
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from pretrain.common.errors import InputError
from pretrain.common.output_path import check_output
from pretrain.common.safe_json import read_json
from pretrain.common.temporaries import sweep

logger = logging.getLogger(__name__)

FILE_NAME = ".lock"
SETTLE_SECONDS = 0.2  # within it, two processes that take a lock without the kernel notice


@contextmanager
def locked(folder: Path, waiting: str = "") -> Iterator[None]:
    """Waits until no other process holds FOLDER/.lock, then holds it.

    Args:
        waiting: a message to log if another process holds it.
    """
    with open(folder / FILE_NAME, "w") as handle:
        if _take(handle) is False:
            if waiting:
                logger.info(waiting)
            _take(handle, wait=True)
        yield


@contextmanager
def one_writer(*folders: str | Path, inherited: bool = False) -> Iterator[None]:
    """Holds the lock of each folder while a command writes there. Missing folders are made.

    The file FOLDER/.lock says who holds it. When the command ends, the file is removed, and also
    the folder if it is empty. Half-written files of killed writers are removed first.

    Args:
        inherited: commands that are started meanwhile with `close_fds=False` also hold the lock,
            because commands that a killed suite leaves running still work in its folder.

    Raises:
        InputError: another command holds it, or the folder cannot be written, or see
            `check_output`.
    """
    with ExitStack() as held:
        for folder in map(check_output, folders):
            held.enter_context(_only_holder(folder, FILE_NAME, str(folder), inherited))
            for path in sweep(folder):
                logger.info("removed %s, which a killed process left", path)
        yield


@contextmanager
def one_writer_of(file: str | Path) -> Iterator[None]:
    """Works like `one_writer`, but for one file of a folder into which other commands may write."""
    file = Path(file)
    with _only_holder(check_output(file.parent), f".{file.name}.lock", str(file), False):
        sweep(file.parent, file.name)
        yield


@dataclass(frozen=True)
class Holder:
    """Describes the process that holds a lock.

    Attributes:
        started: when its command began, local time.
        born: the process's start time as the kernel reports it (0: unknown), because another
            process may get its number later.
        slurm_job: the number of its SLURM job, or "".
    """

    host: str = "an unknown host"
    pid: int = 0
    command: str = "another command"
    started: str = ""
    born: int = 0
    slurm_job: str = ""

    @classmethod
    def of_this_process(cls) -> Holder:
        """Returns the entry that this process writes into its locks."""
        return cls(
            socket.gethostname(),
            os.getpid(),
            Path(sys.argv[0] or sys.executable).name,
            datetime.now().isoformat(sep=" ", timespec="seconds"),
            _birth(os.getpid()),
            os.environ.get("SLURM_JOB_ID", ""),
        )

    @classmethod
    def read(cls, path: Path) -> Holder | None:
        """Reads a lock file; None if it does not say who holds the lock."""
        try:
            content = read_json(path)
            known = {field.name: type(field.default) for field in fields(cls)}
            kept: dict[str, Any] = {
                k: v for k, v in content.items() if isinstance(v, known.get(k, ()))
            }
        except (OSError, ValueError, AttributeError):
            return None
        texts: dict[str, Any] = {k: _plain(v) if isinstance(v, str) else v for k, v in kept.items()}
        return cls(**texts) if texts.get("pid", 0) > 0 else None

    def is_here(self) -> bool:
        """Returns whether the process is on this host."""
        return self.host == socket.gethostname()

    def is_alive(self) -> bool:
        """Returns whether the process still runs. A process on another host counts as alive, unless
        it belonged to this SLURM job, which has been restarted.
        """
        if not self.is_here():
            return not self.slurm_job or self.slurm_job != os.environ.get("SLURM_JOB_ID")
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # a process of a different user
            pass
        return 0 in (self.born, _birth(self.pid)) or self.born == _birth(self.pid)

    def __str__(self) -> str:
        since = f", started {self.started}" if self.started else ""
        ended = (
            "" if self.is_alive() else "; it has ended, but a command that it started still runs"
        )
        return f"{self.command} (process {self.pid} on {self.host}{since}{ended})"


@contextmanager
def _only_holder(folder: Path, name: str, what: str, inherited: bool) -> Iterator[None]:
    made = [place for place in (folder, *folder.parents) if not os.path.exists(place)]
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _open_current(path, what)
    except OSError as error:
        _remove_empty(made)
        reason = error.strerror or error
        raise InputError(f"{folder} cannot be written: {reason}; give another --output") from None
    with handle:
        kept = Kept(handle.fileno())
        if inherited:
            os.set_inheritable(handle.fileno(), True)
        else:
            HELD.append(kept)
        try:
            yield
        finally:
            if kept in HELD:
                HELD.remove(kept)
            if os.getpid() == kept.owner:
                with suppress(OSError):  # while we hold it, nobody else can take it
                    path.unlink()
                _remove_empty(made)


def _open_current(path: Path, what: str) -> TextIO:
    """Opens and locks the lock file at `path`. If its holder ended just now, that file is no longer
    at `path`, and a new one is used.

    Raises InputError if another command holds it.
    """
    while True:
        handle = open(path, "a", encoding="utf-8")
        try:
            taken = _take(handle)
            if taken is False or (taken is None and _is_held(path)):
                raise InputError(
                    f"{what} is in use by {_holder(path)}; wait for it or stop it, or give another "
                    "--output"
                    + ("" if taken is False else f" (if that process has ended, delete {path})")
                )
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle.fileno()), os.stat(path)):
                    _write_holder(handle)
                    if taken is None:
                        _check_alone(path, what)
                    return handle
        except BaseException:
            handle.close()
            raise
        handle.close()


def _write_holder(handle: TextIO) -> None:
    try:
        handle.truncate(0)
        handle.write(json.dumps(asdict(Holder.of_this_process())) + "\n")
        handle.flush()
    except OSError:
        with suppress(OSError):  # nobody can hold an empty file that is not there
            os.unlink(handle.name)
        raise


def _holder(path: Path) -> Holder:
    """Returns the holder of a lock that is taken; it may not have written its name yet."""
    for _ in range(5):
        if (found := Holder.read(path)) is not None:
            return found
        time.sleep(SETTLE_SECONDS)
    return Holder()


def _is_held(path: Path) -> bool:
    """Returns whether the process that a lock file names is alive, for file systems without
    locks.
    """
    found = Holder.read(path)
    return found is not None and found.pid != os.getpid() and found.is_alive()


def _check_alone(path: Path, what: str) -> None:
    """Without the kernel's help: if two came at once, the one that wrote last continues."""
    time.sleep(SETTLE_SECONDS)
    found = Holder.read(path)
    if found is not None and (found.host, found.pid) != (socket.gethostname(), os.getpid()):
        raise InputError(f"{what} is in use by {found}; wait for it or stop it")


def _take(handle: TextIO, wait: bool = False) -> bool | None:
    """Returns whether the lock of a file could be taken; None: the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            return None
        raise
    return True


class Kept:
    """Holds the descriptor of a lock. If it is pickled for a process that multiprocessing starts,
    that process also holds the lock until it ends.
    """

    def __init__(self, handle: int) -> None:
        self.handle, self.owner = handle, os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return _take_along, (multiprocessing.reduction.DupFd(self.handle),)


def _take_along(passed: Any) -> Kept:
    kept = Kept(passed.detach())
    HELD.append(kept)
    return kept


HELD: list[Kept] = []  # locks of this process and of the ranks that it launches


def _close_in_child() -> None:
    """Closes the locks in a loader's process, which may outlive a killed command by seconds."""
    for kept in HELD:
        with suppress(OSError):
            os.close(kept.handle)
    HELD.clear()


os.register_at_fork(after_in_child=_close_in_child)


def _remove_empty(made: Sequence[Path]) -> None:
    with suppress(OSError):  # the folder is not empty
        for place in made:
            place.rmdir()


def _birth(pid: int) -> int:
    """Returns the start time of a process, in the kernel's ticks since the machine's start; 0:
    unknown.
    """
    try:
        fields_of = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields_of[19])
    except (OSError, ValueError, IndexError):
        return 0


def _plain(text: str) -> str:
    """Returns a text from a file, made safe for one line."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)[:100]
