"""Reads all valid result records below some folders, each run once.

Two records of one run (`transfer.results.group.RunKey`) with different metrics or status contradict
each other and raise an error. Of several copies, the one with the most artifacts counts.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.common.errors import InputError
from pretrain.common.installed import check_installed
from pretrain.common.printable import MOST, printable, printable_tree, shown
from pretrain.common.run_files import RECORD
from transfer.results.group import RunKey, run_of
from transfer.results.record import read_record

if TYPE_CHECKING:
    import pandas

# Fields of the record, by column of the table.
COLUMNS = {
    "checkpoint": "checkpoint.name",
    "method": "checkpoint.method",
    "backbone": "checkpoint.backbone",
    "pretrain_epochs": "checkpoint.pretrain_epochs",
    "task": "task",
    "dataset": "dataset",
    "protocol": "protocol.name",
    "engine": "protocol.engine",
    "trial": "trial",
    "seed": "seed",
    "status": "status",
    "seconds": "seconds",
    "gpu_seconds": "gpu_seconds",
    "started": "started",
}


@dataclass(frozen=True)
class RecordFile:
    """Holds one record and the file that it came from."""

    record: dict[str, Any]
    path: Path

    def artifact(self, name: str) -> Path | None:
        """Returns the artifact's path (file or folder), or None if the record has none."""
        relative = self.record["artifacts"].get(name)
        return self.path.parent / relative if relative else None

    def shown(self) -> RecordFile:
        """Returns a copy with printable, shortened texts for tables and pages; paths are kept."""
        artifacts = self.record["artifacts"]
        return replace(self, record={**printable_tree(self.record), "artifacts": artifacts})


@dataclass(frozen=True)
class Records:
    """Holds `files` in the order of their paths; `notes` say which files were left out, and why."""

    files: list[RecordFile]
    notes: list[str]

    def frame(self) -> pandas.DataFrame:
        """Returns a pandas table with a row for each record, sorted by task, protocol, checkpoint,
        trial.

        Its columns are COLUMNS, `path`, and one for each metric that a record has, in percent; a
        record without that metric has NaN there.

        Raises:
            InputError: pandas is not installed.
        """
        check_installed("pandas", "a table of records needs pandas, which")
        import pandas

        rows = [_row(file) for file in self.files]
        names = [*COLUMNS, "path"]
        names += sorted({name for row in rows for name in row} - set(names))
        order = ["task", "protocol", "checkpoint", "trial"]
        return pandas.DataFrame(rows, columns=names).sort_values(order, ignore_index=True)


def read_records(folders: str | Path | Sequence[str | Path]) -> Records:
    """Reads every record.json below some folders, or one; `.frame()` makes a pandas table.

    A file that is malformed, truncated, from a different program or of a future schema is left out;
    a note names it and says why. Copies count once: the one with the most artifacts is kept, and
    the others are noted. Records of older schemas are read.

    Raises:
        InputError: a folder does not exist or cannot be read, there is no valid record, or two
            records contradict each other.

    Example:
        >>> import transfer
        >>> short = {"PROTOCOL.K": (5,), "QUALITY.IMAGES": 0, "BACKBONE.NAME": "tiny_resnet"}
        >>> _ = transfer.run_protocol("knn_digits.yaml", "random", "runs/knn", overrides=short)
        >>> table = transfer.read_records("runs").frame()  # needs pandas
        >>> table[["checkpoint", "protocol", "trial"]].values.tolist()
        [['random_tiny_resnet', 'knn_digits', 0]]
    """
    folders = [folders] if isinstance(folders, (str, Path)) else folders
    files: list[RecordFile] = []
    notes: list[str] = []
    for path in _record_paths(folders):
        try:
            files.append(_readable(RecordFile(read_record(path), path), notes))
        except InputError as error:
            notes.append(printable(f"skipped {error}", 4 * MOST))
    kept: dict[RunKey, RecordFile] = {}
    for file in files:
        key = run_of(file.record)
        if key not in kept:
            kept[key] = file
            continue
        if not _same(file, kept[key], whole=False):
            raise InputError(
                f"{kept[key].path} and {file.path} contradict each other: they have the same "
                "checkpoint, protocol, trial and seed, but different metrics or status; remove "
                "one, or give the checkpoints different names"
            )
        # A copy may have been made without its artifacts: the one with more artifacts counts
        first, other = sorted((kept[key], file), key=_artifacts, reverse=True)
        kept[key] = first
        words = (
            "a copy of {}" if _same(first, other, whole=True) else "repeats {} with equal metrics"
        )
        notes.append(f"{other.path}: {words.format(first.path)}, counted once")
    if not kept:
        places = ", ".join(map(str, folders))
        raise InputError(f"no valid {RECORD} below {places}" + _because(notes))
    return Records(list(kept.values()), notes)


def _row(file: RecordFile) -> dict[str, Any]:
    """Returns the columns of one record's row, the metrics last."""
    record = file.record
    found = {name: _at(record, key) for name, key in COLUMNS.items()}
    return {**found, "path": str(file.path), **record["metrics"]}


def _at(record: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        record = record[part]
    return record


def _record_paths(folders: Sequence[str | Path]) -> list[Path]:
    """Returns distinct files, sorted within each folder; folders may be nested or linked."""
    found: dict[Path, Path] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise InputError(f"results folder {folder} does not exist; check the path")
        for path in sorted(_files(folder)):
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _files(folder: Path) -> Iterator[Path]:
    """Yields every record.json below, also in linked folders; each folder once, so loops end."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror or error})")

    seen = set()
    for place, names, files in os.walk(folder, onerror=refuse, followlinks=True):
        if os.path.realpath(place) in seen:
            names.clear()
            continue
        seen.add(os.path.realpath(place))
        if RECORD in (*files, *names):  # also a folder of that name: a note says that it is one
            yield Path(place) / RECORD


def _readable(file: RecordFile, notes: list[str]) -> RecordFile:
    """Returns the record without artifacts that must not be opened; each of them is noted.

    These are links out of the record's folder, FIFOs and devices, and invalid file names.
    """
    kept = {}
    for name, relative in file.record["artifacts"].items():
        why = _why_not_opened(file.path.parent, relative)
        if why:
            notes.append(f"{file.path}: the artifact {shown(name)} {why} and was left out")
        else:
            kept[name] = relative
    return replace(file, record={**file.record, "artifacts": kept})


def _why_not_opened(folder: Path, relative: str) -> str:
    try:
        place, home = os.path.realpath(folder / relative), os.path.realpath(folder)
        if os.path.commonpath([place, home]) != home:
            return "is a link out of the record's folder"
        mode = os.stat(place).st_mode
    except FileNotFoundError:
        return ""  # code that looks for the artifact counts it as missing
    except (OSError, ValueError) as error:
        return f"cannot be a file ({getattr(error, 'strerror', None) or error})"
    return "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "is not a regular file"


def _artifacts(file: RecordFile) -> int:
    """Returns how many of the files that the record names exist."""
    paths = map(file.artifact, file.record["artifacts"])
    return sum(path is not None and path.exists() for path in paths)


def _same(one: RecordFile, other: RecordFile, whole: bool) -> bool:
    keys = sorted(one.record) if whole else ("metrics", "status")
    texts = (
        json.dumps([file.record.get(key) for key in keys], sort_keys=True) for file in (one, other)
    )
    return len(set(texts)) == 1 and (not whole or set(one.record) == set(other.record))


def _because(notes: Sequence[str]) -> str:
    return f" ({notes[0]})" if notes else "; run tools/train_cls.py or tools/train_det.py first"
