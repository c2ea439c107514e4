"""Writes the table, verdicts and figure of the masking experiment into docs/results/masking.md.

The comparisons and the possible conclusions were fixed before the first result. This module is that
rule. Runs count up to the first missing one of the fixed order, so no run can be dropped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The checkout, because `benchmarks` is not installed
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import seed_dots  # noqa: E402
from benchmarks.ladder_rows import main_value, mean_and_std, read_rows  # noqa: E402
from benchmarks.marked_page import replaced  # noqa: E402
from pretrain.common.cli import make_parser, tool  # noqa: E402
from pretrain.common.errors import InputError  # noqa: E402

SUITE, SEEDS = "masking_cpu.yaml", 5
MODULE = "benchmarks.masking_report"
EXAMPLE = f"python -m {MODULE}"
ENDPOINTS = {
    "linear_gray": "grey linear",
    "knn20_gray": "grey kNN",
    "linear": "RGB linear",
    "knn20": "RGB kNN",
}
MAIN = "linear_gray"
TITLES = {
    "1_crops": "(1) crops alone",
    "2_simclr": "(2) SimCLR",
    "3_plain_mask": "(3) SimCLR, plain mask on B",
    "4_mscn": "(4) MSCN as in the third-party code",
    "5_image_noise": "(5) = 4, one colour of noise per image",
    "6_unfiltered": "(6) = 4 without the filter",
    "7_simclr_filtered": "(7) SimCLR with the filter, no mask",
    "8_cell_noise": "(8) = 4, one colour of noise per cell, relative to the view",
}
GATE = ("2_simclr", "1_crops")
PRIMARY = (("4_mscn", "2_simclr"), ("4_mscn", "7_simclr_filtered"))
SECONDARY = (
    ("3_plain_mask", "2_simclr"),
    ("5_image_noise", "4_mscn"),
    ("6_unfiltered", "4_mscn"),
    ("8_cell_noise", "4_mscn"),
)
KINDS = {"gate": (GATE,), "primary": PRIMARY, "secondary": SECONDARY}
LEAST_EFFECT = 0.5  # points; an effect below it is refuted at this scale
LEAST_SEEDS = 3  # seeds that each row of a verdict needs
GAIN = "resolved, a gain"

Row = Mapping[str, Any]
Pair = tuple[str, str]  # the first row minus the second
Values = Mapping[str, Sequence[float]]  # by a row's name: its seeds' values of one endpoint


@dataclass(frozen=True)
class Compared:
    """One row minus another in one endpoint: the points, the 95 % interval (None: not known), and
    Holm's p among the named comparisons of the endpoint (None: it is not one of them, or p is not
    known)."""

    value: float
    interval: tuple[float, float] | None
    p: float | None
    seeds: int

    @property
    def found(self) -> bool:
        """Whether Holm's method resolves the difference, with enough seeds."""
        return self.p is not None and self.p < 0.05 and self.seeds >= LEAST_SEEDS


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLE, overrides=False)
    results = Path("benchmarks/results")
    parser.add_argument("--rows", type=Path, default=results / "masking_cpu.jsonl")
    parser.add_argument("--floors", type=Path, default=results / "masking_floors.json")
    parser.add_argument("--page", type=Path, default=Path("docs/results/masking.md"))
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    from pretrain.common.checkpoint import atomic_write_text

    args = parse(argv)
    rows = in_order(read_rows(args.rows), plan())
    floors = read_floors(args.floors)
    picture = args.page.with_name("masking") / "masking_cpu.svg"
    lines = report_lines(rows, floors, f"masking/{picture.name}")
    text = args.page.read_text(encoding="utf-8")
    atomic_write_text(args.page, replaced(text, MODULE, ["", *lines, ""]))
    if rows:
        picture.parent.mkdir(exist_ok=True)
        draw(rows, picture)
    print(f"{args.page}: {lines[0]}")


def plan() -> list[tuple[str, int, str]]:
    """Returns the name, seed and recipe of the 40 runs in the fixed order."""
    from benchmarks.ladder import parse as parse_ladder
    from benchmarks.ladder import plan_runs

    runs = plan_runs(parse_ladder(["--suite", SUITE, "--seeds", str(SEEDS)]))
    return [(run["name"], run["seed"], run["sha256"]) for run in runs]


