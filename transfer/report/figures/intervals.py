"""Marks with intervals on one scale: the mean ranks of the leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transfer.report.figures.axes import WIDTH, axis
from transfer.report.figures.row_frame import RowFrame
from transfer.report.figures.svg import group, mark, shorten, text, tip

LEFT, RIGHT, ROW = 160, 60, 24


@dataclass(frozen=True)
class Interval:
    """Is one row: a value between `low` and `high`; `words` is the value as text."""

    label: str
    series: int
    value: float
    low: float
    high: float
    words: str


def interval_chart(rows: Sequence[Interval], title: str) -> str:
    """Draws a mark and its interval for each row, in the given order, on one scale."""
    scale = axis([end for row in rows for end in (row.low, row.value, row.high)], title)
    frame = RowFrame(scale, LEFT, RIGHT, ROW, len(rows))
    parts = [frame.draw(title)]
    for index, row in enumerate(rows):
        y = frame.middle(index)
        low, middle, high = map(frame.place, (row.low, row.value, row.high))
        ends = f"M{low:.1f} {y - 4:.1f}v8M{high:.1f} {y - 4:.1f}v8"
        found = [tip(f"{row.label}: {row.words}"), text(8, y + 4, shorten(row.label, 21))]
        found.append(f'<path class="whisker" d="M{low:.1f} {y:.1f}H{high:.1f}{ends}"/>')
        found.append(mark(row.series, middle, y))
        found.append(text(WIDTH - RIGHT + 12, y + 4, row.words, css="value"))
        parts.append(group(row.series, "".join(found)))
    return "".join([*parts, "</svg>"])
