"""Batches of random crops: an `ImageDataset` in, uint8 `Batch`es on the CPU out.

Order and draws depend only on (seed, epoch, sample, view), not on the number of workers or
processes. A loader that starts at a later step gives the same batches as one that was not
interrupted. Several processes take disjoint parts of the same global batches.

Legend: V views, N batch of one process, S a view's crop side in pixels.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pretrain.common.errors import InputError
from pretrain.common.lookup import find
from pretrain.common.lost_workers import Batches
from pretrain.common.resources import start_worker
from pretrain.data.crops import RESIZES, CropSpec, crop_image
from pretrain.data.datasets import ImageDataset
from pretrain.data.decoded_cache import keep_decoded

logger = logging.getLogger(__name__)

# A worker stops looking for a substitute after this many unreadable images in a row.
MAX_SUBSTITUTES = 20
# A worker decodes several images, up to this many bytes together, before it crops them: alternating
# between decoding and resizing for each image is slower by a tenth.
DECODED_BYTES = 8 << 20
UNREADABLE = -1  # the index that a worker reports if it found no substitute
MOST_AHEAD = 4  # batches that a worker prepares ahead, if the memory for them suffices
AHEAD_BYTES = 2 << 30  # most bytes of one process's batches that wait in shared memory


@dataclass(frozen=True)
class Batch:
    """Is one batch. `crops` are V tensors uint8 `(N, 3, S, S)` RGB, whose memory order is `(N, S,
    S, 3)`; `labels (N,)` are int64 (-1 if there are no classes); `index (N,)` int64 has the images'
    positions in the data set.
    """

    crops: list[Tensor]
    labels: Tensor
    index: Tensor

    def to(self, device: torch.device) -> Batch:
        """Returns the batch on another device; from pinned memory the copy runs asynchronously."""
        return Batch(
            [crop.to(device, non_blocking=True) for crop in self.crops],
            self.labels.to(device, non_blocking=True),
            self.index.to(device, non_blocking=True),
        )


class CropLoader:
    """Loads random crops of a data set; each image is decoded once for all its crops.

    Args:
        crops: one spec per view.
        same_crop: for each view None, or the index of an earlier view of the same size, whose crop
            it shares.
        batch_size: images per process.
        max_corrupt: unreadable images this process may meet before the run stops.
        drop_last: leave out the images after the last full global batch of an epoch.
        cache_decoded: keep small images of one size decoded in memory, if they fit.
        pin_memory: use page-locked batches, for quick copies to a GPU; None: if CUDA is present.
        resize: the library that resizes the crops, one of `pretrain.data.crops.RESIZES`.
        ahead_bytes: bytes of shared memory that waiting batches may fill, see `batches_ahead`.

    Raises `InputError` if a `same_crop` does not name an earlier view of the same size, or if the
    data set is smaller than one batch.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        *,
        crops: Sequence[CropSpec],
        same_crop: Sequence[int | None] | None = None,
        batch_size: int,
        num_workers: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        max_corrupt: int = 0,
        drop_last: bool = True,
        cache_decoded: bool = False,
        pin_memory: bool | None = None,
        resize: str = "pillow",
        ahead_bytes: int = AHEAD_BYTES,
    ) -> None:
        find(resize, dict.fromkeys(RESIZES), "way to resize")
        shared = tuple(same_crop) if same_crop else (None,) * len(crops)
        _check_crops(crops, shared)
        global_batch = batch_size * world_size
        self.steps_per_epoch = len(dataset) // global_batch
        if not drop_last and len(dataset) % global_batch >= world_size:
            self.steps_per_epoch += 1
        if self.steps_per_epoch == 0:
            raise InputError(
                f"the data set's {len(dataset)} images do not fill one global batch of"
                f" {global_batch}; lower the batch size"
            )
        self.dataset = keep_decoded(dataset, num_workers) if cache_decoded else dataset
        self.max_corrupt = max_corrupt
        self.corrupt: set[str] = set()
        self._order = _Order(len(dataset), batch_size, self.steps_per_epoch, seed, rank, world_size)
        self._crops = _CropDataset(self.dataset, tuple(crops), shared, seed, resize)
        self._workers: DataLoader | None = None
        self._pin = torch.cuda.is_available() if pin_memory is None else pin_memory
        if num_workers > 0:
            self._workers = DataLoader(
                self._crops,
                batch_sampler=self._order,
                num_workers=num_workers,
                collate_fn=_unchanged,
                pin_memory=self._pin,
                persistent_workers=True,
                prefetch_factor=batches_ahead(crops, batch_size, num_workers, ahead_bytes),
                worker_init_fn=start_worker,
                # With torch's global generator, each epoch would draw from it, and the run's
                # randomness would depend on whether there are workers.
                generator=torch.Generator().manual_seed(seed),
            )

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Returns the batches of one epoch from `start_step` on (0 to `steps_per_epoch`); see
        `steps`.
        """
        first = epoch * self.steps_per_epoch
        return self.steps(first + start_step, first + self.steps_per_epoch)

    def steps(self, first: int, end: int) -> Iterator[Batch]:
        """Yields the batches of steps `first` to `end` - 1, counted over all epochs.

        The workers do not wait between epochs. Raises `InputError` as soon as more than
        `max_corrupt` images were unreadable.
        """
        self._order.span = (first, end)
        loaded: Iterator[Loaded]
        if self._workers is None:
            loaded = (self._crops.__getitems__(keys) for keys in self._order)
        else:
            loaded = iter(Batches(self._workers))
        for crops, labels, index, errors in loaded:
            self._count_corrupt(errors)
            if (index == UNREADABLE).any():
                raise InputError(
                    f"{MAX_SUBSTITUTES} unreadable images in a row; repair or remove them; the "
                    f"last: {errors[-1][1]}"
                )
            if self._pin and self._workers is None:  # batches of workers are already pinned
                crops = [crop.pin_memory() for crop in crops]
                labels, index = labels.pin_memory(), index.pin_memory()
            yield Batch([crop.permute(0, 3, 1, 2) for crop in crops], labels, index)

    def _count_corrupt(self, errors: Sequence[tuple[str, str]]) -> None:
        for name, message in errors:
            if name in self.corrupt:
                continue
            self.corrupt.add(name)
            logger.warning("unreadable image, replaced by a different one: %s", message)
            if len(self.corrupt) > self.max_corrupt:
                raise InputError(
                    f"{len(self.corrupt)} unreadable images, more than the {self.max_corrupt} of "
                    f"DATALOADER.MAX_CORRUPT; repair or remove them; the last: {message}"
                )


def batch_bytes(crops: Sequence[CropSpec], batch_size: int) -> int:
    """Returns the number of bytes of one batch's crops (uint8, three channels), which are nearly
    all of its bytes.
    """
    return batch_size * sum(3 * spec.size**2 for spec in crops)


def batches_ahead(
    crops: Sequence[CropSpec], batch_size: int, num_workers: int, ahead_bytes: int = AHEAD_BYTES
) -> int:
    """Returns the number of batches that each of `num_workers` (1 or more) workers prepares ahead.

    It is `MOST_AHEAD`, or less if the batches of all workers would need more than `ahead_bytes`,
    but at least one. The batches wait in shared memory (/dev/shm). A container has 64 MB of it by
    default; a cluster's node often has half of its memory.
    """
    return max(1, min(MOST_AHEAD, ahead_bytes // (num_workers * batch_bytes(crops, batch_size))))


def shared_bytes(
    crops: Sequence[CropSpec], batch_size: int, num_workers: int, ahead_bytes: int = AHEAD_BYTES
) -> int:
    """Returns the number of bytes of /dev/shm that the batches of one process fill at most; 0
    without workers.
    """
    if num_workers == 0:
        return 0
    ahead = batches_ahead(crops, batch_size, num_workers, ahead_bytes)
    return ahead * num_workers * batch_bytes(crops, batch_size)


@dataclass
class _Order(Sampler[list[tuple[int, int]]]):
    """Yields the (epoch, sample) keys of each batch of one process. `span` (first, end) sets the
    steps, which are counted over all epochs."""

    length: int
    batch_size: int
    steps_per_epoch: int
    seed: int
    rank: int
    world_size: int
    span: tuple[int, int] = (0, 0)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        whole = self.batch_size * self.world_size
        drawn, permutation = -1, np.empty(0, dtype=np.int64)
        for number in range(*self.span):
            epoch, step = divmod(number, self.steps_per_epoch)
            if epoch != drawn:
                generator = np.random.default_rng((self.seed, epoch))
                drawn, permutation = epoch, generator.permutation(self.length)
            taken = permutation[step * whole : (step + 1) * whole]
            # Every W-th image, so that a short last batch is also spread over all processes.
            yield [(epoch, sample) for sample in taken[self.rank :: self.world_size].tolist()]

    def __len__(self) -> int:
        first, end = self.span
        return end - first


Loaded = tuple[list[Tensor], Tensor, Tensor, list[tuple[str, str]]]


class _CropDataset(Dataset[Loaded]):
    """From the keys (epoch, sample) of one batch to each view's crops `(N, S, S, 3)`, labels and
    indices, and to (name, message) of each unreadable image."""

    def __init__(
        self,
        dataset: ImageDataset,
        specs: tuple[CropSpec, ...],
        same_crop: tuple[int | None, ...],
        seed: int,
        resize: str,
    ) -> None:
        self.dataset = dataset
        self.resize = resize
        self.specs = specs
        self.same_crop = same_crop
        self.seed = seed

    def __getitems__(self, keys: list[tuple[int, int]]) -> Loaded:
        crops = [np.empty((len(keys), s.size, s.size, 3), dtype=np.uint8) for s in self.specs]
        index = np.empty(len(keys), dtype=np.int64)
        errors: list[tuple[str, str]] = []
        waiting: list[tuple[int, Image.Image | np.ndarray]] = []  # place in the batch, image
        held = 0
        for place, (epoch, sample) in enumerate(keys):
            index[place], image = self._read(epoch, sample, errors)
            waiting.append((place, image))
            held += _decoded_bytes(image)
            if held >= DECODED_BYTES or place + 1 == len(keys):
                for at, image in waiting:
                    self._crop(image, keys[at], [view[at] for view in crops])
                waiting, held = [], 0
        labels = torch.from_numpy(self.dataset.labels[index])
        stacked = [torch.from_numpy(view) for view in crops]
        return stacked, labels, torch.from_numpy(index), errors

    def _crop(
        self, image: Image.Image | np.ndarray, key: tuple[int, int], targets: list[np.ndarray]
    ) -> None:
        """Fills each view's crop `(S, S, 3)` of one image."""
        for view, (spec, source) in enumerate(zip(self.specs, self.same_crop)):
            if source is not None:
                targets[view][:] = targets[source]
            else:
                draws = random.Random(draw_seed(self.seed, *key, view))
                targets[view][:] = crop_image(image, spec, draws)

    def _read(
        self, epoch: int, sample: int, errors: list[tuple[str, str]]
    ) -> tuple[int, Image.Image | np.ndarray]:
        """Returns the sample's number and image; if unreadable, those of a different sample."""
        decode = self.dataset.read_pixels if self.resize == "torch" else self.dataset.read
        try:
            return sample, decode(sample)
        except OSError as error:
            errors.append((self.dataset.name(sample), str(error)))
        draws = random.Random(draw_seed(self.seed, epoch, sample, -1))
        for _ in range(MAX_SUBSTITUTES - 1):
            index = draws.randrange(len(self.dataset))
            try:
                return index, decode(index)
            except OSError as error:
                errors.append((self.dataset.name(index), str(error)))
        # Raised here it would reach the main process as a worker's traceback, not as one line.
        return UNREADABLE, Image.new("RGB", (1, 1))


