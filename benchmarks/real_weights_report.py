"""Writes the table of docs/results/real_weights.md from the records of real_weights.yaml.

The table compares, for each task, the released weights with random ones: their difference, and how
few images and trials would have shown it. `python -m benchmarks.real_weights_report [FOLDER]`
writes it. FOLDER has a folder for each task of the suite, as run_suite.py makes them; by default it
is the folder of records next to the page.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# The checkout, because `benchmarks` is not installed
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.marked_page import replaced  # noqa: E402
from pretrain.common.config import CHECKOUT, load_config  # noqa: E402
from pretrain.common.run_files import RECORD  # noqa: E402
from transfer.report.compare import Pair, compare_rows  # noqa: E402
from transfer.report.from_records import build_results  # noqa: E402
from transfer.results.comparison import detectable  # noqa: E402
from transfer.results.read_records import read_records  # noqa: E402
from transfer.results.statistics import TRIALS, Estimate, Source  # noqa: E402
from transfer.suite.defaults import suite_defaults  # noqa: E402

SUITE = "real_weights.yaml"
PAGE = CHECKOUT / "docs" / "results" / "real_weights.md"
RECORDS = PAGE.with_suffix("")
MODULE = "benchmarks.real_weights_report"
HEADLINES = {"knn": ["knn20_top1"], "linear": ["top1"], "kshot": ["shots1_top1", "shots5_top1"]}
BOXES = ["bbox/AP", "bbox/AP50"]  # a detector's metrics in the table
LEAST_IMAGES = 30  # with fewer images the normal approximation is not valid
MOST_TRIALS = 99
HEADER = (
    "| task | released | random | difference, 95 % interval | images enough | trials enough |",
    "|---|---|---|---|---|---|",
)


class Enough(NamedTuple):
    """The fewest images, and trials, that resolve the difference found in 80 of 100 cases, if
    nothing else varied; None if their share of the variance is not known."""

    images: int | None
    trials: int | None


def tasks() -> list[Mapping[str, Any]]:
    """Returns the tasks of the suite, in its order."""
    return list(load_config(SUITE, suite_defaults(), folder="suites").TASKS)


def enough(pair: Pair) -> Enough:
    """Returns how few test images, and how few trials, would have shown a pair's difference."""
    found = abs(pair.found.estimate.value)
    return Enough(_images(pair, found), _trials(pair, found))


def _images(pair: Pair, found: float) -> int | None:
    """Returns the images, at least `LEAST_IMAGES`; their variance is divided by their number."""
    count, drawn = pair.samples[0].images, [sample.replicates for sample in pair.samples]
    if count is None or drawn[0] is None or drawn[1] is None or not found:
        return None
    apart = drawn[0].mean(axis=0) - drawn[1].mean(axis=0)
    least = detectable(Estimate(0.0, (Source(float(apart.var(ddof=1)), count - 1),), TRIALS))
    return None if least is None else max(math.ceil(count * (least / found) ** 2), LEAST_IMAGES)


def _trials(pair: Pair, found: float) -> int | None:
    """Returns the trials that each row needs, with the pooled spread of the column."""
    if pair.spread is None or not pair.spread.std:
        return None
    for trials in range(2, MOST_TRIALS + 1):
        variance = 2 * pair.spread.std**2 / trials
        least = detectable(Estimate(0.0, (Source(variance, 2 * (trials - 1)),), TRIALS))
        if least is not None and least <= found:
            return trials
    return None


def rows_of(task: Mapping[str, Any], folder: Path) -> list[str]:
    """Returns the lines of a task; none if a trial of it is not run yet."""
    name, names = task["name"], task["checkpoints"]
    wanted = [folder / name / row / f"trial_{t}" for row in names for t in range(task["trials"])]
    if not all((path / RECORD).is_file() for path in wanted):
        return []
    results = build_results(read_records([folder / name]).files)
    rows = {row.label: row for row in results.checkpoints}
    pairs = compare_rows(results, *(rows[row] for row in names))
    headlines = HEADLINES.get(Path(task["config"]).stem, BOXES)
    return [line_of(name, pair) for pair in pairs if pair.metric in headlines]


def line_of(name: str, pair: Pair) -> str:
    """Returns a pair as a line of the table."""
    means = [math.fsum(sample.values) / len(sample.values) for sample in pair.samples]
    trials = f" (n={len(pair.samples[0].values)})" if len(pair.samples[0].values) > 1 else ""
    interval = pair.found.estimate.interval()
    reach = "" if interval is None else f" [{interval[0]:.1f}, {interval[1]:.1f}]"
    mark = "**" if pair.verdict.startswith("resolved") else ""
    least = enough(pair)
    images = "–" if least.images is None else f"{least.images}"
    count = pair.samples[0].images
    of_count = f" of {count}" if count and least.images is not None else ""
    return (
        f"| {name}, {pair.metric} | {means[0]:.1f}{trials} | {means[1]:.1f} | "
        f"{mark}{pair.found.estimate.value:+.1f}{mark}{reach} | {images}{of_count} | "
        f"{'–' if least.trials is None else least.trials} |"
    )


def table(folder: Path) -> list[str]:
    """Returns the table's lines, and below it the tasks that are not run yet."""
    found = {task["name"]: rows_of(task, folder) for task in tasks()}
    left = [f"`{name}`" for name, lines in found.items() if not lines]
    done = [line for lines in found.values() for line in lines]
    state = f"Run: {len(found) - len(left)} of the suite's {len(found)} tasks."
    return [*HEADER, *done, "", state + (f" Not run yet: {', '.join(left)}." if left else "")]


def main(words: Sequence[str]) -> None:
    """Writes the table into the page."""
    folder = Path(words[0]) if words else RECORDS
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(replaced(text, MODULE, table(folder)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
