"""One labelled mark per checkpoint: a metric against another, or quality against cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transfer.report.figures.axes import HEIGHT, RIGHT, TOP, WIDTH, Frame, axis
from transfer.report.figures.svg import group, mark, open_svg, shorten, text, tip

CHARACTER = 6.3  # approximate width of a label's character in px
LINE = 12.0
MOST_LABELS = 6  # more labels would overlap other marks: then only the page's legend has names


@dataclass(frozen=True)
class Point:
    """Is one checkpoint; `x_spread` and `y_spread` are half whiskers, or None."""

    label: str
    series: int
    x: float
    y: float
    x_spread: float | None = None
    y_spread: float | None = None


def scatter_chart(
    points: Sequence[Point], title: str, x_label: str, y_label: str, *, from_zero: bool = False
) -> str:
    """Draws marks; with few points also names, placed around their mark to overlap least.

    `from_zero`: the x axis starts at 0.
    """
    xs = [x for p in points for x in _ends(p.x, p.x_spread)] + [0.0] * from_zero
    ys = [y for p in points for y in _ends(p.y, p.y_spread)]
    frame = Frame(axis(xs, x_label), axis(ys, y_label))
    spots = [frame.place(p.x, p.y) for p in points]
    whiskers = [_whiskers(point, frame) for point in points]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in spots]
    taken += [(a - 2, d - 2, c + 2, b + 2) for found in whiskers for a, b, c, d in found]
    parts = [open_svg(WIDTH, HEIGHT, title), frame.draw()]
    for point, (x, y), ends in zip(points, spots, whiskers):
        words = f"{point.label}: {x_label} {point.x:.4g}, {y_label} {point.y:.4g}"
        row = [tip(words)]
        row += [
            f'<path class="whisker" d="M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}"/>' for a, b, c, d in ends
        ]
        row.append(mark(point.series, x, y))
        if len(points) <= MOST_LABELS:
            label = shorten(point.label, 24)
            place = _free(x, y, len(label) * CHARACTER, taken)
            taken.append(place)
            row.append(text(place[0], place[3] - 3, label, css="label"))
        parts.append(group(point.series, "".join(row)))
    return "".join([*parts, "</svg>"])


Box = tuple[float, float, float, float]


def _ends(value: float, spread: float | None) -> tuple[float, ...]:
    """Returns the ends of a whisker; that of a value of 0 or more does not go below 0."""
    if spread is None:
        return (value,)
    return (max(value - spread, min(0.0, value)), value + spread)


def _whiskers(point: Point, frame: Frame) -> list[Box]:
    """Returns the ends of each whisker in pixels: left or lower end, then right or upper end."""
    found = []
    if point.x_spread:
        ends = [(x, point.y) for x in _ends(point.x, point.x_spread)]
        found.append((*frame.place(*ends[0]), *frame.place(*ends[1])))
    if point.y_spread:
        ends = [(point.x, y) for y in _ends(point.y, point.y_spread)]
        found.append((*frame.place(*ends[0]), *frame.place(*ends[1])))
    return found


def _free(x: float, y: float, width: float, taken: Sequence[Box]) -> Box:
    """Returns the first place around (x, y) with the least overlap with taken or outside areas."""
    tries = []
    for down in (0.0, -LINE, LINE, -2 * LINE, 2 * LINE, -3 * LINE, 3 * LINE):
        for left in (x + 9, x - 9 - width, x - width / 2):
            if left == x - width / 2 and not down:
                continue
            tries.append((left, y - LINE / 2 + down, left + width, y + LINE / 2 + down))
    outside = [(-1e3, -1e3, 1.0, 1e3), (WIDTH - RIGHT + 12, -1e3, 1e4, 1e3), (0, -1e3, WIDTH, TOP)]
    return min(tries, key=lambda box: sum(_shared(box, other) for other in (*taken, *outside)))


def _shared(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
