"""Horizontal bars: one number per checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transfer.report.figures.axes import WIDTH
from transfer.report.figures.svg import group, mark, open_svg, shorten, style_of, text, tip

ROW = 26


@dataclass(frozen=True)
class Bar:
    """Is one row of a bar chart.

    `low` and `high` are the ends of its whisker, or None; `words` is the value as text.
    """

    label: str
    series: int
    value: float
    low: float | None
    high: float | None
    words: str


def bar_chart(bars: Sequence[Bar], title: str) -> str:
    """Draws bars from 0, with whiskers if there are any."""
    left, right = 160, 112
    height = ROW * len(bars) + 6
    ends = [bar.value if bar.high is None else max(bar.value, bar.high) for bar in bars]
    scale = (WIDTH - left - right) / max([*ends, 1.0])  # 0.003 % must not fill the width
    parts = [open_svg(WIDTH, height, title)]
    for index, bar in enumerate(bars):
        y, end = 4 + index * ROW, left + max(0.0, bar.value) * scale
        row = [tip(f"{bar.label}: {bar.words}"), mark(bar.series, 8, y + 12)]
        row.append(text(18, y + 16, shorten(bar.label, 21)))
        box = f'x="{left}" y="{y + 4}" width="{end - left:.1f}" height="16" rx="2"'
        row.append(f'<rect class="bar {style_of(bar.series)}" {box}/>')
        if bar.low is not None and bar.high is not None:
            low, high = (left + max(0.0, value) * scale for value in (bar.low, bar.high))
            ends_of = f"M{low:.1f} {y + 8}v8M{high:.1f} {y + 8}v8"
            row.append(f'<path class="whisker" d="M{low:.1f} {y + 12}H{high:.1f}{ends_of}"/>')
            end = max(end, high)
        row.append(text(end + 6, y + 16, bar.words, css="value"))
        parts.append(group(bar.series, "".join(row)))
    return "".join([*parts, "</svg>"])
