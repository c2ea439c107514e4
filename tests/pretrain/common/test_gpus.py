"""The table of GPUs: names, and the memory and hours that a user is told."""

from __future__ import annotations

import pytest

from pretrain.common import run_needs
from pretrain.common.errors import InputError
from pretrain.common.gpus import GPUS, _as_gpu, find_gpu
from pretrain.common.run_needs import RunNeeds, gpu_lines, machine_lines
from pretrain.common.step_cost import StepCost

GIB = 2**30


def needs(gib: float, steps: int | None = 31200, half: bool = True) -> RunNeeds:
    cost = StepCost(int(gib * GIB), int(37.4e12))
    return RunNeeds(cost, 8, 512, steps, half, remedy="lower SOLVER.BATCH_SIZE")


def test_names() -> None:
    assert find_gpu("A100-80") is GPUS["a100-80"]
    with pytest.raises(InputError, match="unknown GPU 'a100' in --gpu; known: .*a100-40"):
        find_gpu("a100")
    assert all(name == gpu.name and gpu.gib > 10 for name, gpu in GPUS.items())
    known = _as_gpu("NVIDIA A100-SXM4-80GB", 85_000_000_000)
    assert known.half is GPUS["a100-80"].half and known.gib == pytest.approx(79.2, abs=0.1)
    assert _as_gpu("NVIDIA H200", 150_000_000_000).half is None


def test_memory_has_room_for_workspace() -> None:
    memory, _ = gpu_lines(needs(65.0), GPUS["a100-80"])
    assert "65.0 GiB at 512 images per process, 71.5 with 10%" in memory.detail
    assert not memory.problem
    memory, _ = gpu_lines(needs(75.0), GPUS["a100-80"])  # fits without workspace only
    assert memory.problem == "lower SOLVER.BATCH_SIZE" and memory.problem in memory.detail


def test_hours_name_their_source_or_are_not_given() -> None:
    _, compute = gpu_lines(needs(65.0), GPUS["a100-80"])
    assert "5.4 to 8.6 hours on 8" in compute.text and "2,470 images/s" in compute.text
    _, compute = gpu_lines(needs(65.0, half=False), GPUS["v100-32"])
    assert "36 to 58 hours" in compute.text and "float32: 367 images/s" in compute.text
    _, compute = gpu_lines(needs(65.0), GPUS["t4"])
    assert compute.text.endswith("hours unknown, because t4 is not calibrated")
    _, compute = gpu_lines(needs(65.0, steps=None), GPUS["a100-80"])
    assert "images is not known" in compute.text


def test_shared_memory_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_needs, "free_shared_memory", lambda: 64 * 2**20)
    shared, host = machine_lines(2 * GIB, GIB // 8, 8, 100 * GIB)
    assert "16.0 GiB for the waiting batches" in shared.text and "--shm-size" in shared.problem
    assert "18.0 GiB for batches" in host.text and not host.problem
    shared, host = machine_lines(2 * GIB, GIB // 8, 8, GIB, here=False)
    assert not shared.fatal and "NUM_WORKERS" in host.problem
    monkeypatch.setattr(run_needs, "free_shared_memory", lambda: None)
    assert not next(machine_lines(2 * GIB, GIB, 8, None)).problem
    assert list(machine_lines(0, GIB, 8, None)) == [], "without workers nothing waits"
