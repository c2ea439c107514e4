"""Makes a Markdown report and a picture from the rows of benchmarks/ladder.py.

Each row's difference from the row it builds on is judged over pretraining seeds, with a correction
for many comparisons (transfer/results/comparison.py). Published numbers have a separate axis.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import seed_dots
from benchmarks.ladder_rows import main_value, mean_and_std, read_rows
from pretrain.common.checkpoint import atomic_write_text
from pretrain.common.config import find_config
from pretrain.common.errors import InputError
from transfer.results.comparison import Comparison, Sample, compare, holm, spread_of
from transfer.results.group import LEAST_SEEDS
from transfer.results.statistics import CONFIDENCE, summarize

Row = Mapping[str, Any]
# The row that a row is compared with, if it is not the row before it; None: no comparison.
COMPARED = {
    "step_0": None,
    "crop_only": "step_3",
    "plain_mask": "step_9",
    "no_mask": "step_9",
    "no_mask_unfiltered": "step_9",
    "no_mask_2views": "step_9",
    "no_mask_2views_unfiltered": "step_9",
}
MEASURES = ("linear", "knn20", "linear_gray", "knn20_gray")  # measures that all rows have
READING = (
    "Accuracies are mean ± sample standard deviation over n seeds. Differences have a 95 % "
    "interval over seeds alone, with one standard deviation pooled over the rows (or each row's "
    'own, if Bartlett\'s test rejects equal spreads). "Resolved" refers to these test images and '
    "follows Holm's method over the column's differences of rows with at least "
    f"{LEAST_SEEDS} seeds."
)


def write_report(results: Path, target: Path, order: Sequence[str] = ()) -> list[Path]:
    """Writes TARGET.md and TARGET.svg from a file of rows; returns their paths.

    Args:
        order: names of rows that come first, in this order (the suite's).

    Raises:
        InputError: there are no rows.
    """
    rows = read_rows(results)
    if not rows:
        raise InputError(f"{results} has no rows; run benchmarks/ladder.py without --report first")
    present = dict.fromkeys(row["name"] for row in rows)
    names = [name for name in dict.fromkeys([*order, *present]) if name in present]
    by_name = {name: [row for row in rows if row["name"] == name] for name in names}
    picture, text = target.with_suffix(".svg"), target.with_suffix(".md")
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(by_name, picture)
    atomic_write_text(text, "\n".join(report_lines(by_name, picture.name)) + "\n")
    return [text, picture]


def report_lines(by_name: Mapping[str, Sequence[Row]], picture: str) -> list[str]:
    """Returns the tables as Markdown lines."""
    lines = [
        f"![our results, and the published ones on a separate axis]({picture})",
        "",
        READING,
        "",
    ]
    measures = measured(by_name)
    lines += ["| row | views | " + " | ".join(f"{m} | difference" for m in measures) + " | n |"]
    lines += ["|---|---|" + "---|---|" * len(measures) + "---|"]
    shown = {measure: differences(by_name, measure) for measure in measures}
    for name, rows in by_name.items():
        cells = [name, str(rows[0]["views_per_image"])]
        for measure in measures:
            cells.append(mean_and_std([main_value(row, measure) for row in rows]))
            cells.append(shown[measure].get(name, ""))
        lines.append("| " + " | ".join([*cells, str(len(rows))]) + " |")
    lines += ["", *variant_lines(by_name), "", *cost_lines(by_name)]
    return lines


def measured(by_name: Mapping[str, Sequence[Row]]) -> list[str]:
    """Returns the measures that every row has: some rows are older than the measures on grey
    images.
    """
    keys = [
        {key.partition("/")[0] for key in r["metrics"]} for rows in by_name.values() for r in rows
    ]
    return [measure for measure in MEASURES if all(measure in found for found in keys)]


def variant_lines(by_name: Mapping[str, Sequence[Row]]) -> list[str]:
    """Batch-norm statistics raw and re-estimated, filter off and on: mean linear accuracy."""
    variants = [(s, f) for s in ("raw", "precise") for f in ("off", "on")]
    lines = ["| linear probe | " + " | ".join(f"{s}, filter {f}" for s, f in variants) + " |"]
    lines += ["|---|" + "---|" * len(variants)]
    for name, rows in by_name.items():
        cells = []
        for statistics, choice in variants:
            key = f"linear/{statistics}/{choice}"
            found = [row["metrics"][key] for row in rows if key in row["metrics"]]
            cells.append(mean_and_std(found))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def cost_lines(by_name: Mapping[str, Sequence[Row]]) -> list[str]:
    """Views and seconds of pretraining."""
    lines = ["| row | images seen | views seen | pretraining, s | GPU-seconds |"]
    lines += ["|" + "---|" * 5]
    for name, rows in by_name.items():
        seconds = summarize([row["pretrain_seconds"] for row in rows])
        gpu = summarize([row["gpu_seconds"] for row in rows])
        first = rows[0]
        lines.append(
            f"| {name} | {first['images_seen']:,} | {first['views_seen']:,} "
            f"| {seconds.mean:.0f} | {gpu.mean:.0f} |"
        )
    return lines


def compared_with(name: str, names: Sequence[str]) -> str | None:
    """Returns the row that a row is compared with: in a ladder the step below, otherwise the first
    row.
    """
    if name in COMPARED:
        return COMPARED[name]
    step = re.fullmatch(r"step_(\d+)", name)
    if step:
        return f"step_{int(step[1]) - 1}"
    return names[0] if name != names[0] else None


def differences(by_name: Mapping[str, Sequence[Row]], measure: str) -> dict[str, str]:
    """Returns `+1.2 ± 0.4 (step_0, resolved)` by row; none for single seeds."""
    samples = {name: sample(rows, measure) for name, rows in by_name.items()}
    spread = spread_of(list(samples.values()))
    found: dict[str, tuple[str, Comparison]] = {}
    tested: dict[str, float] = {}
    for name, rows in by_name.items():
        other = compared_with(name, list(by_name))
        seeds = min(len(rows), len(by_name.get(other, ())))
        if seeds > 1:
            pair = compare(samples[name], samples[other], spread)
            found[name] = (other, pair)
            if seeds >= LEAST_SEEDS and pair.p is not None:
                tested[name] = pair.p
    adjusted = dict(zip(tested, holm(list(tested.values()))))
    resolved = {name for name, p in adjusted.items() if p < 1 - CONFIDENCE}
    return {name: show_difference(*each, name in resolved) for name, each in found.items()}


def show_difference(other: str, pair: Comparison, resolved: bool) -> str:
    """Returns the difference as text; without an interval if the seeds agree exactly (no
    spread).
    """
    reach = pair.estimate.reach()
    spread = "" if reach is None else f" ± {reach:.1f}"
    verdict = "resolved" if resolved else "not resolved"
    return f"{pair.estimate.value:+.1f}{spread} ({other}, {verdict})"


def sample(rows: Sequence[Row], measure: str) -> Sample:
    """Returns a row's seeds as trials; no replicates of the test images are kept."""
    return Sample([main_value(row, measure) for row in rows])


def published(name: str) -> float | None:
    """Returns the ImageNet number in the header of a ladder step's config; None if it has none."""
    try:
        text = find_config(f"{name}.yaml", "pretrain").read_text(encoding="utf-8")
    except InputError:
        return None
    header = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
    match = re.search(r"Published number: linear probe top-1 (\d+\.\d)", header)
    return float(match[1]) if match else None


def draw(by_name: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Draws two panels, each with its own scale: every measured seed, and published numbers."""
    names = list(by_name)[::-1]
    figures = {name: published(name) for name in names}
    shown = any(number is not None for number in figures.values())
    size = (9 if shown else 5.5, 0.34 * len(names) + 1.1)
    figure, axes = seed_dots.make_figure("ladder", 1 + shown, size)
    points = [[main_value(row, "linear") for row in by_name[name]] for name in names]
    axes[0].set_yticks(range(len(names)), names)
    seed_dots.plot_seeds(axes[0], points, "measured here (small), linear top-1")
    if shown:
        for place, name in enumerate(names):
            if figures[name] is not None:
                axes[1].plot([figures[name]], [place], "D", color="tab:orange", ms=5)
        seed_dots.finish(axes[1], "published (ImageNet, ResNet-50), linear top-1")
    seed_dots.save(figure, path)
