"""Reads files of torch.save: tensors and builtins only, unless the user trusts the file."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import torch

from pretrain.common.errors import InputError
from pretrain.common.torch_files import check_torch_file
from pretrain.common.verbosity import quieted
from transfer.checkpoints.readers.numpy_pickle import STAND_INS, settled
from transfer.checkpoints.readers.plain_calls import PATHS, no_bytes
from transfer.checkpoints.readers.reading_budget import budget_for
from transfer.checkpoints.readers.refusal_messages import is_cut, refusal, refused_name
from transfer.checkpoints.readers.shared_content import check_sharing
from transfer.checkpoints.readers.trusted_pickle import PICKLE, plain_modules

# It warns that a DTensor's processes do not exist here; only the tensor's values are used.
MESHES = "torch.distributed.device_mesh"


class Inert:
    """Replaces a class or function that a file names next to its tensors; it does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> Inert:
        """Makes an empty object from any arguments."""
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
# What real checkpoints have besides tensors (parsed arguments, a numpy accuracy); rebuilding these
# does not run any code.
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
        InputError: truncated, of a different kind, or refused; names the forbidden global.
    """
    check_torch_file(file)
    try:
        with warnings.catch_warnings(), quieted(MESHES):
            warnings.simplefilter("ignore")  # a warning of torch about old kinds of tensors
            content = _loaded(file, trust)
    except InputError:
        raise
    except Exception as error:  # torch raises many kinds of errors for one cause: the file
        raise InputError(_reason(file, error)) from error
    metadata = getattr(content, "_metadata", None)
    facts = metadata.get("transfer") if isinstance(metadata, dict) else None
    return content, facts


def _loaded(file: Path, trust: bool) -> Any:
    # As a stream: torch.load would read any file whose name ends in .safetensors as safetensors.
    size = file.stat().st_size
    with (
        file.open("rb") as stream,
        torch.serialization.safe_globals(HARMLESS),
        budget_for(size),
    ):
        source = stream if file.suffix == ".safetensors" else file
        if trust:
            content = torch.load(source, "cpu", weights_only=False, pickle_module=PICKLE)
            check_sharing(content, file)
            return plain_modules(content)
        content = settled(torch.load(source, "cpu", weights_only=True))
        check_sharing(content, file)
        return content


def _reason(file: Path, error: Exception) -> str:
    name = refused_name(str(error))
    if name is not None:
        return refusal(file, name)
    first = " ".join(str(error).split()).split(". ")[0][:120] or type(error).__name__
    cut = "is truncated" if is_cut(error) else "is not a readable torch file"
    return f"{file} {cut}: {first}; copy or download it again"
