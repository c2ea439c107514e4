"""Loader processes are limited by the cores of the machine; one that cannot send a batch ends."""

from __future__ import annotations

import pytest
from torch.utils.data import DataLoader

from pretrain.common import resources
from pretrain.common.errors import failure
from pretrain.common.resources import loader_processes


def test_workers_are_at_most_one_for_each_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "cores", lambda: 2)
    assert [resources.usable_workers(wanted) for wanted in (0, 1, 2, 8)] == [0, 1, 2, 2]


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
        next(iter(loader))
    assert line in failure(error.value)
