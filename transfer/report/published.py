"""Numbers that others published, each with its source, from published.csv.

The file has only rows whose protocol is the same as in one of our configs (the column `configs`
names them). A shortened or changed run of a config has a different protocol, so none are shown.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("published.csv")
MARK = "published"


@dataclass(frozen=True)
class Published:
    """Holds the numbers of one method in one source, in percent by metric."""

    label: str
    metrics: dict[str, float]
    trials: str  # "5", or "" if the source does not say
    source: str


def published_rows(config: str, path: Path = FILE) -> list[Published]:
    """Returns the rows for a config's name, in the file's order; none for other protocols."""
    rows: dict[tuple[str, str, str], Published] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        for line in csv.DictReader(stream):
            if config not in line["configs"].split():
                continue
            epochs = f" {line['pretrain_epochs']}ep" if line["pretrain_epochs"] else ""
            key = (f"{line['method']}{epochs}", line["trials"], line["source"])
            row = rows.setdefault(key, Published(key[0], {}, key[1], key[2]))
            row.metrics[line["metric"]] = float(line["value"])
    return list(rows.values())
