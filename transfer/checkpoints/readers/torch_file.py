"""Files of torch.save: tensors and builtins only, unless the user trusts the file."""

from __future__ import annotations

import argparse
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from pretrain.common.errors import InputError
from transfer.checkpoints.readers.numpy_pickle import STAND_INS, no_bytes, settled
from transfer.checkpoints.readers.refusal_messages import is_cut, refusal, refused_name
from transfer.checkpoints.readers.trusted_pickle import PICKLE, plain_modules
from transfer.checkpoints.readers.unpickle import PATHS


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
# runs nothing.
HARMLESS: list[Any] = [
    argparse.Namespace,
    *((Inert, name) for name in INERT),
    *((value, ".".join(name)) for name, value in {**STAND_INS, **PATHS}.items()),
    *((value, name) for name, value in (("builtins.slice", slice), ("builtins.complex", complex))),
    *((no_bytes, f"{module}bytes") for module in ("", "builtins.", "__builtin__.")),
]


def read_torch(file: Path, trust: bool = False) -> tuple[Any, str | None]:
    """Returns the loaded object on the CPU, and the facts in a flat state_dict's `_metadata`.

    Raises:
        InputError: truncated, of another kind, or refused; names the forbidden global.
    """
    _check_zip(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of old kinds of tensors
            content = _loaded(file, trust)
    except Exception as error:  # torch raises many kinds for one cause: the file
        raise InputError(_reason(file, error)) from error
    metadata = getattr(content, "_metadata", None)
    facts = metadata.get("transfer") if isinstance(metadata, dict) else None
    return content, facts


def _loaded(file: Path, trust: bool) -> Any:
    # By a stream: torch.load takes a file named .safetensors for one, whatever is in it.
    with file.open("rb") as stream, torch.serialization.safe_globals(HARMLESS):
        source = stream if file.suffix == ".safetensors" else file
        if trust:
            content = torch.load(source, "cpu", weights_only=False, pickle_module=PICKLE)
            return plain_modules(content)
        return settled(torch.load(source, "cpu", weights_only=True))


def _check_zip(file: Path) -> None:
    """torch stores its tensors uncompressed: a packed file can unfold to any size."""
    if not zipfile.is_zipfile(file):
        with file.open("rb") as stream:
            if stream.read(2) == b"PK":
                raise InputError(
                    f"{file} is truncated: the end of its zip archive is missing "
                    f"({file.stat().st_size} bytes are there); copy or download it again"
                )
        return
    with zipfile.ZipFile(file) as archive:
        unfolded = sum(entry.file_size for entry in archive.infolist())
    if unfolded > file.stat().st_size:
        raise InputError(
            f"{file} declares {unfolded} bytes, more than the file holds: it was zipped again with "
            f"compression, which torch never does; unzip it, then zip -0 -r again.pth FOLDER"
        )


def _reason(file: Path, error: Exception) -> str:
    name = refused_name(str(error))
    if name is not None:
        return refusal(file, name)
    first = " ".join(str(error).split()).split(". ")[0][:120] or type(error).__name__
    cut = "is truncated" if is_cut(error) else "is not a readable torch file"
    return f"{file} {cut}: {first}; copy or download it again"
