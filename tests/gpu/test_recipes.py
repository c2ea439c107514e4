"""The complete pretraining step of each recipe on pretended CUDA, with 1, 8 and 64 processes.

It runs, and costs what `recorded.json` says; `python -m tests.gpu.rehearsal --record` stores new
numbers.
"""

from __future__ import annotations

import pytest

from tests.gpu import pretraining_cases
from tests.gpu.recorded import Numbers, check, read_record
from tests.gpu.rehearsal import CASES, differences, measured
from tests.gpu.runtime.build import missing

# Each kind of loss, head and collective once; the other cases are slow, as are 64 processes.
QUICK = [
    *("mscn_r50@1", "mscn_r50@8", "byol_r50@8", "moco_v2_r50@8", "vicreg_r50@8"),
    *("barlow_r50@8", "msn_vits16@8", "mae_vitb16@8", "mscn_convnext_tiny@1"),
]
OTHERS = [case for case in pretraining_cases.CASES if case not in QUICK]


@pytest.fixture(scope="module")
def now() -> Numbers:
    """The numbers of the quick cases, from one process over the no-op CUDA runtime."""
    if reason := missing():
        pytest.skip(reason)
    return measured(QUICK)


@pytest.fixture(scope="module")
def recorded() -> Numbers:
    return read_record()


@pytest.mark.parametrize("case", QUICK)
def test_a_step_costs_what_is_recorded(case: str, now: Numbers, recorded: Numbers) -> None:
    check(case, now, recorded)


@pytest.mark.slow
@pytest.mark.skipif(missing() is not None, reason="needs the no-op CUDA runtime")
def test_so_do_the_other_recipes(recorded: Numbers) -> None:
    numbers = measured(OTHERS)
    for case in OTHERS:
        check(case, numbers, recorded)


def test_the_record_has_no_other_cases(recorded: Numbers) -> None:
    assert list(recorded) == CASES


def test_differences_name_new_places() -> None:
    """A count that rose, a number 3 % off, and the line of the place that is new."""
    same = {key: 100 for key in ("views_synchronisations", "synchronisations", "gflop", "peak_mib")}
    rest = {"large_pageable_copies": 0, "collectives": {}, "host_to_device_copies": 5}
    base = {**same, **rest, "view_kernels": 50, "kernels": 60}
    recorded = {**base, "places": {"index, pretrain/a.py f": 2, "nonzero, pretrain/b.py g": 1}}
    moved = {"index, pretrain/a.py:9 f < pretrain/c.py:1 h": 2, "nonzero, pretrain/b.py:7 g": 1}
    assert differences({**base, "places": moved, "peak_mib": 101}, recorded) == []
    worse = {**base, "synchronisations": 101, "gflop": 103}
    worse["places"] = {**moved, "a blocking copy of 8 bytes to the device, pretrain/b.py:8 g": 1}
    assert differences(worse, recorded) == [
        "synchronisations is 101, recorded 100",
        "gflop is 103, recorded 100",
        "new: 1 x a blocking copy of 8 bytes to the device, pretrain/b.py:8 g",
    ]
