"""Dot charts for many small groups (AP by size or class): a row per group, a mark per series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transfer.report.figures.axes import axis
from transfer.report.figures.row_frame import RowFrame
from transfer.report.figures.svg import mark, shorten, text

LEFT, RIGHT, ROW = 118, 16, 19


@dataclass(frozen=True)
class Dots:
    """Is one row: (checkpoint's label, its series, value) for each checkpoint that has a value."""

    label: str
    values: Sequence[tuple[str, int, float]]


def dot_chart(rows: Sequence[Dots], title: str, unit: str = "percent") -> str:
    """Draws the rows with a common scale from 0 (or below); a thin line joins a row's extremes."""
    values = [value for row in rows for _, _, value in row.values]
    frame = RowFrame(axis([0.0, *values], unit), LEFT, RIGHT, ROW, len(rows))
    parts = [frame.draw(title)]
    for index, row in enumerate(rows):
        y = frame.middle(index)
        found = [frame.place(value) for _, _, value in row.values]
        parts.append(text(LEFT - 10, y + 4, shorten(row.label, 16), "end"))
        if found:
            parts.append(f'<path class="span" d="M{min(found):.1f} {y:.1f}H{max(found):.1f}"/>')
        for label, series, value in row.values:
            words = f"{label}: {value:.1f}"
            parts.append(mark(series, frame.place(value), y, words, 0.9, f"dot row r{series}"))
    return "".join([*parts, "</svg>"])
