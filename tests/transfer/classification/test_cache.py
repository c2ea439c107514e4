"""Features larger than the memory that may be used: written, taken over, searched."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from pretrain.common.knn import nearest_neighbours
from transfer.classification.cache import open_table

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
            values.clone()
    assert values.shape == (ROWS, DIM)
    assert torch.equal(values[BATCH : 2 * BATCH], batch.roll(1, dims=1))
