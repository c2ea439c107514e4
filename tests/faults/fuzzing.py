"""Runs a reader on many damaged inputs in a separate process, and judges every answer.

An input is handled well if the reader accepts it or raises `InputError` with one printable line
under 2,000 characters that names the file. Everything else fails the test: another exception (an
escape), more than 5 seconds of CPU time (a hang), the end of the process (a crash), memory beyond
the limit. Hypothesis draws the inputs and shrinks a failure; the smallest input stays on the disk.

`FAULTS_CASES` is the number of cases for a reader (`make test-faults`: 10,000). Without it, each
test uses a small number of its own. `FAULTS_SEED` gives different cases. `FAULTS_COUNTS` names a
file that gets one row for each reader (`counts.py`).
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from pretrain.common.errors import InputError
from tests.faults.counts import add_row

CPU_SECONDS = 5  # of one case; more is a hang
WAIT_SECONDS = 60  # of one case that waits for something; more is a hang as well
MEMORY_BYTES = 3 << 30  # beyond what the process has before its first case
LONGEST_MESSAGE = 2000
BATCH = 500  # cases in one process: Hypothesis keeps what it has drawn, some MB a checkpoint


class Fault(AssertionError):
    """A reader did with an input what it must not do."""


class Hang(BaseException):
    """A case takes too long; no Exception, so that no reader takes it for damage."""


def number_of_cases(few: int) -> int:
    """`FAULTS_CASES`, or `few` without it."""
    return int(os.environ.get("FAULTS_CASES") or few)


def judge(read: Callable[[], object], named: str, lines: int = 1) -> str:
    """Calls a reader on one input.

    Args:
        named: what a refusal must name, mostly the file's name; "" for nothing.
        lines: how many lines a refusal may have.

    Returns:
        "ok" or "refused".

    Raises:
        Fault: an escape, a hang or a bad message.
    """
    try:
        with time_limit(CPU_SECONDS):
            read()
        return "ok"
    except InputError as error:
        check_message(str(error), named, lines)
        return "refused"
    except Hang as error:
        raise Fault(f"a hang: {error}") from None
    except MemoryError as error:
        raise Fault("memory: the reader wanted more than it may have") from error
    except SystemExit as error:
        raise Fault(f"the reader ended the program: {error}") from error


def check_message(text: str, named: str, lines: int = 1) -> None:
    """Raises Fault unless a refusal is short, printable and names its file."""
    told = text.split("\n", lines - 1)
    if max(map(len, told)) > LONGEST_MESSAGE:
        raise Fault(f"a line of {max(map(len, told))} characters: {text[:200]!r}")
    if not all(map(is_printable, told)):
        raise Fault(f"a message that is not printable: {text[:300]!r}")
    if named not in text:
        raise Fault(f"a message that does not name {named!r}: {text[:300]!r}")


def is_printable(line: str) -> bool:
    """Whether a text prints in one line; spaces of other scripts stay what they are."""
    return all(c.isprintable() or unicodedata.category(c) == "Zs" for c in line)


def fuzz(
    reader: str,
    cases: SearchStrategy[Any],
    write: Callable[[Any, Path], object],
    read: Callable[[Path], object],
    file: Path,
    few: int = 60,
    *,
    named: str | None = None,
    lines: int = 1,
) -> Counter[str]:
    """Judges a reader on many inputs, in child processes that have limits of memory and time.

    Args:
        reader: its name in the table of counts.
        cases: draws what `write` puts into `file`, such as the bytes of a file.
        write: makes the input; what it raises is a mistake of the test.
        read: opens the input, as the commands do.
        file: where each input is written; the folder must hold nothing else of value.
        few: the number of cases in `make test`.
        named: what every refusal must name; the file's name if None.

    Returns:
        how many inputs were "ok" and "refused".

    Raises:
        Fault: at the first input (the smallest of its kind) that was not handled well.
    """
    wanted = file.name if named is None else named
    number, counts = number_of_cases(few), Counter[str]()
    for first in range(0, number, BATCH):
        began, batch = time.monotonic(), Counter[str]()

        def one(case: Any) -> None:
            _emptied(file)
            write(case, file)
            batch[judge(lambda: read(file), wanted, lines)] += 1

        count = min(BATCH, number - first)
        answer = in_child(lambda: _draw_all(one, cases, count, first, batch))
        if "fault" in answer:
            raise Fault(f"{reader}: {answer['fault']}\nthe input is {file}")
        write_counts(reader, Counter(answer["counts"]), time.monotonic() - began)
        counts += Counter(answer["counts"])
    return counts


def bytes_of(case: bytes, file: Path) -> None:
    """A `write` for cases that are the file's bytes."""
    file.write_bytes(case)


