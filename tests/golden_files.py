"""Writes golden files: what a peer project computed, for machines on which it is not installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch


def record(
    folder: Path, names: Iterable[str], compute: Callable[[str], Mapping[str, np.ndarray]]
) -> None:
    """Writes `folder`/NAME.npz with the arrays that `compute` returns for each name."""
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)  # sums in one order on machines of any size
    for name in names:
        arrays = compute(name)
        path = folder / f"{name}.npz"
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
        print(f"{path}: {path.stat().st_size / 1024:.1f} KiB, {len(arrays)} arrays")
