"""Dot charts for many small groups (AP by size or class): a row per group, a mark per series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transfer.report.figures.axes import WIDTH, axis
from transfer.report.figures.svg import mark, number, open_svg, shorten, text

LEFT, RIGHT, TOP, ROW = 118, 16, 24, 19


@dataclass(frozen=True)
class Dots:
    """One row: (checkpoint's label, its series, value) for each checkpoint that has a value."""

    label: str
    values: Sequence[tuple[str, int, float]]


def dot_chart(rows: Sequence[Dots], title: str, unit: str = "percent") -> str:
    """Draws the rows with a common scale from 0 (or below); a thin line joins a row's extremes."""
    values = [value for row in rows for _, _, value in row.values]
    scale = axis([0.0, *values], unit)
    height = TOP + ROW * len(rows) + 8

    def place(value: float) -> float:
        return LEFT + scale.part(value) * (WIDTH - LEFT - RIGHT)

    parts = [open_svg(WIDTH, height, title)]
    for tick in scale.ticks:
        x = place(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP - 6}V{height - 6}"/>')
        parts.append(text(x, 12, number(tick), "middle"))
    for index, row in enumerate(rows):
        y = TOP + index * ROW + ROW / 2
        found = [place(value) for _, _, value in row.values]
        parts.append(text(LEFT - 10, y + 4, shorten(row.label, 16), "end"))
        if found:
            parts.append(f'<path class="span" d="M{min(found):.1f} {y:.1f}H{max(found):.1f}"/>')
        for label, series, value in row.values:
            words = f"{label}: {value:.1f}"
            parts.append(mark(series, place(value), y, words, 0.9, f"dot row r{series}"))
    return "".join([*parts, "</svg>"])
