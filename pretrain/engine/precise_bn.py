"""Batch-norm statistics estimated again after training: checkpoint in, a second checkpoint out.

Running statistics come from masked, noisy views, but every frozen probe sees clean images.
fvcore's precise BN (after Wu and Johnson, arXiv 2105.07576) averages them again over unmasked
training images, filtered if the weights expect it. Legend: N images, S side in pixels.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pretrain.common.checkpoint import save_checkpoint
from pretrain.common.distributed import barrier, is_main
from pretrain.data.datasets import ImageDataset
from pretrain.data.preprocess import Preprocess
from pretrain.engine.callbacks import Callback
from pretrain.engine.loop import Training
from pretrain.engine.monitor import centre_crop
from pretrain.engine.state import describe_training
from pretrain.methods.encode import channels_last

FILE_NAME = "checkpoint_precise_bn.pth"
logger = logging.getLogger(__name__)


def import_fvcore() -> ModuleType:
    """Imports fvcore.nn.precise_bn. On import, its package compiles losses with torch.jit.script,
    and torch warns about that; the warning is hidden, because a user cannot change it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from fvcore.nn import precise_bn
    return precise_bn


class PreciseBN(Callback):
    """Writes FILE_NAME at the end: the last checkpoint without its optimizer, with new statistics.

    The main process does it, and the others wait. If a trunk has no batch norm, no file is written.

    Args:
        images: the training images; `num_images` of them are drawn from `seed`.
        preprocess: the preprocessing that the weights expect.
        build_trunk: makes a trunk of the run's architecture, with ordinary batch norms.
        size: side of the central crops in pixels.
    """

    def __init__(
        self,
        folder: Path,
        facts: dict[str, Any],
        images: ImageDataset,
        preprocess: Preprocess,
        *,
        build_trunk: Callable[[], nn.Module],
        size: int,
        num_images: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.folder = folder
        self.facts = facts
        self.images = images
        self.preprocess = preprocess
        self.build_trunk = build_trunk
        self.size = size
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed

    def end(self, training: Training) -> None:
        """Estimates the statistics and writes the file."""
        if is_main():
            trunk = self.estimate(training)
            if trunk is not None:
                self._write(training, trunk)
        barrier()

    def estimate(self, training: Training) -> nn.Module | None:
        """Returns a copy of the trunk with the new statistics; None if it has no batch norm."""
        precise_bn, trunk = import_fvcore(), self.build_trunk()
        trunk.load_state_dict(training.method.trunk.state_dict())
        if not precise_bn.get_bn_modules(trunk.train()):
            return None
        trunk.to(training.device).to(memory_format=torch.channels_last)
        batches = self._batches(training.device)
        total = max(1, min(self.num_images, len(self.images)) // self.batch_size)
        with torch.no_grad():
            precise_bn.update_bn_stats(trunk, batches, total)
        return trunk.eval()

    def _write(self, training: Training, trunk: nn.Module) -> None:
        content = describe_training(training, self.facts)
        statistics = {
            f"trunk.{name}": value
            for name, value in trunk.state_dict().items()
            if name.endswith(("running_mean", "running_var"))
        }
        content["model"] = {**content["model"], **statistics}
        content["optimizer"] = None
        save_checkpoint(content, self.folder / FILE_NAME)
        logger.info("batch-norm statistics of unmasked images: %s", self.folder / FILE_NAME)

    def _batches(self, device: torch.device) -> Iterator[Tensor]:
        order = np.random.default_rng(self.seed).permutation(len(self.images)).tolist()
        chosen = order[: self.num_images]
        size = min(self.batch_size, len(chosen))
        for start in range(0, len(chosen) - size + 1, size):
            pixels = [self._read(index) for index in chosen[start : start + size]]
            readable = [image for image in pixels if image is not None]
            batch = torch.from_numpy(np.stack(readable)).permute(0, 3, 1, 2).to(device)
            yield channels_last(self.preprocess.apply(batch))

    def _read(self, index: int) -> np.ndarray | None:
        try:
            return np.asarray(centre_crop(self.images.read(index), self.size))
        except OSError:  # the loader has already counted and logged it
            return None
