"""The check for a first GPU, rehearsed without one: a row has values or says why it has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_check, gpu_rows
from benchmarks.gpu_rows import ROWS, TINY, Entry

# The others take longer; the whole rehearsal is `python -m benchmarks.gpu_check --device cpu
# --rehearse`.
QUICK = ("environment", "losses in half precision", "kNN", "synchronisations of the views")


@pytest.mark.parametrize("name", QUICK)
def test_a_rehearsed_row_is_filled_or_says_why_not(name: str) -> None:
    row = gpu_check.run_row(name, TINY, "cpu")
    assert row["status"] == gpu_check.REHEARSED, row["why"]
    assert row["entries"]
    for entry in row["entries"]:
        assert entry["value"] is not None or "GPU" in entry["note"], entry
    text = gpu_check.table({"device": "cpu", "rehearsal": True, "rows": [row]})
    assert gpu_check.REHEARSAL in text
    for line in text.splitlines()[4:]:
        assert "not measured" in line or "(rehearsed, cpu)" in line


def test_half_precision_is_near_float32_but_not_equal() -> None:
    entry = gpu_rows.losses(TINY, torch.device("cpu"))[0]
    assert "bf16" in entry.what and isinstance(entry.value, float)
    assert 0 < entry.value < 0.1


@pytest.mark.slow  # two processes start
def test_two_processes_have_the_gradient_of_one() -> None:
    (entry,) = gpu_rows.gradients(TINY, torch.device("cpu"))
    assert isinstance(entry.value, float) and entry.value < 1e-10
    # Rounding gives 2e-14; gradients that are not added up gave 2.8.


def test_a_failed_row_is_a_line_and_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(size: Any, device: torch.device) -> list[Entry]:
        raise RuntimeError("CUDA error:\nout of | memory")

    monkeypatch.setitem(ROWS, "kNN", (fails, 0.1))
    row = gpu_check.run_row("kNN", TINY, "cpu")
    assert row["why"] == "RuntimeError: CUDA error: out of | memory"
    text = gpu_check.table({"device": "cuda", "rehearsal": False, "rows": [row]})
    assert "| kNN | failed |  | RuntimeError: CUDA error: out of / memory |" in text


def test_a_row_without_time_is_not_started() -> None:
    row = gpu_check.run_apart("kNN", TINY, "cpu", 0.5)
    assert row["status"] == gpu_check.NOT_RUN and "--minutes" in row["why"]


def test_a_cpu_is_never_measured_as_a_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "found.json"
    assert gpu_check.main(["--device", "cpu", "--output", str(output)]) == 2
    assert "--rehearse" in capsys.readouterr().err
    assert not output.exists()
    whole = {"device": "cpu", "rehearsal": False, "rows": []}
    assert gpu_check.REHEARSAL in gpu_check.table(json.loads(json.dumps(whole)))


def test_the_shares_of_the_time_are_a_whole() -> None:
    assert sum(share for _, share in ROWS.values()) == pytest.approx(1)
