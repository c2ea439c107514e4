"""lightly's SimCLR pipeline as its users run it: makes batches of two views from a JPEG folder.

`LightlyDataset` (torchvision's ImageFolder and PIL), `SimCLRTransform` (per image, in the workers)
and torch's DataLoader, as in lightly's `examples/pytorch/simclr.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pretrain.common.installed import check_installed

PEERS = ("lightly",)


def require_peer(name: str) -> None:
    """Raises InputError, with the command that installs the peer, if it is missing."""
    more = f"{name} (part of the extra 'peers'; a separate folder on PYTHONPATH also works)"
    check_installed(name, f"--peer {name}: {name}", more)


def lightly_batches(
    folder: Path, *, size: int, length: int, batch_size: int, num_workers: int, seed: int
) -> Iterator[int]:
    """Yields numbers of images of lightly's batches (its views are in memory when one is yielded).

    folder: class folders of images. size: pixels of a view. length: total images, by repetition.
    """
    import torch
    from lightly.data import LightlyDataset
    from lightly.transforms.simclr_transform import SimCLRTransform
    from torch.utils.data import DataLoader, Subset

    images = LightlyDataset(str(folder), transform=SimCLRTransform(input_size=size))
    loader = DataLoader(
        Subset(images, [i % len(images) for i in range(length)]),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=num_workers,
        generator=torch.Generator().manual_seed(seed),
    )
    for views, _, _ in loader:
        yield len(views[0])
