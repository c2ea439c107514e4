"""Numbers as text: percentages with one decimal, durations and counts in a natural unit."""

from __future__ import annotations

from collections.abc import Sequence

from transfer.report.rows_columns_cells import Checkpoint, Protocol, Results
from transfer.results.statistics import BOTH, IMAGES, TRIALS, Summary

BEST, CUT = "★", "†"
MOST_NAMES, MOST_OF_NAMES = 3, 300  # names in a sentence, and their characters if there are more
SPREAD = (
    "mean ± sample standard deviation over n trials (none for a single trial) and the 95 % "
    "interval over trials and test images; t[ ]: over trials only, i[ ]: over test images only, "
    f"one trial. {BEST}: no other row of the column is significantly better (Holm over all pairs); "
    "rows with too few trials are not compared and have no mark, and no row has one if no "
    "difference is resolved"
)
COMPUTE = (
    "Compute: time and views of pretraining; transfer is the time of one trial of each protocol of "
    "the row"
)
_PREFIX = {TRIALS: "t", IMAGES: "i", BOTH: ""}


def format_summary(summary: Summary | None, plus_minus: str = "±", count: bool = True) -> str:
    """Returns "51.3 ± 0.4 (n=3)", "51.3 (n=1)", or "–" if nothing was run."""
    if summary is None:
        return "–"
    spread = "" if summary.std is None else f" {plus_minus} {summary.std:.1f}"
    return f"{summary.mean:.1f}{spread}" + (f" (n={summary.n})" if count else "")


def format_interval(summary: Summary | None) -> str:
    """Returns "[50.1, 52.4]", with t or i before it if it covers only trials or images; or ""."""
    if summary is None or summary.low is None or summary.covers is None:
        return ""
    return f"{_PREFIX[summary.covers]}[{summary.low:.1f}, {summary.high:.1f}]"


def format_cell(
    results: Results, checkpoint: Checkpoint, protocol: Protocol, metric: str, count: bool = True
) -> str:
    """Returns a table's cell: value, spread, interval and marks; n only if `count`."""
    cell = results.cell(checkpoint, protocol)
    summary = cell.summaries.get(metric) if cell else None
    words = format_summary(summary, count=count), format_interval(summary)
    text = " ".join(filter(None, words))
    marks = BEST if results.is_best(checkpoint, protocol, metric) else ""
    return text + marks + (CUT if cell and cell.shortened else "")


def format_seconds(seconds: float | None) -> str:
    """Returns a duration in a natural unit; "–" if unknown."""
    if seconds is None:
        return "–"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def format_count(count: float | None) -> str:
    """Returns 12,345 as "12.3k"; "–" if unknown."""
    if count is None:
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def format_rank(results: Results, row: Checkpoint) -> str:
    """Returns the mean rank as "1.5"; "–" if the row is not ranked."""
    rank = results.mean_ranks.get(row.key)
    return "–" if rank is None else f"{rank:.1f}"


def some_of(names: Sequence[str]) -> str:
    """Returns the names in one text; if there are many, the first ones and how many follow."""
    if len(names) <= MOST_NAMES or len(", ".join(names)) <= MOST_OF_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[:MOST_NAMES])} and {len(names) - MOST_NAMES} more"


def words_on_rank(results: Results) -> str:
    """Returns what the column "rank" means; "" if no row has a rank."""
    if not results.mean_ranks:
        return ""
    tasks = results.ranked_on
    part = f"{len(tasks)} of {len(results.protocols)} protocols" + (
        "" if len(tasks) == len(results.protocols) else ", those that all ranked rows have"
    )
    unranked = len(results.checkpoints) - len(results.mean_ranks)
    rest = ""
    if unranked:
        rest = f"; not ranked: {unranked} with fewer than half of the protocols"
    return (
        f"Rank: the mean of the row's ranks by the first metric of {part} "
        f"({some_of([task.label for task in tasks])}){rest}. Small differences of rank may be "
        f"chance: {BEST} says which rows are beaten"
    )


def costs(checkpoint: Checkpoint) -> tuple[str, str, str]:
    """Returns pretraining compute as texts (seconds, GPU-seconds, views)."""
    if checkpoint.untrained:
        return "none", "none", "0"
    return (
        format_seconds(checkpoint.seconds),
        format_seconds(checkpoint.gpu_seconds),
        format_count(checkpoint.views),
    )
