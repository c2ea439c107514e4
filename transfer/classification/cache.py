"""Features kept on disk: complete ones under their content key, and the parts of an unfinished run.

A cache folder holds KEY.pt, written whole, and while an extraction runs KEY.partial/ with one file
per finished part. A killed extraction goes on after its last part, given the same number of
processes and batch size: parts are whole batches, so that the result is the same bit for bit.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.common.checkpoint import atomic_write, load_torch_file
from pretrain.common.distributed import rank, world_size
from pretrain.common.errors import InputError
from pretrain.data.datasets import SubsetImages
from transfer.classification.data import Chosen, Split

logger = logging.getLogger(__name__)
PART_BATCHES = 16  # batches in a part


def read_cache(path: Path, split: Split) -> dict[str, Any] | None:
    """{values, labels, seconds} of KEY.pt; None, with a notice, where the file does not serve."""
    try:
        content = load_torch_file(path)
    except InputError as error:
        reason = str(error)
    else:
        if isinstance(content, dict) and content.get("key") == path.stem:
            if torch.equal(content["labels"], split.labels):
                return {name: content[name] for name in ("values", "labels", "seconds")}
        reason = f"{path} holds features of other weights or images"
    logger.warning("%s: computed again", reason)
    return None


def write_cache(path: Path, **content: Any) -> None:
    """Writes KEY.pt whole, then removes the parts it was made of."""
    atomic_write(path, lambda file: torch.save({"key": path.stem, **content}, file))
    shutil.rmtree(path.with_suffix(".partial"), ignore_errors=True)


class Parts:
    """This process's finished parts of one extraction, each features (n, D) of whole batches."""

    def __init__(self, path: Path | None, batch_size: int) -> None:
        """Args: path: KEY.pt; None: nothing is kept."""
        self._folder = path.with_suffix(".partial") if path else None
        self._stem = f"{rank()}of{world_size()}b{batch_size}"
        self.values: list[Tensor] = []
        self._pending: list[Tensor] = []
        while self._folder and (file := self._file()).is_file():
            try:
                self.values.append(load_torch_file(file))
            except InputError as error:
                logger.warning("%s: computed again from there", error)
                break
        if self.values:
            logger.info("%s: going on after %d images", self._folder, self.images)

    @property
    def images(self) -> int:
        """How many of this process's images are in finished parts."""
        return sum(len(part) for part in self.values)

    def add(self, features: Tensor) -> None:
        """Takes one batch's features; every `PART_BATCHES` of them become a part."""
        self._pending.append(features)
        if len(self._pending) == PART_BATCHES:
            self._finish()

    def all(self) -> Tensor:
        """Everything so far (n, D), on the device of the newest batch."""
        if self._pending:
            self._finish(keep=False)
        return torch.cat([part.to(self.values[-1].device) for part in self.values])

    def _finish(self, keep: bool = True) -> None:
        part = torch.cat(self._pending)
        if self._folder and keep:
            atomic_write(self._file(), lambda file: torch.save(part.cpu(), file))
        self.values.append(part)
        self._pending = []

    def _file(self) -> Path:
        assert self._folder is not None
        return self._folder / f"{self._stem}_{len(self.values):05d}.pt"


def file_stamp(images: Any, index: int) -> list[int]:
    """[size in bytes, time of change in ns] of an image's file; [] for images in memory."""
    if isinstance(images, (Chosen, SubsetImages)):
        whole = images.images if isinstance(images, Chosen) else images.whole
        return file_stamp(whole, images.indices[index])
    if hasattr(images, "images"):  # another view of the same images
        return file_stamp(images.images, index)
    try:
        status = os.stat(images.name(index))
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]
