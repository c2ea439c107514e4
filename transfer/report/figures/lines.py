"""Curves over a common x axis: learning curves, precision-recall, spectra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from transfer.report.figures.axes import HEIGHT, WIDTH, Frame, axis
from transfer.report.figures.svg import group, mark, open_svg, short, style_of, tip

Point = TypeVar("Point", bound=tuple)

MARKS = 6  # per curve: enough to identify a curve by shape without hiding it
MOST_POINTS = 100  # points of one curve, which is about 330 px wide
MOST_OF_BAND = 34  # points of a band: every third of 101 recalls, because a page has many bands


@dataclass(frozen=True)
class Line:
    """Is one curve: `points` are (x, y), in order; `series` is the checkpoint's row number.

    `band`: (x, lowest, highest) around it, in order; drawn on linear axes only.
    """

    label: str
    series: int
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = ()


def line_chart(
    lines: Sequence[Line],
    title: str,
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    most: float | None = None,
) -> str:
    """Draws the curves that have points; the page has the legend.

    On a logarithmic axis, points at or below 0 are left out. `most` is the largest possible y.
    """
    kept = [_positive(line, log_x, log_y) for line in lines]
    kept = [replace(line, points=_thinned(line.points, MOST_POINTS)) for line in kept]
    kept = [line for line in kept if line.points]
    xs = [x for line in kept for x, _ in line.points]
    ys = [y for line in kept for _, y in line.points]
    ys += [y for line in kept for _, *ends in line.band for y in ends]
    frame = Frame(axis(xs, x_label, log=log_x, tight=True), axis(ys, y_label, log=log_y, most=most))
    curves = [group(line.series, _curve(line, frame)) for line in kept]
    return "".join([open_svg(WIDTH, HEIGHT, title), frame.draw(), *curves, "</svg>"])


def _positive(line: Line, log_x: bool, log_y: bool) -> Line:
    points = [(x, y) for x, y in line.points if (x > 0 or not log_x) and (y > 0 or not log_y)]
    return replace(line, points=points)


def _thinned(points: Sequence[Point], most: int) -> list[Point]:
    """Returns at most `most` points, evenly spaced, including the first and the last."""
    count = min(most, len(points))
    return [points[round(i * (len(points) - 1) / max(1, count - 1))] for i in range(count)]


def _curve(line: Line, frame: Frame) -> str:
    spots = [frame.place(x, y) for x, y in line.points]
    path = " ".join(f"{short(x)},{short(y)}" for x, y in spots)
    css = f"curve {style_of(line.series)}"
    parts = [f'<polyline class="{css}" points="{path}">{tip(line.label)}</polyline>']
    band = _thinned(line.band, MOST_OF_BAND)
    edge = [frame.place(x, high) for x, _, high in band]
    edge += [frame.place(x, low) for x, low, _ in reversed(band)]
    around = " ".join(f"{short(x)},{short(y)}" for x, y in edge)
    parts += [f'<polygon class="band {style_of(line.series)}" points="{around}"/>'] * bool(band)
    few = len(spots) <= MARKS
    # Marks of different series start at different places: then equal curves are both visible
    places = range(len(spots)) if few else _spread(len(spots), line.series)
    for index in places:
        x, y = line.points[index]
        words = f"{line.label}: {y:.4g} at {x:g}" if few else ""
        parts.append(mark(line.series, *spots[index], words, 0.8))
    return "".join(parts if len(spots) > 1 else parts[1:])


def _spread(count: int, series: int) -> list[int]:
    shift = (series % 4) / 4 / MARKS
    return [round((i / MARKS + shift) * (count - 1)) for i in range(MARKS)] + [count - 1]
