"""Features (N, D) that are filled batch by batch, in memory or on disk below CACHE_DIR/KEY.

On disk, features.npy is created at its full size and filled in place. A journal has one line for
each batch in it, with the crc32 of the batch's bytes. One rule covers a complete cache, a killed
extraction, a torn file and a file of different weights: a batch that has no line, or whose bytes do
not match its line, is computed again. Features are memory-mapped from the file and never read into
memory in full. A batch does not depend on the process that computed it, so an extraction may
continue with a different number of processes.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import shutil
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.common.checkpoint import atomic_write_text
from pretrain.common.errors import InputError
from pretrain.common.locks import locked
from pretrain.common.safe_json import parse_json
from pretrain.common.temporaries import sweep

logger = logging.getLogger(__name__)


class FeatureTable:
    """Holds features of N images in memory. Batch b starts at row b * batch_size.

    Attributes:
        pending: numbers of the batches that have not been computed yet, in order.
        seconds: time that the computed batches took.
    """

    def __init__(self, rows: int, batch_size: int) -> None:
        self.rows, self.batch_size = rows, batch_size
        self.seconds = 0.0
        self.pending = list(range(math.ceil(rows / batch_size)))
        self._values: Tensor | None = None

    def span(self, batch: int) -> slice:
        """Returns the rows of a batch."""
        return slice(batch * self.batch_size, min((batch + 1) * self.batch_size, self.rows))

    def add(self, batch: int, values: Tensor, seconds: float) -> None:
        """Adds a pending batch's features (n, D), on the CPU, and the time that they took."""
        self._write(batch, values, seconds)
        self.pending.remove(batch)
        self.seconds += seconds

    def values(self) -> Tensor:
        """Returns all features (N, D), when nothing is pending."""
        assert self._values is not None, "no batch has been added"
        return self._values

    def _write(self, batch: int, values: Tensor, seconds: float) -> None:
        if self._values is None:
            self._values = values.new_empty(self.rows, values.shape[1])
        self._values[self.span(batch)] = values