def in_order(rows: Sequence[Row], order: Sequence[tuple[str, int, str]]) -> list[Row]:
    """Returns the rows of the runs up to the first missing one of the order.

    Raises InputError if a row has a different recipe or does not belong to the plan, or if a run
    occurs twice.
    """
    found: dict[tuple[str, int, str], Row] = {}
    for row in rows:
        key = (row["name"], row["seed"], row["recipe_sha256"])
        if key not in order or key in found:
            raise InputError(
                f"the row {row['name']}, seed {row['seed']} is "
                + ("there twice" if key in found else f"not a run of {SUITE}")
                + ": remove its line"
            )
        found[key] = row
    present = [found.get(key) for key in order]
    until = present.index(None) if None in present else len(present)
    return [row for row in present[:until] if row is not None]


def read_floors(path: Path) -> dict[str, dict[str, list[float]]]:
    """Returns the output of benchmarks/floors.py; {} if the file does not exist."""
    if not path.is_file():
        return {}
    return dict(json.loads(path.read_text(encoding="utf-8"))["floors"])


def report_lines(
    rows: Sequence[Row], floors: Mapping[str, Mapping[str, Sequence[float]]], picture: str
) -> list[str]:
    """Returns the page's text about the runs so far, as Markdown lines."""
    total = len(TITLES) * SEEDS
    complete = len(rows) // len(TITLES)
    so_far = (
        f"**{len(rows)} of {total} runs so far**, in the fixed order: {complete} of {SEEDS} seeds"
    )
    lines = [f"**All {total} runs.**" if len(rows) == total else f"{so_far} are complete."]
    lines += ["", *value_lines(rows, floors)]
    if not rows:
        return lines
    by_endpoint = {endpoint: values_of(rows, endpoint) for endpoint in ENDPOINTS}
    compared = {endpoint: compare_all(values) for endpoint, values in by_endpoint.items()}
    lines += ["", f"![the seeds of each row]({picture})", "", *difference_lines(compared)]
    until = "" if len(rows) == total else f", until all {total} runs are done"
    title = f"**What the rule allows us to say{until}:**"
    lines += ["", *spread_lines(by_endpoint), "", title, ""]
    return [*lines, *verdict_lines(compared[MAIN])]


def values_of(rows: Sequence[Row], endpoint: str) -> dict[str, list[float]]:
    """Returns each row's values: re-estimated statistics, and the filter as its weights expect
    it.
    """
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["name"], []).append(main_value(row, endpoint, ("precise",)))
    return found


def compare_all(
    values: Values, named: Sequence[Pair] = (*PRIMARY, *SECONDARY), gates: Sequence[Pair] = (GATE,)
) -> dict[Pair, Compared]:
    """Returns the gate and the named comparisons of one endpoint, if both rows exist. There is one
    spread for all rows, and Holm's method is applied to the named comparisons. The gate is a
    condition, not a claim.
    """
    from transfer.results.comparison import Sample, difference, holm, p_value, spread_of

    samples = {name: Sample(found) for name, found in values.items()}
    spread = spread_of(list(samples.values()))
    named = [pair for pair in named if all(name in values for name in pair)]
    estimates = {
        (a, b): difference(samples[a], samples[b], spread)
        for a, b in (*gates, *named)
        if a in values and b in values
    }
    tested = {pair: p for pair in named if (p := p_value(estimates[pair])) is not None}
    adjusted = dict(zip(tested, holm(list(tested.values()))))
    return {
        pair: Compared(
            found.value,
            found.interval(),
            adjusted.get(pair),
            min(len(values[name]) for name in pair),
        )
        for pair, found in estimates.items()
    }


def value_lines(
    rows: Sequence[Row],
    floors: Mapping[str, Mapping[str, Sequence[float]]],
    titles: Mapping[str, str] = TITLES,
) -> list[str]:
    """Accuracies in percent: mean ± standard deviation over seeds."""
    by_endpoint = {endpoint: values_of(rows, endpoint) for endpoint in ENDPOINTS}
    lines = ["| row | " + " | ".join(ENDPOINTS.values()) + " | n |"]
    lines += ["|---|" + "---|" * len(ENDPOINTS) + "---|"]
    for name, title in titles.items():
        count = len(by_endpoint[MAIN].get(name, ()))
        cells = [mean_and_std(by_endpoint[endpoint].get(name, ()), 2) for endpoint in ENDPOINTS]
        lines.append(f"| {title} | " + " | ".join(cells) + f" | {count} |")
    for name, found in floors.items():
        cells = [mean_and_std(found.get(endpoint, ()), 2) for endpoint in ENDPOINTS]
        lines.append(f"| no training: {name} | " + " | ".join(cells) + f" | {len(found[MAIN])} |")
    return lines


