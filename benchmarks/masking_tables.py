"""Writes the tables of the longer look and of the tuning into docs/results/masking.md.

They show the rows that are in, with the differences that the page named before the runs. The main
experiment has a page of its own rules: benchmarks/masking_report.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# The checkout, because `benchmarks` is not installed
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ladder_rows import read_rows  # noqa: E402
from benchmarks.marked_page import replaced_after  # noqa: E402
from benchmarks.masking_report import (  # noqa: E402
    ENDPOINTS,
    MAIN,
    TITLES,
    Pair,
    Row,
    compare_all,
    difference_lines,
    short,
    spread_lines,
    value_lines,
    values_of,
)
from pretrain.common.cli import make_parser, tool  # noqa: E402

EXAMPLE = "python -m benchmarks.masking_tables"
PRESENT = "filter_11_5"  # the tuned row as it is now
TUNED = {
    PRESENT: "**11 px, 5; i.i.d. noise of 0.18 (present)**",
    "no_filter": "no filter",
    "filter_21_10": "filter of 21 px, 10",
    "filter_15_7": "filter of 15 px, 7",
    "filter_7_25": "filter of 7 px, 2.5",
    "filter_5_15": "filter of 5 px, 1.5",
    "filter_3_08": "filter of 3 px, 0.8",
    "noise_none": "no noise",
    "noise_patch": "noise: one patch per batch",
    "noise_image": "noise: one colour per image",
    "noise_cell": "noise: one colour per cell",
    "noise_009": "i.i.d. noise of 0.09",
    "noise_05": "i.i.d. noise of 0.5",
    "noise_10": "i.i.d. noise of 1.0",
}


@dataclass(frozen=True)
class Table:
    """A suite whose rows the page shows.

    Attributes:
        suite: the file of the rows in benchmarks/results, without suffix.
        titles: the page's text of each row, in its order.
        pairs: the differences, first row minus second.
        against: what the second row of each pair is called; "": pairs are named by their numbers.
    """

    suite: str
    titles: Mapping[str, str]
    pairs: tuple[Pair, ...]
    against: str = ""

    @property
    def mark(self) -> str:
        """The line of the page before this table."""
        return f"<!-- {self.suite}, written by {EXAMPLE} -->"

    def name_of(self, pair: Pair) -> str:
        """Returns a difference's first cell."""
        return f"{self.titles[pair[0]]}, minus {self.against}" if self.against else short(pair)


LONG_ROWS = ("2_simclr", "5_image_noise", "7_simclr_filtered")
TABLES = (
    Table(
        "masking_long_cpu",
        {name: TITLES[name] for name in LONG_ROWS},
        (("5_image_noise", "2_simclr"), ("5_image_noise", "7_simclr_filtered")),
    ),
    Table(
        "masking_tuning_cpu",
        TUNED,
        tuple((name, PRESENT) for name in TUNED if name != PRESENT),
        "present",
    ),
)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLE, overrides=False)
    parser.add_argument("--rows", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--page", type=Path, default=Path("docs/results/masking.md"))
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    from pretrain.common.checkpoint import atomic_write_text

    args = parse(argv)
    text = args.page.read_text(encoding="utf-8")
    for table in TABLES:
        lines = table_lines(table, read_rows(args.rows / f"{table.suite}.jsonl"))
        text = replaced_after(text, table.mark, ["", *lines, ""])
    atomic_write_text(args.page, text)
    print(args.page)


def table_lines(table: Table, rows: Sequence[Row]) -> list[str]:
    """Returns the values of the rows that are in, and the differences once a row has two seeds, as
    Markdown lines.
    """
    by_endpoint = {endpoint: values_of(rows, endpoint) for endpoint in ENDPOINTS}
    titles = {name: text for name, text in table.titles.items() if name in by_endpoint[MAIN]}
    lines = value_lines(rows, {}, titles)
    compared = {
        endpoint: compare_all(values, table.pairs, ()) for endpoint, values in by_endpoint.items()
    }
    several = [pair for pair, found in compared[MAIN].items() if found.seeds > 1]
    if several:
        lines += ["", *difference_lines(compared, {"": several}, table.name_of)]
    return [*lines, "", *spread_lines(by_endpoint)]


if __name__ == "__main__":
    sys.exit(main())
