"""Rates of competing pieces of work under the same load: takes `Sample`s of callables.

If other programs use the machine, one long measurement of A and then one of B compares those
programs instead. So each repetition measures every piece for a moment, in alternating order. Ratios
are taken within a repetition, and both processor time and wall-clock time are counted.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Sample:
    """One measurement. `cpu_ms`: processor milliseconds per image, of this process and its workers;
    0 if the system does not report them."""

    images_per_second: float
    cpu_ms: float


# takes the seconds to measure, returns what was measured
Work = Callable[[float], Sample]


def measure(step: Callable[[], int], seconds: float, finish: Callable[[], None]) -> Sample:
    """Repeats `step`, which returns its number of images, for `seconds`.

    `finish` waits for unfinished work (a GPU's queue). One step runs before and is not measured.
    """
    step()
    finish()
    images = 0
    busy, start = cpu_seconds(), time.perf_counter()
    while time.perf_counter() - start < seconds:
        images += step()
    finish()
    wall, busy = time.perf_counter() - start, cpu_seconds() - busy
    return Sample(images / wall, busy * 1000 / images)


def measure_stream(
    batches: Iterator[Item],
    use: Callable[[Item], int],
    seconds: float,
    finish: Callable[[], None],
    warmup_batches: int,
) -> Sample:
    """Consumes `batches` for `seconds`; `use` returns the number of images of a batch.

    The first `warmup_batches` are not measured: they include the start of the workers, and batches
    that were made meanwhile.
    """
    for _ in range(warmup_batches):
        use(next(batches))
    return measure(lambda: use(next(batches)), seconds, finish)


def cpu_seconds() -> float:
    """Returns the processor seconds so far of this process and its living workers (theirs only on
    Linux).
    """
    total = time.process_time()
    for child in multiprocessing.active_children():
        try:
            # The command's name, in brackets, may have spaces; utime and stime are 12th after it.
            fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # another system, or the worker has just ended
            continue
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def interleaved(
    works: Mapping[str, Work], seconds: float, repetitions: int
) -> dict[str, list[Sample]]:
    """Measures each work `repetitions` times, all in turn, each second time in reverse order."""
    samples: dict[str, list[Sample]] = {name: [] for name in works}
    for repetition in range(repetitions):
        names = list(works)
        for name in names if repetition % 2 == 0 else reversed(names):
            samples[name].append(works[name](seconds))
    return samples


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns {"median", "low", "high"} of a few measurements."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Returns the spread of `above / below`, repetition by repetition."""
    return spread([a / b for a, b in zip(above, below, strict=True)])
