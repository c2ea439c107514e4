"""One process at a time in a folder: by waiting for the other one, or by refusing to start.

The lock is the kernel's (flock), so a killed process loses it at once, also over NFS, where the
kernel asks the server. The library filelock would empty the file that says who holds the lock, and
unlocks explicitly, which would also take the lock from processes that inherited it; here the file
is only closed. On a file system without locks, what the file says decides (`_is_held`).
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
from pretrain.common.safe_json import read_json
from pretrain.common.temporaries import sweep

logger = logging.getLogger(__name__)

FILE_NAME = ".lock"
SETTLE_SECONDS = 0.2  # in which two that take a lock without the kernel's help see each other


@contextmanager
def locked(folder: Path, waiting: str = "") -> Iterator[None]:
    """Waits until no other process holds FOLDER/.lock, then holds it.

    Args:
        waiting: logged where another holds it.
    """
    with open(folder / FILE_NAME, "w") as handle:
        if _take(handle) is False:
            if waiting:
                logger.info(waiting)
            _take(handle, wait=True)
        yield


@contextmanager
def one_writer(*folders: str | Path, inherited: bool = False) -> Iterator[None]:
    """Holds the lock of each folder, which is made if it is missing, while a command writes there.

    The file FOLDER/.lock says who holds it. It goes when the command ends, and so does a folder
    that is empty then. What killed writers left half written in the folders is removed first.

    Args:
        inherited: commands that are started meanwhile with `close_fds=False` hold the lock too:
            those that a killed suite leaves running are still in its folder.

    Raises:
        InputError: somebody else holds it, or the folder cannot be written.
    """
    with ExitStack() as held:
        for folder in map(Path, folders):
            held.enter_context(_only_holder(folder, FILE_NAME, str(folder), inherited))
            for path in sweep(folder):
                logger.info("%s: a killed process left it; removed", path)
        yield


@contextmanager
def one_writer_of(file: str | Path) -> Iterator[None]:
    """As `one_writer` for one file, in a folder where other commands may write others."""
    file = Path(file)
    with _only_holder(file.parent, f".{file.name}.lock", str(file), False):
        sweep(file.parent, file.name)
        yield


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes:
        started: when its command began, local time; born: the kernel's word for when the process
            began (0: unknown), since another process may get its number later.
        slurm_job: the number of the SLURM job that it is of, or "".
    """

    host: str = "an unknown host"
    pid: int = 0
    command: str = "another command"
    started: str = ""
    born: int = 0
    slurm_job: str = ""

    @classmethod
    def of_this_process(cls) -> Holder:
        """What this process writes into its locks."""
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
        """What a lock file says; None if it does not say who holds it."""
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
        """Whether it is a process of this host."""
        return self.host == socket.gethostname()

    def is_alive(self) -> bool:
        """Whether the process is there still; one of another host counts as alive, unless it was
        of this SLURM job, which has begun again."""
        if not self.is_here():
            return not self.slurm_job or self.slurm_job != os.environ.get("SLURM_JOB_ID")
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # somebody else's
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
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder} is a file; give a folder")
    made = [place for place in (folder, *folder.parents) if not place.exists()]
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
                with suppress(OSError):  # while it is held: nobody else can have taken it
                    path.unlink()
                _remove_empty(made)


def _open_current(path: Path, what: str) -> TextIO:
    """The lock file at `path`, held; the file of a holder that ended just now is not taken, since
    it is no longer at `path`.

    Raises InputError: somebody else holds it.
    """
    while True:
        handle = open(path, "a", encoding="utf-8")
        try:
            taken = _take(handle)
            if taken is False or (taken is None and _is_held(path)):
                raise InputError(
                    f"{what} is in use by {_holder(path)}; wait for it or end it, or give another "
                    "--output"
                    + ("" if taken is False else f" (no such process any more: delete {path})")
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
    handle.truncate(0)
    handle.write(json.dumps(asdict(Holder.of_this_process())) + "\n")
    handle.flush()


def _holder(path: Path) -> Holder:
    """Who holds a lock that is taken; it may be about to write its name."""
    for _ in range(5):
        if (found := Holder.read(path)) is not None:
            return found
        time.sleep(SETTLE_SECONDS)
    return Holder()


def _is_held(path: Path) -> bool:
    """Whether the process that a lock file names is alive, where the kernel does not say."""
    found = Holder.read(path)
    return found is not None and found.pid != os.getpid() and found.is_alive()


def _check_alone(path: Path, what: str) -> None:
    """Without the kernel's help: of two that came at once the one that wrote last goes on."""
    time.sleep(SETTLE_SECONDS)
    found = Holder.read(path)
    if found is not None and (found.host, found.pid) != (socket.gethostname(), os.getpid()):
        raise InputError(f"{what} is in use by {found}; wait for it or end it")


def _take(handle: TextIO, wait: bool = False) -> bool | None:
    """Whether the lock of a file could be taken; None: the file system has no locks."""
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
    """The descriptor of a lock. Pickled for a process that multiprocessing starts, it is passed on,
    and that process holds the lock too, until it ends."""

    def __init__(self, handle: int) -> None:
        self.handle, self.owner = handle, os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return _take_along, (multiprocessing.reduction.DupFd(self.handle),)


def _take_along(passed: Any) -> Kept:
    kept = Kept(passed.detach())
    HELD.append(kept)
    return kept


HELD: list[Kept] = []  # what this process holds for itself and the ranks that it launches


def _close_in_child() -> None:
    """A loader's process that outlives a killed command by seconds does not keep its folder."""
    for kept in HELD:
        with suppress(OSError):
            os.close(kept.handle)
    HELD.clear()


os.register_at_fork(after_in_child=_close_in_child)


def _remove_empty(made: Sequence[Path]) -> None:
    with suppress(OSError):  # something is in it
        for place in made:
            place.rmdir()


def _birth(pid: int) -> int:
    """When a process began, in the kernel's ticks since the machine's start; 0: unknown."""
    try:
        fields_of = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields_of[19])
    except (OSError, ValueError, IndexError):
        return 0


def _plain(text: str) -> str:
    """A text from a file, fit for a line."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)[:100]
