#!/usr/bin/env python
"""Reads result records and writes report.{html,md,csv,tex}, with a table for each protocol."""

from __future__ import annotations

from collections.abc import Sequence

from pretrain.common.cli import make_parser, tool

EXAMPLE = "python tools/report.py runs/knn runs/voc --output runs/report --compare simclr mscn"


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the report, prints its tables and the path of the page."""
    parser = make_parser(__doc__, EXAMPLE, overrides=False)
    parser.add_argument(
        "results",
        nargs="+",
        metavar="RESULTS_DIR",
        help="folders of runs, which are searched for record.json",
    )
    parser.add_argument("--output", required=True, help="folder in which to write the four files")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="compare two rows; A and B are labels, names in the records, or folders of the runs",
    )
    parser.add_argument(
        "--leaderboard",
        action="store_true",
        help="also rank all checkpoints over all tasks, in leaderboard.html, .md, .csv and .tex",
    )
    parser.add_argument("--title", default="Transfer results", help="the page's heading")
    parser.add_argument(
        "--no-pictures",
        action="store_true",
        help="leave out pictures of the data, for example if they may not be shown",
    )
    args = parser.parse_args(argv)
    from transfer.report.run import write_report

    written = write_report(
        args.results,
        args.output,
        pair=args.compare or (),
        title=args.title,
        pictures=not args.no_pictures,
        leaderboard=args.leaderboard,
    )
    for note in written.notes:
        print(f"note: {note}")
    print(written.table)
    if written.comparison:
        print(f"\n{written.comparison}")
    print(f"\n{written.page}")
    if written.leaderboard:
        print(written.leaderboard)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