def short(pair: Pair) -> str:
    """Returns the names of two rows as text such as "(4) - (2)"."""
    return " - ".join(f"({name.partition('_')[0]})" for name in pair)


def difference_lines(
    compared: Mapping[str, Mapping[Pair, Compared]],
    kinds: Mapping[str, Sequence[Pair]] = KINDS,
    name_of: Callable[[Pair], str] = short,
) -> list[str]:
    """Differences in points with their 95 % intervals and Holm's p."""
    lines = ["| difference | " + " | ".join(ENDPOINTS.values()) + " |"]
    lines += ["|---|" + "---|" * len(ENDPOINTS)]
    for kind, pairs in kinds.items():
        for pair in pairs:
            cells = [shown(found.get(pair)) for found in compared.values()]
            words = ", ".join(filter(None, (name_of(pair), kind)))
            lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return lines


def shown(found: Compared | None) -> str:
    """Returns a difference as text such as "+1.20 (+0.40 to +2.00), p .012"; "" for None."""
    if found is None:
        return ""
    text = f"{found.value:+.2f}"
    if found.interval is not None:
        text += " ({:+.2f} to {:+.2f})".format(*found.interval)
    return text if found.p is None else f"{text}, p {found.p:.3f}"


def spread_lines(by_endpoint: Mapping[str, Values]) -> list[str]:
    """Returns the standard deviation on which each endpoint's differences are based."""
    from transfer.results.pooled import pooled_spread

    parts = []
    for endpoint, values in by_endpoint.items():
        spread = pooled_spread(list(values.values()))
        if spread is None:
            continue
        test = "" if spread.equal_p is None else f", Bartlett's p {spread.equal_p:.2f}"
        test += "" if spread.is_equal else ", so the differences use Welch's method"
        parts.append(f"{ENDPOINTS[endpoint]} {spread.std:.2f} ({spread.df} df{test})")
    if not parts:
        return ["One seed of a row has no spread, so there are no intervals yet."]
    return [f"Pooled standard deviation over seeds: {'; '.join(parts)}."]


def verdict_lines(main: Mapping[Pair, Compared]) -> list[str]:
    """Returns the sentences that the rule allows, given the differences of the grey linear
    probe.
    """
    pairs = (GATE, *PRIMARY)
    if any(pair not in main or main[pair].seeds < LEAST_SEEDS for pair in pairs):
        return [f"- Nothing yet: a verdict needs {LEAST_SEEDS} seeds of rows 1, 2, 4 and 7."]
    gate = main[GATE]
    if gate.interval is None or gate.interval[0] <= 0:
        return [
            f"- The gate is closed: {short(GATE)} is {shown(gate)} on the grey linear probe, "
            "so SimCLR's augmentation is not shown to help. Nothing is concluded about masking."
        ]
    lines = [f"- The gate is open: {short(GATE)} is {shown(gate)}, above 0."]
    lines += [f"- {short(pair)} is {shown(main[pair])}: {verdict(main[pair])}." for pair in PRIMARY]
    if all(verdict(main[pair]) == GAIN for pair in PRIMARY):
        lines.append("- Masks help at this scale: MSCN is above SimCLR with the filter.")
    else:
        lines.append('- The page may not say "masks help": it is not resolved.')
    return lines


def verdict(found: Compared) -> str:
    """Returns the verdict on one primary difference."""
    assert found.interval is not None, "the spread is known from three seeds"
    if found.interval[1] < LEAST_EFFECT:
        return f"a gain of {LEAST_EFFECT} points or more is refuted at this scale"
    if found.found:
        return GAIN if found.value > 0 else "resolved, a loss"
    return "not resolved, and not refuted"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draws two panels, grey and RGB linear: every seed is a dot, the mean is a line."""
    names = [name for name in list(TITLES)[::-1] if any(row["name"] == name for row in rows)]
    figure, axes = seed_dots.make_figure("masking", 2, (11, 0.36 * len(names) + 1.1))
    for axis, endpoint in zip(axes, (MAIN, "linear")):
        values = values_of(rows, endpoint)
        title = f"{ENDPOINTS[endpoint]}, top-1 in percent"
        seed_dots.plot_seeds(axis, [values[name] for name in names], title)
    axes[0].set_yticks(range(len(names)), [TITLES[name] for name in names])
    seed_dots.save(figure, path)


if __name__ == "__main__":
    sys.exit(main())
