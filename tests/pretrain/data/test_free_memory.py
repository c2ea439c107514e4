"""Free memory within the limits of a container or a batch job."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.data import free_memory


def test_memory_of_a_control_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit less what is used, without the page cache that can be dropped."""
    monkeypatch.setattr(free_memory, "CGROUPS", tmp_path)
    whole = free_memory.available_memory()
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    assert free_memory.available_memory() == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory.available_memory() == pytest.approx(whole, rel=0.5)
    (tmp_path / "memory").mkdir()  # the first version of control groups
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("800\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("900\n")
    (tmp_path / "memory" / "memory.stat").write_text("total_inactive_file 300\n")
    assert free_memory.available_memory() == 200
