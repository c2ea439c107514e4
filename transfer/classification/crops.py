"""How an image becomes the crop that a backbone sees. The worker processes of a loader read crops.

A crop is uint8 (3, S, S) in RGB, and S is its side in pixels. For an image that cannot be read, the
worker returns a text that says why: if it raised an exception, the message would contain the
worker's traceback. `check_readable` counts all such images of a data set at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pretrain.common.distributed import gather_objects, rank, world_size
from pretrain.common.errors import InputError
from pretrain.common.findings import SHOWN
from pretrain.common.logs import progress
from pretrain.common.lookup import find
from pretrain.common.lost_workers import Batches
from pretrain.common.resources import loader_processes
from pretrain.data.crops import central_part
from pretrain.data.gray import to_gray
from transfer.classification.splits import Split

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class ImageTransform:
    """Resizes the shorter side to `resize` px, then crops the central `size` x `size` px.

    With `squash` the full image is resized to size x size px instead, as VISSL does for VOC07.
    With `gray` the image is first converted to grey (see `pretrain.data.gray`).
    """

    resize: int
    size: int
    interpolation: str = "bilinear"
    squash: bool = False
    gray: bool = False

    def __post_init__(self) -> None:
        find(self.interpolation, INTERPOLATIONS, "interpolation", "PROTOCOL.INTERPOLATION")
        if not 0 < self.size <= self.resize:
            raise InputError(
                f"PROTOCOL.IMAGE_SIZE {self.size} must be from 1 to PROTOCOL.RESIZE {self.resize}"
            )

    def apply(self, image: Image.Image) -> Tensor:
        """Returns the crop of a PIL image in RGB.

        Sides are rounded as torchvision's Resize and CenterCrop round them.
        """
        if self.gray:
            image = to_gray(image)
        if not self.squash:
            image = central_part(image)
        width, height = image.size
        short = min(width, height)
        if short != self.resize:
            width, height = (
                self.resize if side == short else self.resize * side // short
                for side in (width, height)
            )
            image = image.resize((width, height), INTERPOLATIONS[self.interpolation])
        if self.squash:
            image = image.resize((self.size, self.size), INTERPOLATIONS[self.interpolation])
        left = round((image.width - self.size) / 2)
        top = round((image.height - self.size) / 2)
        image = image.crop((left, top, left + self.size, top + self.size))
        return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)


class CropDataset(Dataset[Tensor | str]):
    """Item i is the crop of image `indices[i]`, or a text that says why it cannot be read."""

    def __init__(self, split: Split, indices: Sequence[int], transform: ImageTransform) -> None:
        self.split, self.indices, self.transform = split, indices, transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Tensor | str:
        try:
            return self.transform.apply(self.split.images.read(self.indices[position]))
        except OSError as error:
            return " ".join(str(error).split())


def collate(items: Sequence[Tensor | str]) -> Tensor | str:
    """Stacks N crops to (N, 3, S, S), or returns the first text if an image was unreadable."""
    errors = [item for item in items if isinstance(item, str)]
    return (
        errors[0] if errors else torch.stack([item for item in items if isinstance(item, Tensor)])
    )


def check_readable(splits: Sequence[Split], num_workers: int) -> None:
    """Decodes every image of the splits once. All processes must call it: each checks a part.

    Raises:
        InputError: some images are unreadable; the message counts them and names the first ones.
    """
    errors: list[str] = []
    for split in splits:
        mine = range(rank(), len(split), world_size())
        loader = DataLoader(
            _Reading(split, mine),
            batch_size=64,
            **loader_processes(num_workers),
            generator=torch.Generator(),  # does not change the global one: see `load`
        )
        with progress(
            Batches(loader), desc=f"checking images of {split.name}", leave=False
        ) as batches:
            errors += [text for batch in batches for text in batch if text]
    found = [text for part in gather_objects(errors) for text in part]
    if found:
        where = f" in {splits[0].name}" if len(splits) == 1 else ""
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise InputError(
            f"{len(found)} unreadable image{'s' if len(found) > 1 else ''}{where}: "
            f"{'; '.join(found[:SHOWN])}{more}; repair or remove them"
        )


class _Reading(Dataset[str]):
    """Item i is "", or a text that says why image `indices[i]` cannot be read."""

    def __init__(self, split: Split, indices: Sequence[int]) -> None:
        self.split, self.indices = split, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> str:
        try:
            self.split.images.read(self.indices[position])
        except OSError as error:
            return " ".join(str(error).split())
        return ""
