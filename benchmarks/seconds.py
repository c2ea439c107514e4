"""Seconds of competing pieces of work: makes a JSON result and its text from `timing`'s Samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.timing import Sample, Work, cpu_seconds, ratio, spread
from pretrain.common.environment import describe_environment, describe_hardware


def once(work: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> Work:
    """Runs `work` once, for as long as it takes; `prepare` runs before and is not measured."""

    def measure(seconds: float) -> Sample:
        prepare()
        busy, start = cpu_seconds(), time.perf_counter()
        work()
        wall = time.perf_counter() - start
        return Sample(1 / wall, (cpu_seconds() - busy) * 1000)

    return measure


def result(
    samples: Mapping[str, Sequence[Sample]],
    ratios: Sequence[tuple[str, str]],
    *,
    unit: str,
    options: Mapping[str, Any],
    config: Mapping[str, Any],
    device: str,
) -> dict[str, Any]:
    """Returns one dict of builtins.

    `unit` is the unit that a sample counted ("iteration"). `ratios` are pairs of parts; pairs with
    an absent part are left out.
    """
    return {
        "options": dict(options),
        "config": dict(config),
        "unit": unit,
        "device": device,
        "hardware": describe_hardware(),
        "environment": describe_environment(),
        "parts": {name: summary(values) for name, values in samples.items()},
        "ratios": {
            f"{above} / {below}": ratio(seconds(samples[above]), seconds(samples[below]))
            for above, below in ratios
            if above in samples and below in samples
        },
    }


def seconds(samples: Sequence[Sample]) -> list[float]:
    """Returns wall-clock seconds per unit, for each sample."""
    return [1 / sample.images_per_second for sample in samples]


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Returns the spread of the wall-clock seconds and of the processor's seconds."""
    return {
        "seconds": spread(seconds(samples)),
        "cpu_seconds": spread([sample.cpu_ms / 1000 for sample in samples]),
    }


def report(found: Mapping[str, Any]) -> str:
    """Returns the result as a few lines of text; ratios below 1 mean that the first part is
    faster.
    """
    described = ", ".join(f"{key} {value}" for key, value in found["config"].items())
    lines = [f"{described}; {found['device']}"]
    lines.append(f"{'part':<34} {'s/' + found['unit']:>12}  {'(low to high)':<20} CPU s")
    for name, part in found["parts"].items():
        wall, cpu = part["seconds"], part["cpu_seconds"]
        between = f"({wall['low']:.4f} to {wall['high']:.4f})"
        lines.append(f"{name:<34} {wall['median']:12.4f}  {between:<20} {cpu['median']:.4f}")
    for name, value in found["ratios"].items():
        lines.append(f"{name}: {value['median']:.3f} ({value['low']:.3f} to {value['high']:.3f})")
    return "\n".join(lines)
