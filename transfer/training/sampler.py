"""Samplers of batches: endless, seeded, and resumable at any iteration.

A batch is a list of (position, index) pairs: `index` is an image, `position` counts the samples of
all processes since the start of training. The order is the same as in Detectron2's TrainingSampler
and AspectRatioGroupedDataset. Indices are grouped instead of loaded images, so a resumed run can
replay the order up to its iteration quickly.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

Batch = list[tuple[int, int]]


def training_order(size: int, seed: int) -> Iterator[int]:
    """Yields random permutations of range(size) without end, from one torch generator."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    while True:
        yield from torch.randperm(size, generator=generator).tolist()


def rank_share(size: int, rank: int, world_size: int) -> range:
    """Returns the contiguous part of a test set that one process predicts (InferenceSampler)."""
    share, rest = divmod(size, world_size)
    begin = rank * share + min(rank, rest)
    return range(begin, begin + share + (1 if rank < rest else 0))


class GroupedBatches(Sampler[Batch]):
    """Batches of one process that have either only landscape images or no landscape images.

    Square images count as portrait. A batch is yielded as soon as one of the two groups is full;
    images that wait in the other group are kept. Without `grouping`, batches are consecutive.
    """

    def __init__(
        self,
        landscape: Sequence[bool],
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        grouping: bool = True,
        start_batch: int = 0,
    ) -> None:
        """`batch_size` is per process; the first `start_batch` batches are skipped."""
        self.landscape = list(landscape)
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.grouping = grouping
        self.start_batch = start_batch

    def __iter__(self) -> Iterator[Batch]:
        return itertools.islice(self._all(), self.start_batch, None)

    def _all(self) -> Iterator[Batch]:
        order = enumerate(training_order(len(self.landscape), self.seed))
        waiting: dict[bool, Batch] = {True: [], False: []}
        for position, index in itertools.islice(order, self.rank, None, self.world_size):
            group = waiting[self.grouping and self.landscape[index]]
            group.append((position, index))
            if len(group) == self.batch_size:
                yield list(group)
                group.clear()
