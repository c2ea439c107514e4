"""Image files with their labels as a few arrays, which many processes can share.

ImageNet has 1.28 million files. If their paths are a list of Python strings, each loader process
that reads it copies it, page by page, because reading an object changes its reference count. Here
all paths are in one bytes object. Legend: N files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np


class PackedPaths(Sequence[str]):
    """Paths one after the other in one bytes object; path i is decoded when it is read."""

    def __init__(self, paths: Iterable[str]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        self._bytes = b"".join(encoded)
        self._offsets = np.concatenate([[0], lengths.cumsum()])  # (N + 1,)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        places = range(len(self))[index]  # handles negative indices and raises IndexError
        if isinstance(places, range):
            return [self[place] for place in places]
        begin, end = self._offsets[places : places + 2].tolist()
        return os.fsdecode(self._bytes[begin:end])

    def encoded(self) -> list[bytes]:
        """Returns all paths as bytes, which is faster than reading them one by one."""
        ends = self._offsets.tolist()
        return [self._bytes[begin:end] for begin, end in zip(ends, ends[1:])]


@dataclass(frozen=True)
class FileList:
    """Image i is the file `paths[i]`, of the class `classes[labels[i]]`.

    Attributes:
        labels: (N,) int64; all are -1 if the folder has no classes.
        left_out: counts, by suffix, the files of the same folder that are not read as images.
    """

    paths: PackedPaths
    labels: np.ndarray
    classes: list[str]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def pack(
        cls,
        paths: Iterable[str],
        labels: Sequence[int],
        classes: Sequence[str],
        left_out: Mapping[str, int] | None = None,
    ) -> FileList:
        """Returns the list of these paths and labels."""
        packed = np.asarray(labels, dtype=np.int64)
        return cls(PackedPaths(paths), packed, list(classes), dict(left_out or {}))
