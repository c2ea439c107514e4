"""What a command of several trials prints last: the trials' folders in, lines out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from transfer.results.metrics import headline_texts, headlines
from transfer.results.record import FILE_NAME, read_record


def last_lines(folders: Sequence[Path]) -> list[str]:
    """A line with the headline metrics of each trial's record, which holds them all; for several
    trials another line of mean and spread, over the trials in which a metric has a value."""
    records = [read_record(folder / FILE_NAME) for folder in folders]
    lines = [
        f"{folder / FILE_NAME}: {', '.join(headline_texts(record['task'], record['metrics']))}"
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
