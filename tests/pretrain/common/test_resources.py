"""The machine's cores limit the number of loader processes; one that cannot send a batch ends."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from pretrain.common import resources
from pretrain.common.errors import failure
from pretrain.common.lost_workers import Batches
from pretrain.common.resources import loader_processes


def test_workers_are_at_most_one_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "cores", lambda: 2)
    assert [resources.usable_workers(wanted) for wanted in (0, 1, 2, 8)] == [0, 1, 2, 2]


def test_processes_of_a_launcher_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "cores", lambda: 16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert [resources.usable_workers(wanted) for wanted in (0, 1, 8)] == [0, 1, 2]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert resources.usable_workers(8) == 1


@pytest.mark.parametrize(
    "files, share",
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "150000 100000"}, 1.5),
        (
            {"cpu.max": "400000 100000", "a/cpu.max": "max 100000", "a/b/cpu.max": "200000 100000"},
            2,
        ),
        ({"a/cpu.max": "100000 100000", "a/b/cpu.max": "200000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu.max": "nonsense"}, None),
    ],
)
def test_the_share_of_a_container(
    files: dict[str, str], share: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of the group or of a group around it; versions 2 and 1 of cgroups."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "own").write_text("0::/a/b\n")
    monkeypatch.setattr(resources, "CGROUP", tmp_path)
    monkeypatch.setattr(resources, "OWN_CGROUP", tmp_path / "own")
    assert resources._cgroup_share() == share
    monkeypatch.setattr(resources.os, "sched_getaffinity", lambda pid: set(range(8)))
    assert resources.cores() == (8 if share is None else math.ceil(share))


class Unsendable:
    """Fails as torch does if /dev/shm is full, when a worker sends it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> tuple:
        raise RuntimeError(self.text)


FULL = "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"


@pytest.mark.parametrize(
    "text, line", [(FULL, "--shm-size"), ("something else", "exited unexpectedly")]
)
def test_a_batch_that_cannot_be_sent_ends_the_training(text: str, line: str) -> None:
    """Without `loader_processes` the loop would wait for it forever."""
    loader = DataLoader([Unsendable(text)], collate_fn=list, **loader_processes(1))
    with pytest.raises(RuntimeError) as error:
        next(iter(Batches(loader)))
    assert line in failure(error.value)