def in_child(work: Callable[[], dict[str, Any]], memory: int = MEMORY_BYTES) -> dict[str, Any]:
    """What `work` returns (plain values) in a fork of this process, or {"fault": what ended it}."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        _in_fork(work, send, memory)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        what = "a hang that no exception ends" if name == "SIGXCPU" else "a crash"
        return {"fault": f"{what}: the process ended by {name}"}
    if not text:
        return {"fault": f"the process ended with status {os.waitstatus_to_exitcode(status)}"}
    answer: dict[str, Any] = json.loads(text)
    return answer


def write_counts(reader: str, counts: Counter[str], seconds: float) -> None:
    """Adds a row to the file that `FAULTS_COUNTS` names; `counts.py` makes a table of it."""
    row = dict(cases=sum(counts.values()), ok=counts["ok"], refused=counts["refused"])
    add_row({"reader": reader, **row, "seconds": round(seconds, 1)})


def _in_fork(work: Callable[[], dict[str, Any]], send: int, memory: int) -> None:
    """Everything that the child does: limits, the work, the answer; it never returns."""
    try:
        own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (own + memory,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.disable()  # pytest's, which would print a crash that is expected or reported
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        warnings.simplefilter("ignore")
        answer = work()
    except BaseException:  # the parent must hear of it, whatever it is
        answer = {"fault": traceback.format_exc()}
    text = json.dumps(answer).encode("utf-8", "replace")
    while text:
        text = text[os.write(send, text) :]
    os._exit(0)


def _draw_all(
    one: Callable[[Any], None],
    cases: SearchStrategy[Any],
    number: int,
    first: int,
    counts: Counter[str],
) -> dict[str, Any]:
    """Lets Hypothesis draw the cases; its shrinking leaves the smallest input as the last one."""
    drawn = settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )
    try:
        seed(int(os.environ.get("FAULTS_SEED") or 0) + first)(drawn(given(cases)(one)))()
    except Exception as error:
        error.__notes__ = []  # the input, which is on the disk
        return {"fault": "".join(traceback.format_exception(error, limit=-8))[-6000:]}
    return {"counts": dict(counts)}


@contextmanager
def time_limit(cpu_seconds: float) -> Iterator[None]:
    """Raises Hang in what runs for longer or waits for WAIT_SECONDS; the kernel ends what no
    exception reaches. The time in which other programs had the CPU is not counted."""

    def late(number: int, frame: object) -> None:
        raise Hang(f"over {cpu_seconds} s of CPU time")

    def look(number: int, frame: object) -> None:
        left = WAIT_SECONDS - (waited_seconds() - before)
        if left <= 0:
            raise Hang(f"over {WAIT_SECONDS} s of waiting")
        signal.setitimer(signal.ITIMER_REAL, left + 0.1)

    before = waited_seconds()
    used = resource.getrusage(resource.RUSAGE_SELF)
    last = int(used.ru_utime + used.ru_stime + 3 * cpu_seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (last, resource.RLIM_INFINITY))
    signal.signal(signal.SIGPROF, late)
    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, WAIT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY,) * 2)


def waited_seconds() -> float:
    """How long the main thread has slept: neither had the CPU nor waited for other programs to
    leave it. The start of the count is arbitrary, as that of time.monotonic()."""
    with suppress(FileNotFoundError):  # a kernel without these statistics: all time counts
        running, queueing = Path("/proc/self/schedstat").read_text().split()[:2]  # ns
        return time.monotonic() - (int(running) + int(queueing)) / 1e9
    return time.monotonic()


def _emptied(file: Path) -> None:
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)
    else:
        file.unlink(missing_ok=True)


if sys.platform == "win32":  # fork, limits and timers are POSIX's
    raise ImportError("the fault tests need a POSIX system")