class KeptTable(FeatureTable):
    """Holds features of N images on disk; it starts from what an earlier run left in the folder."""

    def __init__(self, folder: Path, rows: int, batch_size: int) -> None:
        """Reads what is in `folder`, CACHE_DIR/KEY. The caller holds its lock if it is writable."""
        super().__init__(rows, batch_size)
        self._file, self._journal = folder / "features.npy", folder / "journal.jsonl"
        # by batch: {batch, crc32, seconds}
        self._lines: dict[int, dict[str, Any]] = {}
        self._begun = False
        try:
            self._take_over()
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:  # torn or foreign
            if self._journal.exists():
                logger.warning("%s: computed again (%s)", folder, error)

    def values(self) -> Tensor:
        """Returns all features (N, D), mapped from the file."""
        return _as_tensor(self._mapped())

    def _take_over(self) -> None:
        """Takes over the batches whose bytes match the journal, and the batch size.

        Raises:
            ValueError: the folder has nothing that can be used.
        """
        head, *entries = _read_lines(self._journal)
        if head["key"] != self._file.parent.name:
            raise ValueError("features of different weights or images")
        found, mine = FeatureTable(self.rows, head["batch_size"]), self.batch_size
        mapped = self._mapped()
        lines = {line["batch"]: line for line in entries}
        good = {b: line for b, line in lines.items() if _is_whole(mapped[found.span(b)], line)}
        left = [b for b in found.pending if b not in good]
        if left and found.batch_size != mine:
            raise ValueError(f"begun with a batch size of {found.batch_size}, not {mine}")
        if len(good) < len(lines):
            torn = len(lines) - len(good)
            logger.warning("%s: %d batches are damaged and are computed again", self._file, torn)
        self.batch_size, self.pending, self._lines = found.batch_size, left, good
        self.seconds = sum(line["seconds"] for line in good.values())
        if left and good:
            total = len(good) + len(left)
            logger.info("%s: continuing after %d of %d batches", self._file, len(good), total)

    def _mapped(self) -> np.memmap:
        mapped = np.load(self._file, mmap_mode="r")
        if mapped.ndim != 2 or len(mapped) != self.rows:
            raise ValueError(f"features have the shape {mapped.shape}, expected {self.rows} rows")
        return mapped

    def _write(self, batch: int, values: Tensor, seconds: float) -> None:
        array = np.ascontiguousarray(values.numpy())
        try:
            if not self._begun:
                self._begin(array)
            # Not through the map: on a full disk that is a SIGBUS instead of an error
            with open(self._file, "r+b") as file:
                file.seek(self._offset + self.span(batch).start * array[0].nbytes)
                file.write(array.data)
            self._append({"batch": batch, "crc32": _crc(array), "seconds": seconds})
        except OSError as error:
            raise InputError(
                f"CACHE_DIR {self._file.parent.parent} cannot be written ({error.strerror}); free "
                "some space or set a different folder; the batches before this one are kept"
            ) from error

    def _begin(self, array: np.ndarray) -> None:
        """Creates the file, unless its batches are reused, and a journal that lists only these."""
        if not self._lines:
            draft = self._file.with_suffix(".draft")
            shape = (self.rows, array.shape[1])
            _check_space(self._file.parent, self.rows * array[0].nbytes)
            np.lib.format.open_memmap(draft, "w+", array.dtype, shape)
            os.replace(draft, self._file)  # a process that reads the old file keeps it
        self._offset = self._mapped().offset
        head = {"key": self._file.parent.name, "batch_size": self.batch_size}
        lines = [json.dumps(line) for line in (head, *self._lines.values())]
        atomic_write_text(self._journal, "\n".join(lines) + "\n")
        self._begun = True

    def _append(self, line: dict[str, Any]) -> None:
        with open(self._journal, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@contextmanager
def open_table(folder: Path | None, rows: int, batch_size: int) -> Iterator[FeatureTable]:
    """Opens the features in a folder, CACHE_DIR/KEY, for one run at a time; None: in memory.

    Raises:
        InputError: CACHE_DIR cannot be written.
    """
    if folder is None:
        yield FeatureTable(rows, batch_size)
        return
    refusal = f"CACHE_DIR {folder.parent} cannot be written; set a different folder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{refusal} ({error.strerror})") from error
    waiting = f"waiting for another run that extracts the features of {folder}"
    ours = os.access(folder, os.W_OK)  # a colleague's folder may be readable only
    with locked(folder, waiting) if ours else nullcontext():
        if ours:
            sweep(folder)
        table = KeptTable(folder, rows, batch_size)
        if table.pending and not ours:
            raise InputError(refusal)
        yield table


def _crc(array: np.ndarray) -> int:
    return zlib.crc32(array.data)  # its bytes, row by row


def _is_whole(values: np.ndarray, line: dict[str, Any]) -> bool:
    """Returns whether a batch's bytes are as written and finite: NaN would end the protocol."""
    return _crc(values) == line["crc32"] and bool(np.isfinite(values).all())


def _read_lines(journal: Path) -> list[dict[str, Any]]:
    """Returns the journal's lines, without a last line that a kill has cut off."""
    lines = []
    for text in journal.read_text(encoding="utf-8").split("\n"):
        try:
            lines.append(parse_json(text))
        except ValueError:
            break
    return lines


def _as_tensor(mapped: np.memmap) -> Tensor:
    with warnings.catch_warnings():  # torch has no read-only tensors; no code writes to these
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(mapped)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"CACHE_DIR {folder.parent}: the features need {_size(needed)}, but only "
            f"{_size(free)} are free; set a different folder, or FEATURES.STORAGE fp16"
        ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _size(size: int) -> str:
    """Returns a number of bytes in a unit that does not round it to 0."""
    if size < 1e5:
        return f"{size / 1e3:.1f} kB"
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
