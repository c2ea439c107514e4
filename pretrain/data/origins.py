"""Where the images of a set come from: files, or pixels in memory; their names, sizes and content.

Three modules use this one: the identity of a set (`fingerprint.py`), the images that two sets share
(`shared_images.py`), and the stored features of images. So a process asks for a file's size only
once. Legend: N images of the set; `rows` are the numbers of some of them.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from pretrain.data.file_list import PackedPaths

THREADS = 8  # on a network file system most of the time is waiting
CHUNK = 1000  # files that a thread takes at once
MOST_BYTES = 2**20  # bytes of a file that are read for its checksum by default
GONE, UNASKED = -1, -2  # in place of a size: the file does not exist, or was not asked yet

Found = TypeVar("Found")


class Origin(ABC):
    """Describes where N images come from, by number."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def names(self) -> list[bytes]:
        """Returns the path of each image's file, or another name of the image."""

    @abstractmethod
    def stamps(self, rows: np.ndarray) -> np.ndarray:
        """Returns int64 (n, 2): size in bytes and time of change in ns of each file, GONE for a
        missing one. For pixels in memory it is their CRC-32, (n, 1).
        """

    @abstractmethod
    def checksums(self, rows: np.ndarray, most: int = MOST_BYTES) -> np.ndarray:
        """Returns int64 (n,): a hash of the first `most` bytes of each file (GONE for one that
        cannot be read), or of all pixels.
        """

    def all_stamps(self) -> list[list[int]]:
        """Returns `stamps` of all images, as builtins."""
        found: list[list[int]] = self.stamps(np.arange(len(self))).tolist()
        return found


class Files(Origin):
    """Is the origin of images that are read from files."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._stamps: np.ndarray | None = None  # int64 (N, 2)

    def __getstate__(self) -> dict[str, Any]:
        """The state without the stamps: a process that receives images reads them itself."""
        return {**self.__dict__, "_stamps": None}

    def __len__(self) -> int:
        return len(self._paths)

    def names(self) -> list[bytes]:
        """See `Origin.names`."""
        if isinstance(self._paths, PackedPaths):
            return self._paths.encoded()
        return [os.fsencode(path) for path in self._paths]

    def stamps(self, rows: np.ndarray) -> np.ndarray:
        """See `Origin.stamps`; each file is asked once."""
        if self._stamps is None:
            self._stamps = np.full((len(self), 2), UNASKED, np.int64)
        missing = np.unique(rows[self._stamps[rows, 0] == UNASKED])
        names = self.names() if len(missing) * 4 > len(self) else self._paths
        found = _in_threads(_stamp, [names[row] for row in missing.tolist()])
        self._stamps[missing] = np.array(found, np.int64).reshape(-1, 2)
        return self._stamps[rows]

    def checksums(self, rows: np.ndarray, most: int = MOST_BYTES) -> np.ndarray:
        """See `Origin.checksums`."""
        paths = [self._paths[row] for row in rows.tolist()]
        return np.array(_in_threads(lambda path: _checksum(path, most), paths), np.int64)


class Pixels(Origin):
    """Is the origin of decoded images in memory, uint8 (N, H, W, 3) or N of different sizes, and
    has their names.
    """

    def __init__(self, pixels: np.ndarray | Sequence[np.ndarray], names: Sequence[str]) -> None:
        self._pixels, self._names = pixels, names

    def __len__(self) -> int:
        return len(self._pixels)

    def names(self) -> list[bytes]:
        """See `Origin.names`."""
        return [name.encode("utf-8", "surrogateescape") for name in self._names]

    def stamps(self, rows: np.ndarray) -> np.ndarray:
        """See `Origin.stamps`."""
        sums = [zlib.crc32(image.data) for image in self._images(rows)]
        return np.array(sums, np.int64).reshape(-1, 1)

    def checksums(self, rows: np.ndarray, most: int = MOST_BYTES) -> np.ndarray:
        """See `Origin.checksums`."""
        return np.array([_hash(image.data) for image in self._images(rows)], np.int64)

    def _images(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        return (np.ascontiguousarray(self._pixels[row]) for row in rows.tolist())


class Part(Origin):
    """Is the origin of some images of a different origin: image i is the image `indices[i]` of
    `whole`.
    """

    def __init__(self, whole: Origin, indices: Sequence[int] | np.ndarray) -> None:
        self.whole, self._indices = whole, np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._indices)

    def names(self) -> list[bytes]:
        """See `Origin.names`."""
        names = self.whole.names()
        return [names[index] for index in self._indices.tolist()]

    def stamps(self, rows: np.ndarray) -> np.ndarray:
        """See `Origin.stamps`."""
        return self.whole.stamps(self._indices[rows])

    def checksums(self, rows: np.ndarray, most: int = MOST_BYTES) -> np.ndarray:
        """See `Origin.checksums`."""
        return self.whole.checksums(self._indices[rows], most)


def evenly(count: int, most: int) -> Sequence[int]:
    """Returns up to `most` evenly spaced numbers below `count`, including the first and the
    last.
    """
    if count <= most:
        return range(count)
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _in_threads(work: Callable[[Any], Found], paths: Sequence[str | bytes]) -> list[Found]:
    """Returns the results of `work` for each path, in order."""
    if len(paths) <= CHUNK:
        return [work(path) for path in paths]
    parts = [paths[begin : begin + CHUNK] for begin in range(0, len(paths), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda part: [work(path) for path in part], parts)
        return [item for part in found for item in part]


def _stamp(path: str | bytes) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError for a name with a NUL
        return GONE, GONE
    return status.st_size, status.st_mtime_ns


def _checksum(path: str, most: int) -> int:
    try:
        with open(path, "rb") as file:
            return _hash(file.read(most))
    except (OSError, ValueError):
        return GONE


def _hash(content: bytes | memoryview) -> int:
    """Returns a hash of 64 bits: among a million different images, no two are equal by chance."""
    found = hashlib.blake2b(content, digest_size=8).digest()
    return int.from_bytes(found, "little", signed=True)
