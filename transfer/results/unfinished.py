"""Where an interrupted command of several trials goes on: its output folder in, one line out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transfer.results.record import FILE_NAME


def where_resume_continues(output: str | Path, trials: range, saved: Sequence[str]) -> str:
    """What --resume will do, for a command that was interrupted.

    Args:
        output: with a folder trial_T for each trial.
        trials: of the command.
        saved: file names (or glob patterns) in a trial's folder that its training continues from.
    """
    folders = [Path(output) / f"trial_{trial}" for trial in trials]
    begun = [folder for folder in folders if not (folder / FILE_NAME).is_file()]
    done = f"{len(folders) - len(begun)} of {len(folders)} trials are done"
    if not begun:
        return done
    files = [file for pattern in saved for file in begun[0].glob(pattern)]
    if not files:
        return f"{done}; nothing was saved yet of {begun[0]}: --resume starts it from the beginning"
    newest = max(files, key=lambda file: file.stat().st_mtime)
    return f"{done}; --resume continues from {newest}"
