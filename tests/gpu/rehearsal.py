"""Measures complete steps on pretended CUDA; the numbers are kept in `recorded.json`.

    python -m tests.gpu.rehearsal            # measures every case and prints what changed
    python -m tests.gpu.rehearsal --record   # and stores the new numbers
    python -m tests.gpu.rehearsal mscn_r50@8 # cases of your choice, with the places

A case is a config and a number of processes: `CONFIG@W` is a pretraining step, `ACTION/CONFIG@W` is
a step or a pass of a transfer. Of the W processes only the last is run, in a process group that
sends nothing (torch's "fake" backend). No model is wrapped in DistributedDataParallel, because its
constructor and backward pass need answers from other processes. So its all-reduce of the gradients,
one for each step and bucket, is not among the counted collectives.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.gpu import (
    classification_cases,
    detection_cases,
    pretraining_cases,
    segmentation_cases,
)
from tests.gpu.pretend_cuda import ROOT
from tests.gpu.runtime import build

RECORDED = Path(__file__).with_name("recorded.json")
KINDS = (pretraining_cases, detection_cases, segmentation_cases, classification_cases)
Measure = Callable[[str], dict[str, Any]]
MEASURE: dict[str, Measure] = {case: kind.measure for kind in KINDS for case in kind.CASES}
CASES = list(MEASURE)
EXACT = ("views_synchronisations", "synchronisations", "large_pageable_copies", "collectives")
NEAR = ("host_to_device_copies", "view_kernels", "view_gb", "kernels", "peak_mib", "gflop")
TOLERANCE = 0.02  # of the numbers that are only near


def measured(
    cases: Sequence[str], capability: int = 80, full_size: bool = False
) -> dict[str, dict[str, Any]]:
    """The numbers of each case, from one process over the no-op CUDA runtime, on a GPU of this
    compute capability times ten; a case that failed has one entry, `error`."""
    options = ["--as-json", *(["--full-size"] if full_size else [])]
    command = [sys.executable, "-m", "tests.gpu.rehearsal", *options, *cases]
    environment = build.environment(capability=capability)
    done = subprocess.run(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def differences(now: dict[str, Any], recorded: dict[str, Any]) -> list[str]:
    """What is not as recorded, in sentences; for synchronisations with file and line of each place
    whose function has more of them than it had."""
    found = [
        f"{key} is {now[key]}, recorded {recorded[key]}"
        for key in (*EXACT, *NEAR)
        if key in recorded
        and now[key] != recorded[key]
        and (key in EXACT or abs(now[key] - recorded[key]) > TOLERANCE * recorded[key])
    ]
    before = Counter(recorded["places"])
    seen: Counter[str] = Counter()
    for spot, number in now["places"].items():
        function = without_lines(spot)
        seen[function] += number
        if seen[function] > before[function]:
            found.append(f"new: {number} x {spot}")
    return found


def without_lines(spot: str) -> str:
    """A place by the innermost file and function, and why it waits: stable when lines move."""
    why, _, calls = spot.partition(", ")
    innermost = calls.split(" < ")[0]
    return re.sub(r"\d+ bytes", "bytes", why) + ", " + re.sub(r":\d+", "", innermost)


def for_the_record(numbers: dict[str, Any]) -> dict[str, Any]:
    """The numbers as they are stored."""
    places: Counter[str] = Counter()
    for spot, number in numbers["places"].items():
        places[without_lines(spot)] += number
    return {**numbers, "places": dict(sorted(places.items()))}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "cases", nargs="*", help="[ACTION/]CONFIG@PROCESSES; all of them by default"
    )
    parser.add_argument("--record", action="store_true", help="store the numbers")
    parser.add_argument(
        "--full-size", action="store_true", help="detectors on images of true size; prints only"
    )
    parser.add_argument("--as-json", action="store_true", help="measure in this process")
    args = parser.parse_args()
    if args.as_json:
        measure = full_size if args.full_size else MEASURE.__getitem__
        print(json.dumps({case: _safely_measured(case, measure(case)) for case in args.cases}))
        return
    if reason := build.missing():
        sys.exit(reason)
    if args.full_size:
        print(json.dumps(measured(args.cases, full_size=True), indent=1))
        return
    recorded = json.loads(RECORDED.read_text()) if RECORDED.is_file() else {}
    numbers = measured(args.cases or CASES)
    for case, now in numbers.items():
        changed = differences(now, recorded[case]) if case in recorded else ["new"]
        print(case, *changed if "error" not in now else [now["error"]], sep="\n  ")
        if args.cases and "error" not in now:
            print(json.dumps(now, indent=1))
    if args.record:
        assert not any("error" in now for now in numbers.values()), "a case failed: not stored"
        recorded.update({case: for_the_record(now) for case, now in numbers.items()})
        kept = {case: recorded[case] for case in CASES if case in recorded}
        RECORDED.write_text(json.dumps(kept, indent=1) + "\n")


def full_size(case: str) -> Measure:
    """What measures a detector's case at true size."""
    assert case in detection_cases.CASES, f"{case} has no other size"
    return partial(detection_cases.measure, full_size=True)


def _safely_measured(case: str, measure: Measure) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    import torch.fx.experimental._config as shapes

    shapes.meta_nonzero_assume_all_nonzero = True  # so that a mask is counted, not refused
    try:
        return measure(case)
    except Exception as error:
        calls = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if ".venv" not in frame.filename
        ]
        path = [f"{frame.filename.removeprefix(f'{ROOT}/')}:{frame.lineno}" for frame in calls]
        return {"error": f"{type(error).__name__}: {error}; called by {' > '.join(path)}"}


if __name__ == "__main__":
    main()
