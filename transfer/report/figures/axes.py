"""The frame of a plot: it turns values into positions in pixels, and draws ticks and labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from transfer.report.figures.svg import number, shorten, text

WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 30, 40
MOST_OF_LABEL = 58  # characters of an axis label, which fit in the width of the plot


@dataclass(frozen=True)
class Axis:
    """Is an axis from `low` to `high`, linear or logarithmic (base 10)."""

    label: str
    low: float
    high: float
    ticks: Sequence[float]
    log: bool = False

    def part(self, value: float) -> float:
        """Returns a value's position on the axis: 0 at `low`, 1 at `high`."""
        if self.log:
            span = math.log10(self.high / self.low)
            return math.log10(max(value, self.low) / self.low) / span
        return (value - self.low) / (self.high - self.low)


def axis(
    values: Sequence[float],
    label: str,
    *,
    log: bool = False,
    tight: bool = False,
    most: float | None = None,
) -> Axis:
    """Returns an axis over `values` with about five round ticks.

    It shows no number that the quantity cannot have: nothing below 0 if no value is, and nothing
    above `most`, the largest possible value (1 for a precision, 100 for percent).

    Args:
        tight: the axis ends at the outermost values instead of at ticks.
        log: logarithmic; it needs values above 0.
    """
    low, high = min(values), max(values)
    if log:
        found = _log_axis(low, high, label)
        if tight and high > low:
            return Axis(label, low, high, [t for t in found.ticks if low <= t <= high], True)
        return found
    if tight and high > low:
        return Axis(label, low, high, [t for t in ticks(low, high, 5) if low <= t <= high])
    marks = ticks(low, high, 5)
    possible = [t for t in marks if (t >= 0 or low < 0) and (most is None or t <= max(most, high))]
    marks = possible if len(possible) > 1 else [0.0, most or 1.0]
    return Axis(label, marks[0], marks[-1], marks)


def _log_axis(low: float, high: float, label: str) -> Axis:
    """Returns an axis of complete decades, with ticks at 1, 2 and 5 of each if it is short."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    if last == first:
        last += 1
    decades = [10.0**k for k in range(first, last + 1)]
    if last - first > 2:
        step = -(-(last - first) // 6)
        return Axis(label, decades[0], decades[-1], decades[::step], True)
    marks = sorted({round(m * d, 12) for d in decades for m in (1, 2, 5)})
    low = max(mark for mark in marks if mark <= low * (1 + 1e-9))
    high = min((mark for mark in marks if mark >= high * (1 - 1e-9)), default=decades[-1])
    if high <= low:
        low, high = low / 2, high * 2
    return Axis(label, low, high, [mark for mark in marks if low <= mark <= high], True)


@dataclass(frozen=True)
class Frame:
    """Is a plot of WIDTH x HEIGHT pixels with its two axes."""

    x: Axis
    y: Axis

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Converts data to pixels; larger `y` is higher."""
        across = LEFT + self.x.part(x) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - self.y.part(y) * (HEIGHT - TOP - BOTTOM)

    def draw(self) -> str:
        """Draws grid, tick labels and axis labels; the y axis has its horizontal label above it."""
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        parts = [text(4, 12, shorten(self.y.label, MOST_OF_LABEL), css="tick axis")]
        for value in self.y.ticks:
            y = self.place(self.x.low, value)[1]
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
            parts.append(text(LEFT - 7, y + 4, number(value), "end"))
        for value in self.x.ticks:
            x = self.place(value, self.y.low)[0]
            parts.append(f'<path class="grid" d="M{x:.1f} {bottom}v4"/>')
            parts.append(text(x, bottom + 16, number(value), "middle"))
        below = shorten(self.x.label, MOST_OF_LABEL)
        parts.append(text((LEFT + right) / 2, HEIGHT - 6, below, "middle", "tick axis"))
        return "".join(parts)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Returns about `count` values that cover `low` to `high`, in steps of 1, 2 or 5 x 10^k."""
    if high <= low:
        low, high = low - (abs(low) * 0.05 or 1), high + (abs(high) * 0.05 or 1)
    raw = (high - low) / count
    exponent = math.floor(math.log10(raw))
    size = 10.0**exponent
    step = next(m * size for m in (1, 2, 5, 10) if m * size >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = 12 - min(0, exponent)
    return [round(i * step, digits) for i in range(first, last + 1)]
