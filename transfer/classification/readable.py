"""Names all unreadable images of some splits at once: splits in, one InputError with their number.

What trains on crops looks before it begins. What computes features once reads each image anyway,
and looks only when it meets an unreadable one.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils.data import DataLoader, Dataset

from pretrain.common.distributed import gather_objects, rank, world_size
from pretrain.common.errors import InputError
from pretrain.common.findings import SHOWN
from pretrain.common.logs import progress
from pretrain.common.resources import usable_workers
from transfer.classification.data import Split


def check_readable(splits: Sequence[Split], num_workers: int) -> None:
    """Decodes every image once. All processes must call it: each takes a part of the images.

    Raises:
        InputError: how many are unreadable, and the first ones.
    """
    errors: list[str] = []
    for split in splits:
        mine = range(rank(), len(split), world_size())
        loader = DataLoader(
            _Reading(split, mine), batch_size=64, num_workers=usable_workers(num_workers)
        )
        with progress(loader, desc=f"checking images of {split.name}", leave=False) as batches:
            errors += [text for batch in batches for text in batch if text]
    found = [text for part in gather_objects(errors) for text in part]
    if found:
        where = f" in {splits[0].name}" if len(splits) == 1 else ""
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise InputError(
            f"{len(found)} unreadable image{'s' if len(found) > 1 else ''}{where}: "
            f"{'; '.join(found[:SHOWN])}{more}; repair or remove them"
        )


class _Reading(Dataset):
    """Item i is "" or the text of what makes the i-th of `indices` unreadable."""

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
