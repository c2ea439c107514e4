"""Pickles of numpy arrays (Detectron2's `.pkl`, BYOL's), read by the restricted unpickler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.common.errors import InputError
from transfer.checkpoints.readers.refusal_messages import is_cut, not_plain, refusal
from transfer.checkpoints.readers.refused_content import ForbiddenGlobal, NotPlain
from transfer.checkpoints.readers.shared_content import check_sharing
from transfer.checkpoints.readers.trusted_pickle import plain_modules, trusted_load
from transfer.checkpoints.readers.unpickle import restricted_load

DEPTH = 6  # depth of nested mappings that are searched; BYOL's have 4


def read_pickle(file: Path, trust: bool = False) -> tuple[Any, str | None]:
    """Returns the pickled object, and the facts in its key `transfer`.

    Raises:
        InputError: truncated, not a pickle, or refused; names the forbidden global.
    """
    try:
        with file.open("rb") as stream:
            content = (trusted_load if trust else restricted_load)(stream, encoding="latin1")
    except ForbiddenGlobal as error:
        raise InputError(refusal(file, str(error))) from error
    except NotPlain as error:
        raise InputError(not_plain(file, str(error))) from error
    except Exception as error:  # a damaged pickle raises nearly any error
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        cut = "is truncated" if is_cut(error) else "is not a readable pickle"
        raise InputError(f"{file} {cut}: {reason}; copy or download it again") from error
    check_sharing(content, file)
    content = plain_modules(content)
    _check_size(content, file)
    facts = content.get("transfer") if isinstance(content, Mapping) else None
    return content, facts


def _check_size(content: Any, file: Path) -> None:
    """Raises InputError for an array declared larger than its data: it would fill the memory."""
    arrays = {id(array): array for array in _arrays(content)}
    declared = sum(array.nbytes for array in arrays.values())
    if declared > file.stat().st_size:
        raise InputError(
            f"{file} declares {declared} bytes of arrays, more than the file has; copy or download "
            "it again"
        )


def _arrays(value: Any, depth: int = 0) -> Iterator[np.ndarray]:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, Mapping) and depth < DEPTH:
        for entry in value.values():
            yield from _arrays(entry, depth + 1)
