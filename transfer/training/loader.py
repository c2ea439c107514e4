"""Data loaders: a task's mapper reads batches of samples in worker processes.

A mapper takes a sample and its position in the training order, and returns the input dict of the
task's model. An image that cannot be read stops the run with one line that names it, also if a
worker process reads it.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pretrain.common.errors import InputError
from pretrain.common.lost_workers import Batches
from pretrain.common.resources import loader_processes
from transfer.datasets.samples import is_compact
from transfer.training.sampler import Batch

Item = TypeVar("Item")  # a sample of a task: an image with its annotations


class PackedSamples:
    """Keeps samples in one byte array, whose memory forked workers share.

    A list of Python objects would be copied page by page because their reference counts change:
    about a gigabyte per worker for COCO.
    """

    def __init__(self, samples: Sequence[Any]) -> None:
        parts = [np.frombuffer(pickle.dumps(sample, protocol=-1), np.uint8) for sample in samples]
        self._ends = np.cumsum([len(part) for part in parts])
        self._bytes = np.concatenate(parts)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Any:
        begin = 0 if index == 0 else self._ends[index - 1]
        return pickle.loads(self._bytes[begin : self._ends[index]].data)


class MappedSamples(Dataset[Any]):
    """Maps (position, index) to an input dict, or to the InputError that was raised."""

    def __init__(
        self, samples: Sequence[Item], mapper: Callable[[Item, int], dict[str, Any]]
    ) -> None:
        # Columns are already arrays, which forked workers share.
        self.samples: Any = samples if is_compact(samples) else PackedSamples(samples)
        self.mapper = mapper

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any] | InputError:
        position, index = key
        try:
            return self.mapper(self.samples[index], position)
        except InputError as error:
            # An error raised in a worker would arrive with a traceback: `load` raises it instead.
            return error


def load(
    samples: Sequence[Item],
    mapper: Callable[[Item, int], dict[str, Any]],
    batches: Iterable[Batch],
    num_workers: int,
    device: torch.device,
) -> Iterator[list[dict[str, Any]]]:
    """Iterates over `batches`, mapped by `num_workers` processes (0: by this process).

    If `device` is a GPU, tensors are in pinned memory, so the GPU can copy them while it computes.

    Raises:
        InputError: an image cannot be read; raised when its batch is reached.
    """
    loader = DataLoader(
        MappedSamples(samples, mapper),
        batch_sampler=batches,
        **loader_processes(num_workers),
        collate_fn=_as_list,
        pin_memory=device.type == "cuda",
        # Without its own generator a loader would draw a number from the global generator, which
        # training uses to sample regions: an evaluation in between would change the training.
        generator=torch.Generator(),
    )
    for batch in Batches(loader):
        for item in batch:
            if isinstance(item, InputError):
                raise item
        yield batch


def _as_list(items: list[Any]) -> list[Any]:
    return items
