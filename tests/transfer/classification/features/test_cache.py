"""Features that are larger than the allowed memory: written, reused, searched."""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from pretrain.common.errors import InputError
from pretrain.common.knn import nearest_neighbours
from transfer.classification.features.cache import open_table

ROWS, DIM, BATCH, MB = 131072, 1024, 4096, 2**20  # 256 MB in fp16


@contextmanager
def at_most(more: int) -> Iterator[None]:
    """Lets the process allocate `more` bytes; what it maps from a file to read is not counted."""
    status = Path("/proc/self/status").read_text()
    used = int(re.search(r"VmData:\s+(\d+) kB", status).group(1)) * 1024
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts no maps on Linux only")
def test_memory_is_bounded(tmp_path: Path) -> None:
    draws, folder = torch.Generator().manual_seed(0), tmp_path / "key"
    batch = torch.randn(BATCH, DIM, generator=draws).half()
    queries = torch.stack([batch[7] * 5, batch[9] * 11]).float()
    with at_most(200 * MB):
        with open_table(folder, ROWS, BATCH) as table:
            assert len(table.pending) == 32
            for number in list(table.pending):
                shifted = batch.roll(number, dims=1)  # batch 0 alone holds the queries' rows
                table.add(number, shifted, 0.5)
        with open_table(folder, ROWS, BATCH) as table:
            assert not table.pending and table.seconds == 16
            values = table.values()
        found = nearest_neighbours(values, queries, 3)
        assert found.index[:, 0].tolist() == [7, 9]
        with pytest.raises(RuntimeError, match="allocate"):
            torch.cat([values] * 4)  # a single one may fit into what the process has freed
    assert values.shape == (ROWS, DIM)
    assert torch.equal(values[BATCH : 2 * BATCH], batch.roll(1, dims=1))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's full device")
def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """What fits stays: the next run computes the rest only."""
    key = tmp_path / "key"
    with open_table(key, 4, 2) as table:
        table.add(0, torch.ones(2, 3), 1.0)
        journal = (key / "journal.jsonl").rename(tmp_path / "journal")
        (key / "journal.jsonl").symlink_to("/dev/full")
        with pytest.raises(InputError, match="CACHE_DIR .* cannot be written .No space left"):
            table.add(1, torch.ones(2, 3), 1.0)
    journal.rename(key / "journal.jsonl")
    with open_table(key, 4, 2) as table:
        assert table.pending == [1]


def test_a_folder_that_can_only_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serves what is complete; the rest is refused before it is computed."""
    monkeypatch.setattr(
        "transfer.classification.features.cache.os.access", lambda path, mode: False
    )
    (tmp_path / "key").mkdir()
    with pytest.raises(InputError, match="CACHE_DIR .* cannot be written; set a different folder"):
        with open_table(tmp_path / "key", 2, 2):
            pass
    monkeypatch.undo()
    with open_table(tmp_path / "key", 2, 2) as table:
        table.add(0, torch.ones(2, 3), 1.0)
    monkeypatch.setattr(
        "transfer.classification.features.cache.os.access", lambda path, mode: False
    )
    with open_table(tmp_path / "key", 2, 2) as table:
        assert torch.equal(table.values(), torch.ones(2, 3))
