"""Numbers as text: percentages with one decimal, durations and counts in a natural unit."""

from __future__ import annotations

from transfer.report.rows_columns_cells import Checkpoint, Protocol, Results
from transfer.results.statistics import BOTH, IMAGES, TRIALS, Summary

BEST, CUT = "★", "†"
SPREAD = (
    "mean ± sample standard deviation over n trials (none for a single trial) and the 95 % "
    "interval over trials and test images; t[ ]: over trials alone, i[ ]: over test images alone, "
    f"one trial. {BEST}: no other row of the column is resolved above (Holm over all pairs); none "
    "for rows of too few trials, which take no part, and none where nothing is resolved"
)
COMPUTE = (
    "Compute: time and views of pretraining; transfer is the time of all the row's protocols, one "
    "trial of each"
)
_PREFIX = {TRIALS: "t", IMAGES: "i", BOTH: ""}


def format_summary(summary: Summary | None, plus_minus: str = "±", count: bool = True) -> str:
    """ "51.3 ± 0.4 (n=3)", "51.3 (n=1)", or "–" where nothing was run."""
    if summary is None:
        return "–"
    spread = "" if summary.std is None else f" {plus_minus} {summary.std:.1f}"
    return f"{summary.mean:.1f}{spread}" + (f" (n={summary.n})" if count else "")


def format_interval(summary: Summary | None) -> str:
    """ "[50.1, 52.4]", with t or i before it where it covers trials or images alone; or ""."""
    if summary is None or summary.low is None or summary.covers is None:
        return ""
    return f"{_PREFIX[summary.covers]}[{summary.low:.1f}, {summary.high:.1f}]"


def format_cell(
    results: Results, checkpoint: Checkpoint, protocol: Protocol, metric: str, count: bool = True
) -> str:
    """A table's cell: value, spread, interval and marks; without n where not `count`."""
    cell = results.cell(checkpoint, protocol)
    summary = cell.summaries.get(metric) if cell else None
    words = format_summary(summary, count=count), format_interval(summary)
    text = " ".join(filter(None, words))
    marks = BEST if results.is_best(checkpoint, protocol, metric) else ""
    return text + marks + (CUT if cell and cell.shortened else "")


def format_seconds(seconds: float | None) -> str:
    """A duration in its natural unit; "–" where unknown."""
    if seconds is None:
        return "–"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def format_count(count: float | None) -> str:
    """12,345 as "12.3k"; "–" where unknown."""
    if count is None:
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def costs(checkpoint: Checkpoint) -> tuple[str, str, str]:
    """Pretraining compute as (seconds, GPU-seconds, views); nothing for untrained weights."""
    if checkpoint.untrained:
        return "none", "none", "0"
    return (
        format_seconds(checkpoint.seconds),
        format_seconds(checkpoint.gpu_seconds),
        format_count(checkpoint.views),
    )
