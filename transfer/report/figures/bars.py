"""Horizontal bars: one number per checkpoint, or the differences of two checkpoints by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transfer.report.figures.axes import WIDTH
from transfer.report.figures.svg import group, mark, open_svg, shorten, style_of, text, tip

ROW = 26
THIN_ROW = 18


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart.

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


def difference_chart(
    differences: Sequence[tuple[str, float]],
    title: str,
    first: tuple[str, int],
    second: tuple[str, int],
) -> str:
    """Draws sorted bars of first - second, without a sign, on the side of the higher checkpoint.

    `differences` are (class, percentage points); `first` and `second` (label, series).
    """
    middle, head = 250, 26
    rows = sorted(differences, key=lambda row: (-row[1], row[0]))
    scale = 92 / max([abs(value) for _, value in rows] + [1e-9])
    height = head + THIN_ROW * len(rows) + 6
    parts = [open_svg(WIDTH, height, title)]
    parts += [mark(second[1], middle - 8, 10), mark(first[1], middle + 8, 10)]
    parts.append(text(middle - 18, 14, f"{shorten(second[0], 18)} higher", "end"))
    parts.append(text(middle + 18, 14, f"{shorten(first[0], 14)} higher"))
    boxes = {first: "", second: ""}
    for index, (name, value) in enumerate(rows):
        y, width, words = head + index * THIN_ROW, abs(value) * scale, f"{abs(value):.1f}"
        side = first if value >= 0 else second
        reach = width if value >= 0 else -width
        boxes[side] += f"M{middle} {y + 2}h{reach:.1f}v{THIN_ROW - 5}h{-reach:.1f}z"
        parts.append(text(4, y + 13, shorten(name, 16)))
        end = (middle + width + 5, "start") if value >= 0 else (middle - width - 5, "end")
        parts.append(text(end[0], y + 13, words, end[1], "value small"))
    # One path per side: a page has this figure for each pair of checkpoints
    parts += [f'<path class="bar {style_of(side[1])}" d="{d}"/>' for side, d in boxes.items() if d]
    parts.append(f'<path class="axis" d="M{middle} {head - 4}V{height - 4}"/>')
    return "".join([*parts, "</svg>"])
