"""All records below some directories: folders in, distinct valid records out.

A run's identity is its checkpoint (name and weights), task, dataset, protocol, trial and seed. The
same identity with other metrics or status is a contradiction and refused; of copies one counts,
that with the most artifacts beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.common.errors import InputError
from transfer.results.record import FILE_NAME, read_record


@dataclass(frozen=True)
class Entry:
    """One record and the file it came from."""

    record: dict[str, Any]
    path: Path

    def artifact(self, name: str) -> Path | None:
        """The artifact's path (file or folder), or None where the record has none of that name."""
        relative = self.record["artifacts"].get(name)
        return self.path.parent / relative if relative else None


@dataclass(frozen=True)
class Store:
    """`entries` in order of their paths; `notes`: one line per file that was left out, and why."""

    entries: list[Entry]
    notes: list[str]


def read_store(folders: Sequence[str | Path]) -> Store:
    """Reads every record.json below `folders`.

    A file that is malformed, truncated, foreign (no record of ours) or of a future schema is left
    out with a note that names it and says why. Copies count once: the one with the most artifacts
    is kept, the others are noted. Records of older schemas are read.

    Raises:
        InputError: a folder that does not exist or cannot be read, no valid record, or two that
            contradict.
    """
    entries: list[Entry] = []
    notes: list[str] = []
    for path in _record_paths(folders):
        try:
            entries.append(Entry(read_record(path), path))
        except InputError as error:
            notes.append(f"skipped {error}")
    kept: dict[tuple, Entry] = {}
    for entry in entries:
        key = identity(entry.record)
        if key not in kept:
            kept[key] = entry
            continue
        if not _same(entry, kept[key], whole=False):
            raise InputError(
                f"{kept[key].path} and {entry.path} contradict: same checkpoint, protocol, trial "
                "and seed, other metrics or status; remove one, or give the checkpoints different "
                "names"
            )
        # A copy may have been made without its artifacts: the one that has more of them counts
        first, other = sorted((kept[key], entry), key=_artifacts, reverse=True)
        kept[key] = first
        words = (
            "a copy of {}" if _same(first, other, whole=True) else "repeats {} with equal metrics"
        )
        notes.append(f"{other.path}: {words.format(first.path)}, counted once")
    if not kept:
        places = ", ".join(map(str, folders))
        raise InputError(f"no valid {FILE_NAME} below {places}" + _because(notes))
    return Store(list(kept.values()), notes)


def identity(record: dict[str, Any]) -> tuple:
    """What makes two records claims about the same run."""
    checkpoint, protocol = record["checkpoint"], record["protocol"]
    return (
        checkpoint["name"],
        checkpoint["sha256"],
        record["task"],
        record["dataset"],
        protocol["name"],
        protocol["config_sha256"],
        protocol["engine"],
        record["trial"],
        record["seed"],
    )


def _record_paths(folders: Sequence[str | Path]) -> list[Path]:
    """Distinct files (a folder may lie in another, or be linked), sorted within each folder."""
    found: dict[Path, Path] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise InputError(f"results folder {folder} does not exist")
        for path in sorted(_files(folder)):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _files(folder: Path) -> Iterator[Path]:
    """Every record.json below; linked folders too, each folder once, so that loops end."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror or error})")

    seen = set()
    for place, names, files in os.walk(folder, onerror=refuse, followlinks=True):
        if os.path.realpath(place) in seen:
            names.clear()
            continue
        seen.add(os.path.realpath(place))
        if FILE_NAME in (*files, *names):  # a folder of that name is named as one that is no file
            yield Path(place) / FILE_NAME


def _artifacts(entry: Entry) -> int:
    """How many of the files that the record names are there."""
    return sum(entry.artifact(name).exists() for name in entry.record["artifacts"])


def _same(one: Entry, other: Entry, whole: bool) -> bool:
    keys = sorted(one.record) if whole else ("metrics", "status")
    texts = (
        json.dumps([entry.record.get(key) for key in keys], sort_keys=True)
        for entry in (one, other)
    )
    return len(set(texts)) == 1 and (not whole or set(one.record) == set(other.record))


def _because(notes: Sequence[str]) -> str:
    return f" ({notes[0]})" if notes else "; run tools/train_cls.py or tools/train_det.py first"
