"""Hand-made SVG: numbers in, `<svg>` text out, no script and no library.

Colours are CSS classes (`c0` .. `c7` for checkpoints), so that light and dark follow the page.
Every figure has a title that screen readers speak, and its numbers also stand in a table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLOURS = 8
WIDTH, HEIGHT = 400, 240
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 12, 36


@dataclass(frozen=True)
class Line:
    """One curve: `points` are (x, y); `colour` is the checkpoint's number."""

    label: str
    colour: int
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart; `spread` is the standard deviation or None."""

    label: str
    colour: int
    value: float
    spread: float | None
    text: str


def line_chart(lines: Sequence[Line], title: str, x_label: str) -> str:
    """Curves over a common x axis; the legend is the page's."""
    lines = [line for line in lines if line.points]
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_ticks, y_ticks = ticks(min(xs), max(xs), 5), ticks(min(ys), max(ys), 5)
    x_low, x_high = min(xs), max(max(xs), x_ticks[-1] if len(set(xs)) < 2 else max(xs))
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / ((x_high - x_low) or 1)
        up = (y - y_low) / ((y_high - y_low) or 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (
            HEIGHT - TOP - BOTTOM
        )

    parts = [_open(WIDTH, HEIGHT, title)]
    for value in y_ticks:
        y = place(x_low, value)[1]
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_text(LEFT - 7, y + 4, _number(value), "end"))
    for value in (tick for tick in x_ticks if x_low <= tick <= x_high):
        parts.append(_text(place(value, y_low)[0], HEIGHT - BOTTOM + 16, _number(value), "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, x_label, "middle"))
    for line in lines:
        dash = " dashed" if line.colour >= COLOURS else ""
        css = f"c{line.colour % COLOURS}{dash}"
        spots = [place(x, y) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        name = f"<title>{escape(line.label)}</title>"
        if len(spots) > 1:
            parts.append(f'<polyline class="curve {css}" points="{path}">{name}</polyline>')
        if len(spots) <= 40:
            parts += [
                f'<circle class="dot {css}" cx="{x:.1f}" cy="{y:.1f}" r="2.6">{name}</circle>'
                for x, y in spots
            ]
    return "".join([*parts, "</svg>"])


def bar_chart(bars: Sequence[Bar], title: str) -> str:
    """Horizontal bars from 0, with a whisker of one standard deviation where there is one."""
    row, left, right = 26, 156, 88
    height = row * len(bars) + 8
    top = max([bar.value + (bar.spread or 0) for bar in bars] + [1.0])  # 0.003 % is no bar
    scale = (WIDTH - left - right) / top
    parts = [_open(WIDTH, height, title)]
    for index, bar in enumerate(bars):
        y, end = 4 + index * row, left + max(0.0, bar.value) * scale
        label = bar.label if len(bar.label) <= 22 else bar.label[:21] + "…"
        parts.append(f"<g><title>{escape(bar.label)}: {escape(bar.text)}</title>")
        parts.append(_text(left - 8, y + 17, label, "end"))
        css = f"bar c{bar.colour % COLOURS}"
        parts.append(
            f'<rect class="{css}" x="{left}" y="{y + 4}" width="{end - left:.1f}" '
            'height="16" rx="2"/>'
        )
        if bar.spread is not None:
            reach = bar.spread * scale
            parts.append(
                f'<path class="whisker" d="M{end - reach:.1f} {y + 12}H{end + reach:.1f}'
                f'M{end - reach:.1f} {y + 8}v8M{end + reach:.1f} {y + 8}v8"/>'
            )
        shown = end + (bar.spread or 0) * scale + 7
        parts.append(_text(shown, y + 17, bar.text, "start", "value"))
        parts.append("</g>")
    return "".join([*parts, "</svg>"])


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round values from at most `low` to at least `high`, step 1, 2 or 5 x 10^k."""
    if high <= low:
        low, high = low - (abs(low) * 0.05 or 1), high + (abs(high) * 0.05 or 1)
    raw = (high - low) / count
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(m * size for m in (1, 2, 5, 10) if m * size >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _open(width: int, height: int, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>"
    )


def _text(x: float, y: float, text: str, anchor: str, css: str = "tick") -> str:
    return (
        f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _number(value: float) -> str:
    if abs(value) >= 10000:
        return f"{value / 1000:g}k"
    return f"{value:g}"
