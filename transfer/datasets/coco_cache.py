"""Keeps what a large COCO file holds below the cache folder, so that it is parsed only once.

The annotations are plain arrays (.npy) there, mapped by each process that reads them: ranks, loader
processes and later runs share their pages. A folder is named after the sha256 of the JSON file, so
that a changed file has another one, and is written under a lock and renamed when it is whole: of
processes that start together one parses. A damaged folder is written again. If the cache cannot
be written, every process parses for itself.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.common.cache_folder import cache_folder
from pretrain.common.locks import locked
from pretrain.common.safe_json import read_json
from pretrain.common.temporaries import sweep, temporary_folder
from transfer.checkpoints.files import file_sha256
from transfer.datasets.coco_annotations import ARRAYS, NUMBERS, AnnotationColumns

logger = logging.getLogger(__name__)

SMALLEST = 32 << 20  # bytes of a file that is kept: about 60,000 objects, parsed in a second
VERSION = 2  # of the files; raise it if AnnotationColumns or what this module writes changes
REST, CHECKSUMS = "rest.json", "checksums.json"
ANNOTATIONS = "annotations"


def kept(path: Path, parse: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns what `parse` returns of a file, its annotations mapped from the cache if they are in
    columns.

    Args:
        path: a COCO file.
        parse: reads it; what it raises is raised.

    Raises OSError: the file cannot be read.
    """
    before = _stamp(path)
    if before[0] < SMALLEST:
        return parse()
    folder = cache_folder() / "coco" / f"{file_sha256(path)}-v{VERSION}"
    found = _read(folder, path)
    if found is not None:
        return found
    with _only_writer(folder.parent, path) as writable:
        found = _read(folder, path)  # another process has written it meanwhile
        if found is None:
            found = parse()
            # A file that has changed since is not the one of this sha256.
            if writable and _is_worth(found) and _stamp(path) == before:
                _write(folder, path, found)
                found = _read(folder, path) or found
    return found


@contextmanager
def _only_writer(folder: Path, path: Path) -> Iterator[bool]:
    """Waits for another process that writes; False, in one line, if the folder is not writable."""
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder, f"waiting for another process that parses {path}"))
        except OSError as error:
            _not_kept(folder, path, error)
            yield False
            return
        sweep(folder)
        yield True


def _write(folder: Path, path: Path, content: dict[str, Any]) -> None:
    """Writes the folder as a whole, or says in one line why it could not."""
    arrays, odd = content[ANNOTATIONS].parts()
    rest = {"content": {**content, ANNOTATIONS: None}, "odd": odd}
    try:
        with temporary_folder(folder) as draft:
            for name, array in arrays.items():
                np.save(draft / f"{name}.npy", array)
            (draft / REST).write_text(json.dumps(rest))
            sums = {file.name: file_sha256(file) for file in draft.iterdir()}
            (draft / CHECKSUMS).write_text(json.dumps(sums))
            draft.chmod(folder.parent.stat().st_mode & 0o777)  # others may share the cache
            shutil.rmtree(folder, ignore_errors=True)  # a damaged one
            os.rename(draft, folder)
    except OSError as error:
        _not_kept(folder.parent, path, error)


def _read(folder: Path, path: Path) -> dict[str, Any] | None:
    """Returns the content that the folder holds; None if it is missing, or damaged, which is
    said.
    """
    if not folder.is_dir():
        return None
    try:
        sums = read_json(folder / CHECKSUMS)
        names = [f"{name}.npy" for name in (*ARRAYS, NUMBERS)]
        for name in (*names, REST):
            if file_sha256(folder / name) != sums[name]:
                raise ValueError(f"{name} has changed")
        rest = json.loads((folder / REST).read_text())  # its bytes are those that were written
        # As plain arrays: np.memmap takes microseconds for each access.
        arrays = {Path(name).stem: np.asarray(np.load(folder / name, "r")) for name in names}
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s is damaged (%s): %s is parsed again", folder, error, path)
        return None
    content: dict[str, Any] = rest["content"]
    return {**content, ANNOTATIONS: AnnotationColumns.of_parts(arrays, rest["odd"])}


def _is_worth(content: dict[str, Any]) -> bool:
    """Returns whether most annotations are numbers: odd ones would be parsed as JSON once more."""
    records = content.get(ANNOTATIONS)
    return isinstance(records, AnnotationColumns) and 10 * len(records.odd) < len(records)


def _not_kept(folder: Path, path: Path, error: OSError) -> None:
    reason = error.strerror or error
    logger.warning(
        "%s cannot be written (%s): every process and run parses %s; set MSCN_CACHE to "
        "a different folder",
        folder,
        reason,
        path,
    )


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
