"""Data loaders: batches of samples that a task's mapper reads in worker processes.

A mapper takes a sample and its position in the training's order, and gives the dict that the task's
model takes. An image that cannot be read stops the run with one line that names it, also from a
worker process.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pretrain.common.errors import InputError
from pretrain.common.resources import loader_processes
from transfer.datasets.samples import is_compact
from transfer.training.sampler import Batch

Item = TypeVar("Item")  # a sample of a task: an image with what is annotated on it


class PackedSamples:
    """Samples as one byte array, so that forked workers share the memory.

    A list of Python objects would be copied, page by page, as their reference counts change: about
    a gigabyte per worker for COCO.
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
    """(position, index) -> input dict, or the InputError that reading it raised."""

    def __init__(
        self, samples: Sequence[Item], mapper: Callable[[Item, int], dict[str, Any]]
    ) -> None:
        # Columns are arrays already, which forked workers share.
        self.samples: Any = samples if is_compact(samples) else PackedSamples(samples)
        self.mapper = mapper

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any] | InputError:
        position, index = key
        try:
            return self.mapper(self.samples[index], position)
        except InputError as error:
            # Raised in a worker it would arrive wrapped in a traceback: `load` raises it instead.
            return error


def load(
    samples: Sequence[Item],
    mapper: Callable[[Item, int], dict[str, Any]],
    batches: Iterable[Batch],
    num_workers: int,
    device: torch.device,
) -> Iterator[list[dict[str, Any]]]:
    """Iterates over `batches`, mapped by `num_workers` processes (0: in this one).

    Tensors are in pinned memory if `device` is a GPU, which then copies them while it works.

    Raises InputError for an image that cannot be read, when its turn comes.
    """
    loader = DataLoader(
        MappedSamples(samples, mapper),
        batch_sampler=batches,
        **loader_processes(num_workers),
        collate_fn=_as_list,
        pin_memory=device.type == "cuda",
        # Without its own generator a loader would draw a number from the global one, which
        # training samples regions with: then an evaluation in between would change the training.
        generator=torch.Generator(),
    )
    for batch in loader:
        for item in batch:
            if isinstance(item, InputError):
                raise item
        yield batch


def _as_list(items: list[Any]) -> list[Any]:
    return items
