"""The kNN monitor: a frozen trunk and two labelled image sets in, accuracy and collapse measures
out.

Legend: N images, S side in pixels, D features.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pretrain.common.collapse_statistics import effective_rank, feature_std
from pretrain.common.distributed import barrier, is_main
from pretrain.common.findings import Findings
from pretrain.common.knn import top_accuracy, weighted_knn
from pretrain.common.logs import MetricsWriter
from pretrain.data.crops import central_part
from pretrain.data.datasets import ImageDataset
from pretrain.data.gray import to_gray
from pretrain.data.preprocess import Preprocess
from pretrain.engine.callbacks import due
from pretrain.engine.collapse import warn_of_collapse
from pretrain.engine.loop import Callback, Training

logger = logging.getLogger(__name__)


def spread_evenly(labels: Sequence[int], limit: int) -> list[int]:
    """Returns indices of about `limit` images (0 = all): the first ones of each class, in class
    order.
    """
    if limit == 0 or limit >= len(labels):
        return list(range(len(labels)))
    place: dict[int, int] = {}
    turns = []
    for label in labels:
        turns.append(place.get(label, 0))
        place[label] = turns[-1] + 1
    order = sorted(range(len(labels)), key=lambda i: (turns[i], labels[i]))
    return sorted(order[:limit])


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Resizes the shorter side to 8/7 of `size` px, then cuts the central square (256 and 224).

    An image that already has this size is not changed.
    """
    if image.size == (size, size):
        return image
    image = central_part(image)
    scale = size * 8 / 7 / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))


@dataclass
class LabelledImages:
    """Holds uint8 images (N, 3, S, S) in memory, with labels (N,)."""

    images: Tensor
    labels: Tensor

    @classmethod
    def read(
        cls, dataset: ImageDataset, size: int, limit: int, gray: bool = False
    ) -> LabelledImages:
        """Reads up to `limit` images of a labelled data set, cropped to `size` px. `gray` removes
        their colour.

        Raises InputError if some are unreadable, with their number: a score without them would be
        a score of different images.
        """
        chosen = spread_evenly(dataset.labels.tolist(), limit)
        arrays, findings = [], Findings("data")
        for index in chosen:
            try:
                image = dataset.read(index)
                image = to_gray(image) if gray else image
                arrays.append(np.asarray(centre_crop(image, size)))
            except OSError as error:
                findings.refuse("images are unreadable", str(error), "repair or remove them")
        findings.report()
        images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
        return cls(images, torch.from_numpy(dataset.labels[chosen]))


@torch.no_grad()
def trunk_features(
    trunk: nn.Module, images: Tensor, preprocess: Preprocess, device: torch.device, batch_size: int
) -> Tensor:
    """Returns features (N, D) of uint8 images (N, 3, S, S), in evaluation mode, on the CPU."""
    was_training = trunk.training
    trunk.eval()
    features = [
        trunk(preprocess.apply(part.to(device)).contiguous(memory_format=torch.channels_last))
        for part in images.split(batch_size)
    ]
    trunk.train(was_training)
    return torch.cat(features).float().cpu()


class KnnMonitor(Callback):
    """Measures kNN top-1 in percent, feature std and effective rank, every few epochs and at the
    end.

    It runs only on the main process; the others wait. Images are read once and kept (150 kB each
    at 224 px).
    """

    def __init__(
        self,
        bank: ImageDataset,
        queries: ImageDataset,
        writer: MetricsWriter,
        preprocess: Preprocess,
        *,
        size: int,
        every_epochs: int,
        k: int,
        temperature: float,
        limits: tuple[int, int],
        batch_size: int,
        can_collapse: bool = True,
    ) -> None:
        """Args: can_collapse: whether the method's embeddings can collapse; then it warns."""
        self.bank, self.queries = bank, queries
        self.writer = writer
        self.preprocess = preprocess
        self.size = size
        self.every_epochs = every_epochs
        self.k = k
        self.temperature = temperature
        self.limits = limits
        self.batch_size = batch_size
        self.can_collapse = can_collapse

    def start(self, training: Training) -> None:
        """Reads the images and measures the untrained network."""
        if is_main():
            self._bank = LabelledImages.read(self.bank, self.size, self.limits[0])
            self._queries = LabelledImages.read(self.queries, self.size, self.limits[1])
        if training.step == 0:
            self._measure(training)

    def step(self, training: Training, outcome: dict[str, Any]) -> None:
        """Measures when a number of epochs is complete."""
        if due(training, self.every_epochs) and training.step != training.total_steps:
            self._measure(training)

    def end(self, training: Training) -> None:
        """Measures the final network."""
        self._measure(training)

    def _measure(self, training: Training) -> None:
        if is_main():
            values = self.measure(training.method.trunk, training.device)
            self.writer.write(training.step, **values)
            shown = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
            logger.info("step %d of %d: %s", training.step, training.total_steps, shown)
            if self.can_collapse and training.step > 0:
                warn_of_collapse(values["feature_std"], self._dim, values["effective_rank"])
        barrier()

    def measure(self, trunk: nn.Module, device: torch.device) -> dict[str, float]:
        """Returns kNN top-1, and std and rank of the queries' features."""
        bank, queries = (
            trunk_features(trunk, part.images, self.preprocess, device, self.batch_size)
            for part in (self._bank, self._queries)
        )
        self._dim = queries.shape[1]
        votes = weighted_knn(
            bank,
            self._bank.labels,
            queries,
            k=[self.k],
            temperature=self.temperature,
            num_classes=len(self.bank.classes),
        )
        return {
            f"knn{self.k}_top1": top_accuracy(votes[self.k], self._queries.labels),
            "feature_std": feature_std(queries),
            "effective_rank": effective_rank(queries),
        }
