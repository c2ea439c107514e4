"""Files of torch.save: tensors and builtins only, unless the user trusts the file."""

from __future__ import annotations

import argparse
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from pretrain.common.errors import InputError
from transfer.checkpoints.unpickle import NUMPY_REBUILDERS


class Inert:
    """Stands for a class or function that a file names beside its tensors; does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> Inert:
        """An empty object, whatever the file passes."""
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Forgets the state."""

    def __setitem__(self, key: object, value: object) -> None:
        """Forgets the item."""


# Names that public checkpoints are known to use: the filter of Barlow Twins' and VICReg's LARS,
# which their optimizer states hold; mmengine's log; Lightning's callbacks as keys before 1.5.
INERT = (
    *(f"{module}.exclude_bias_and_norm" for module in ("__main__", "main_vicreg", "optimizers")),
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    *(
        f"pytorch_lightning.callbacks.{name}"
        for name in (
            "model_checkpoint.ModelCheckpoint",
            "early_stopping.EarlyStopping",
            "lr_monitor.LearningRateMonitor",
        )
    ),
)
# What real checkpoints hold beside tensors (parsed arguments, a numpy accuracy); rebuilding these
# runs nothing. numpy 2 renamed `numpy.core`; files under both names are about.
HARMLESS: list[Any] = [
    argparse.Namespace,
    *((PurePosixPath, f"pathlib{local}.PosixPath") for local in ("", "._local")),
    *((Inert, name) for name in INERT),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "u4", "u8", "?")),
    *((value, ".".join(name)) for name, value in NUMPY_REBUILDERS.items()),
]


def read_torch(file: Path, trust: bool = False) -> tuple[Any, str | None]:
    """Returns the loaded object on the CPU, and the facts in a flat state_dict's `_metadata`.

    Raises:
        InputError: truncated, of another kind, or refused; names the forbidden global.
    """
    _check_zip(file)
    try:
        with torch.serialization.safe_globals(HARMLESS):
            content = torch.load(file, map_location="cpu", weights_only=not trust)
    except Exception as error:  # torch raises many kinds for one cause: the file
        raise InputError(_reason(file, str(error))) from error
    metadata = getattr(content, "_metadata", None)
    facts = metadata.get("transfer") if isinstance(metadata, dict) else None
    return content, facts


def _check_zip(file: Path) -> None:
    """torch stores its tensors uncompressed: a packed file can unfold to any size."""
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        unfolded = sum(entry.file_size for entry in archive.infolist())
    if unfolded > file.stat().st_size:
        raise InputError(
            f"{file} declares {unfolded} bytes, more than the file holds: it is compressed, which "
            "torch never does; unpack and save it again if you know who made it"
        )


def _reason(file: Path, message: str) -> str:
    forbidden = re.search(r"GLOBAL (\S+)", message)
    if forbidden:
        return (
            f"{file} wants to load {forbidden[1]}, which could run code, and is refused; "
            "--trust reads it if you know who made it"
        )
    first = " ".join(message.split()).split(". ")[0][:120]
    return f"{file} is not a readable torch file (truncated, or another format): {first}"
