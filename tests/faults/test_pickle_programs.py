"""The restricted unpickler on programs that are composed to attack it: nothing runs or crashes.

`make test-faults` runs 100,000 (`FAULTS_PROGRAMS`, starting with `FAULTS_SEED`). Each program has a
second of CPU time. Each batch runs in a separate process with a gigabyte of memory.
"""

from __future__ import annotations

import codecs
import io
import os
import random
import sys
import time
from argparse import Namespace
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.common.errors import InputError
from tests.faults.fuzzing import Hang, check_message, in_child, time_limit, write_counts
from tests.faults.pickle_programs import Composer
from transfer.checkpoints.readers import unpickle
from transfer.checkpoints.readers.raw import open_file
from transfer.checkpoints.readers.unpickle import ALLOWED, restricted_load

FEW = 600
BATCH = 1000
SECONDS, MEMORY_BYTES = 1, 1 << 30
PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set),
    *(frozenset, OrderedDict, Namespace, np.ndarray),
    *(type(value()) for value in unpickle.PATHS.values()),
    *(unpickle._Module, unpickle._NamedTuple),
)
# What Python itself reports while a plain pickle is read; anything more could be an execution.
QUIET = ("object.__getattr__", "builtins.id")


def number() -> int:
    if os.environ.get("FAULTS_CASES"):
        return int(os.environ.get("FAULTS_PROGRAMS") or 100_000)
    return FEW


def check_plain(value: Any) -> None:
    """Raises unless a loaded object is made of plain values and of functions of the table."""
    waiting, seen = [value], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen or id(one) in unpickle._CALLABLE:
            continue
        seen.add(id(one))
        assert type(one) in PLAIN or isinstance(one, (np.generic, np.dtype)), type(one)
        if isinstance(one, (np.ndarray, np.generic, np.dtype)):
            kind = one if isinstance(one, np.dtype) else one.dtype
            assert kind.kind in "?biufcSUMm" and kind.names is None, kind
        if isinstance(one, (np.ndarray, np.generic)):
            one.tobytes()
            repr(one)
        elif isinstance(one, (dict, Namespace)):
            inner = vars(one) if isinstance(one, Namespace) else one
            waiting += [*inner.keys(), *inner.values()]
        elif isinstance(one, (list, tuple, set, frozenset)):
            waiting += one


def run_batch(first: int, count: int, place: Path) -> dict[str, Any]:
    """Loads programs in this process, which is a child; stops at the first fault."""
    events: list[str] = []
    listening = False

    def listen(event: str, arguments: tuple) -> None:
        if listening and not event.startswith(QUIET):
            events.append(f"{event} {str(arguments)[:100]}")

    for codec in ("ascii", "latin1", "raw-unicode-escape"):  # of old pickles' texts
        codecs.lookup(codec)
    sys.addaudithook(listen)
    counts: Counter[str] = Counter()
    file = place / "program.pkl"
    for seed in range(first, first + count):
        program = Composer(list(ALLOWED), random.Random(seed)).program()
        file.write_bytes(program)
        try:
            with time_limit(SECONDS):
                listening = True
                try:
                    loaded = restricted_load(io.BytesIO(program))
                finally:
                    listening = False
                check_plain(loaded)
                counts["loaded"] += 1
        except Hang:
            return {"fault": f"program {seed}: over {SECONDS} s"}
        except AssertionError as error:
            return {"fault": f"program {seed}: {error!r}"}
        except RecursionError:
            return {"fault": f"program {seed}: RecursionError"}
        except Exception as error:  # the reader makes a refusal of any kind of it
            counts[type(error).__name__] += 1
        if events:
            return {"fault": f"program {seed}: {events[0]}"}
        if seed % 20 == 0:
            try:
                with time_limit(SECONDS):
                    open_file(file)
            except InputError as error:
                check_message(str(error), file.name)
    return {"counts": dict(counts)}


def test_no_program_runs_code_crashes_or_hangs(tmp_path: Path) -> None:
    counts: Counter[str] = Counter()
    start = int(os.environ.get("FAULTS_SEED") or 0)
    for first in range(start, start + number(), BATCH):
        began, count = time.monotonic(), min(BATCH, start + number() - first)
        answer = in_child(lambda: run_batch(first, count, tmp_path), MEMORY_BYTES)
        if "fault" in answer:
            pytest.fail(f"{answer['fault']}; the last program is {tmp_path / 'program.pkl'}")
        batch = Counter(answer["counts"])
        judged = Counter(ok=batch["loaded"], refused=sum(batch.values()) - batch["loaded"])
        write_counts("composed pickles", judged, time.monotonic() - began)
        counts += batch
    # The composer must be near to what is read: programs that only fail early prove little.
    assert counts["loaded"] > number() / 20
    print(f"{sum(counts.values())} programs: {dict(counts.most_common())}")