def draw_seed(seed: int, epoch: int, sample: int, view: int) -> int:
    """Returns one integer for the draws of one view (-1: the substitute) of one sample. It has no
    collisions for epoch < 2^20, sample < 2^40, view < 2^10 - 1."""
    return (((seed << 20 | epoch) << 40 | sample) << 10) + view + 1


def _decoded_bytes(image: Image.Image | np.ndarray) -> int:
    """Returns the number of bytes of a decoded RGB image."""
    return image.nbytes if isinstance(image, np.ndarray) else 3 * image.width * image.height


def _unchanged(loaded: Any) -> Any:
    """Returns a batch as `_CropDataset` made it, in place of torch's collating of items."""
    return loaded


def _check_crops(crops: Sequence[CropSpec], same_crop: Sequence[int | None]) -> None:
    if len(same_crop) != len(crops):
        raise InputError(f"same_crop has {len(same_crop)} entries for {len(crops)} views")
    for view, source in enumerate(same_crop):
        if source is None:
            continue
        if not 0 <= source < view:
            raise InputError(f"same_crop of view {view} is {source}; it must be an earlier view")
        if crops[source].size != crops[view].size:
            raise InputError(
                f"views {source} and {view} share a crop and must have the same size, not"
                f" {crops[source].size} and {crops[view].size} px"
            )
