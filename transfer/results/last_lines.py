"""The last lines that a command of trials prints: its results, or where --resume would continue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from pretrain.common.run_files import RECORD
from transfer.results.metrics import headline_texts, headlines
from transfer.results.record import read_record


def last_lines(folders: Sequence[Path]) -> list[str]:
    """Returns a line per trial with its record's path and headline metrics.

    For several trials, a last line has mean and spread over the trials in which a metric has a
    value.
    """
    records = [read_record(folder / RECORD) for folder in folders]
    lines = [
        f"{folder / RECORD}: {', '.join(headline_texts(record['task'], record['metrics']))}"
        for folder, record in zip(folders, records)
    ]
    if len(records) > 1:
        spreads = []
        for name in headlines(records[0]["task"], records[0]["metrics"]):
            values = [v for record in records if (v := record["metrics"].get(name)) is not None]
            if len(values) > 1:
                spreads.append(f"{name} {mean(values):.2f} ± {stdev(values):.2f}")
        if spreads:
            of = f"mean ± sample standard deviation of {len(records)} trials"
            lines.append(f"{of}: {', '.join(spreads)}")
    return lines


def where_resume_continues(output: str | Path, trials: range, saved: Sequence[str]) -> str:
    """Returns a text that says what --resume will do after a command was interrupted.

    Args:
        output: folder with a folder trial_T for each trial.
        trials: numbers of the command's trials.
        saved: file names (or glob patterns) in a trial's folder from which its training continues.
    """
    folders = [Path(output) / f"trial_{trial}" for trial in trials]
    begun = [folder for folder in folders if not (folder / RECORD).is_file()]
    done = f"{len(folders) - len(begun)} of {len(folders)} trials are done"
    if not begun:
        return done
    files = [file for pattern in saved for file in begun[0].glob(pattern)]
    if not files:
        return f"{done}; nothing was saved yet in {begun[0]}: --resume starts it from the beginning"
    # Names have the order of a folder's checkpoints, which a copy of the folder keeps; times do not
    last_of = {file.parent: file for file in sorted(files)}
    newest = max(last_of.values(), key=lambda file: file.stat().st_mtime)
    return f"{done}; --resume continues from {newest}"
