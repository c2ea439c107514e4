"""Samplers of batches: endless, seeded, and resumable at any iteration.

A batch is a list of (position, index) pairs: `index` is an image, `position` counts the samples of
all processes since the start of training. The order is the same as in Detectron2's TrainingSampler
(or RepeatFactorTrainingSampler) and AspectRatioGroupedDataset. Indices are grouped instead of
loaded images, so a resumed run can replay the order up to its iteration quickly.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

Batch = list[tuple[int, int]]
# A value of DATALOADER.SAMPLER_TRAIN: see `repeat_factors`.
REPEATING = "RepeatFactorTrainingSampler"


def training_order(size: int, seed: int) -> Iterator[int]:
    """Yields random permutations of range(size) without end, from one torch generator."""
    generator = torch.Generator()
    generator.manual_seed(seed)
    while True:
        yield from torch.randperm(size, generator=generator).tolist()


def repeated_order(factors: Tensor, seed: int) -> Iterator[int]:
    """Endless permutations of images that are repeated: image i comes `factors[i]` times an epoch,
    a fraction of a time at random. Of ones it is not `training_order`: each epoch draws n numbers
    before its permutation.

    Args:
        factors: float32 (n,), 1 or above.
    """
    generator = torch.Generator()
    generator.manual_seed(seed)
    whole = torch.trunc(factors)
    while True:
        more = torch.rand(len(factors), generator=generator) < factors - whole
        counts = (whole + more.float()).to(torch.int64)
        images = torch.repeat_interleave(torch.arange(len(factors)), counts)
        yield from images[torch.randperm(len(images), generator=generator)].tolist()


def repeat_factors(
    images: np.ndarray, classes: np.ndarray, size: int, threshold: float, sqrt: bool
) -> Tensor:
    """Returns how often each image is repeated, float32 (size,): as often as its rarest class asks
    for.

    A class in a share f < `threshold` of the images asks for threshold / f, or the square root of
    that; the others for 1. Gupta et al. 2019 (LVIS), appendix B.2.

    Args:
        images, classes: int64 (m,) of each object; the images are counted from 0 to size - 1.
    """
    pairs = np.unique(np.stack([images, classes], axis=1), axis=0)
    found, counts = np.unique(pairs[:, 1], return_counts=True)
    shares = threshold / (counts / size)
    wanted = np.maximum(1.0, np.sqrt(shares) if sqrt else shares)
    factors = np.ones(size)
    np.maximum.at(factors, pairs[:, 0], wanted[np.searchsorted(found, pairs[:, 1])])
    return torch.tensor(factors, dtype=torch.float32)


def rank_share(size: int, rank: int, world_size: int) -> range:
    """Returns the contiguous part of a test set that one process predicts (InferenceSampler)."""
    share, rest = divmod(size, world_size)
    begin = rank * share + min(rank, rest)
    return range(begin, begin + share + (1 if rank < rest else 0))


class GroupedBatches(Sampler[Batch]):
    """Yields batches of one process that have either only landscape images or no landscape images.

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
        factors: Tensor | None = None,
    ) -> None:
        """`batch_size` is per process; the first `start_batch` batches are skipped. `factors` are
        those of `repeat_factors`; None: each image comes once an epoch."""
        self.landscape = list(landscape)
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.grouping = grouping
        self.start_batch = start_batch
        self.factors = factors

    def __iter__(self) -> Iterator[Batch]:
        return itertools.islice(self._all(), self.start_batch, None)

    def _all(self) -> Iterator[Batch]:
        if self.factors is None:
            order = enumerate(training_order(len(self.landscape), self.seed))
        else:
            order = enumerate(repeated_order(self.factors, self.seed))
        waiting: dict[bool, Batch] = {True: [], False: []}
        for position, index in itertools.islice(order, self.rank, None, self.world_size):
            group = waiting[self.grouping and self.landscape[index]]
            group.append((position, index))
            if len(group) == self.batch_size:
                yield list(group)
                group.clear()
