"""SVG that parses, with marks where the numbers say."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from transfer.report.figures.axes import Axis, axis, ticks
from transfer.report.figures.bars import Bar, bar_chart
from transfer.report.figures.dots import Dots, dot_chart
from transfer.report.figures.lines import Line, line_chart
from transfer.report.figures.scatter import Point, scatter_chart
from transfer.report.figures.svg import COLOURS, SHAPES, mark, number


def _marks(root: ElementTree.Element) -> list[tuple[float, float]]:
    """Places of all marks, in order."""
    found = [path.get("transform", "") for path in root.iter("path")]
    places = [re.match(r"translate\((\S+) (\S+)\)", text) for text in found]
    return [(float(place[1]), float(place[2])) for place in places if place]


def _texts(root: ElementTree.Element) -> list[str]:
    return [text.text for text in root.iter("text")]


@pytest.mark.parametrize(
    "low, high", [(0, 100), (0.0801, 0.0899), (3, 3), (0, 0), (-2.5, 7), (1e-7, 3e-7), (0, 24000)]
)
def test_ticks_are_round_and_cover(low: float, high: float) -> None:
    values = ticks(low, high, 5)
    assert values[0] <= low + 1e-12 and values[-1] >= high - 1e-12
    assert 2 <= len(values) <= 8
    step = values[1] - values[0]
    assert step / 10 ** math.floor(math.log10(step) + 1e-9) == pytest.approx(
        min((1, 2, 5, 10), key=lambda m: abs(m - step / 10 ** math.floor(math.log10(step) + 1e-9)))
    )


@pytest.mark.parametrize("low, high", [(1, 2048), (0.3, 40.0), (1e-6, 1.0), (5, 5), (1, 1), (2, 3)])
def test_logarithmic_axis_covers(low: float, high: float) -> None:
    found = axis([low, high], "x", log=True)
    assert found.low <= low * (1 + 1e-9) and found.high >= high * (1 - 1e-9)
    assert found.low < found.high and 2 <= len(found.ticks) <= 13
    assert all(found.low <= tick <= found.high * (1 + 1e-9) for tick in found.ticks)
    assert found.part(found.low) == 0 and found.part(found.high) == pytest.approx(1)
    middle = math.sqrt(found.low * found.high)
    assert found.part(middle) == pytest.approx(0.5)


def test_tight_axis_ends_at_the_values() -> None:
    found = axis([0.3, 9.7], "x", tight=True)
    assert (found.low, found.high) == (0.3, 9.7) and found.part(5.0) == pytest.approx(0.5)
    assert list(found.ticks) == [2, 4, 6, 8]
    assert isinstance(found, Axis)


def test_eight_distinct_marks_then_hollow_ones() -> None:
    assert len(set(SHAPES)) == COLOURS == 8
    drawn = {re.sub("transform.*? d", "d", mark(series, 0, 0)) for series in range(16)}
    assert len(drawn) == 16


def test_numbers() -> None:
    assert [number(v) for v in (0.5, 24000, 3000, 1234, 2e6)] == ["0.5", "24k", "3k", "1234", "2M"]


def test_line_chart_places_points() -> None:
    lines = [Line("a & b", 0, [(0, 0.0), (10, 10.0)]), Line("none", 1, [])]
    root = ElementTree.fromstring(line_chart(lines, "t <1>", "x", "y"))
    (curve,) = root.iter("polyline")
    (x0, y0), (x1, y1) = (map(float, spot.split(",")) for spot in curve.get("points").split())
    assert x0 < x1 and y0 > y1  # larger values are higher
    assert curve.find("title").text == "a & b" and root.get("aria-label") == "t <1>"
    assert _marks(root) == [(x0, y0), (x1, y1)]


def test_line_chart_of_one_point() -> None:
    root = ElementTree.fromstring(line_chart([Line("a", 9, [(0, 5.0)])], "t", "x", "y"))
    ((x, y),) = _marks(root)  # a line needs two points
    assert not list(root.iter("polyline"))
    assert math.isfinite(x) and math.isfinite(y)


def test_line_chart_with_logarithms() -> None:
    points = [(1, 1.0), (10, 0.1), (100, 0.01), (1000, 0.0)]  # the last has no logarithm
    svg = line_chart([Line("a", 0, points)], "t", "x", "y", log_x=True, log_y=True)
    spots = _marks(ElementTree.fromstring(svg))
    assert len(spots) == 3
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(spots, spots[1:])]
    assert steps[0] == pytest.approx(steps[1], abs=0.2)


def test_long_curves_have_few_marks() -> None:
    lines = [Line(str(i), i, [(x, 1.0) for x in range(300)]) for i in range(2)]
    root = ElementTree.fromstring(line_chart(lines, "t", "x", "y"))
    curve = next(root.iter("polyline")).get("points").split()
    assert len(curve) == 100
    first, second = ({x for x, _ in _marks(row)} for row in root.iter("g"))
    assert len(first) == len(second) == 7 and len(first & second) == 1  # the last point


def test_bars_are_proportional() -> None:
    bars = [
        Bar("one", 0, 20.0, None, None, "20.0"),
        Bar("two", 1, 40.0, 38.0, 42.0, "40.0 ± 2.0"),
    ]
    root = ElementTree.fromstring(bar_chart(bars, "t"))
    one, two = (float(rect.get("width")) for rect in root.iter("rect"))
    assert two == pytest.approx(2 * one, rel=0.01)
    (whisker,) = (path for path in root.iter("path") if path.get("class") == "whisker")
    start, end = map(float, re.match(r"M(\S+) \S+H([\d.]+)", whisker.get("d")).groups())
    assert (start + end) / 2 - 160 == pytest.approx(two, abs=0.2)
    assert end - start == pytest.approx(4 / 20 * one, abs=0.2)


def test_no_axis_shows_impossible_numbers() -> None:
    """A precision is not below 0 and not above 1, also if all values are equal."""
    for values in ([0.0, 0.0], [0.0, 1e-5], [1.0, 1.0], [0.96, 1.0], [0.2, 0.7]):
        found = axis(values, "precision", most=1.0)
        assert 0 <= found.low <= min(values) and max(values) <= found.high <= 1, values
        assert len(found.ticks) > 1 and found.low < found.high
    assert axis([0.0, 0.0], "loss").low == 0 and axis([3.0, 3.0], "loss").low >= 0
    below = axis([-2.0, 1.0], "loss")
    assert below.low <= -2 and below.high >= 1  # a loss may be negative
    points = [Point("a", 0, 50.0, 1.0, None, 3.0), Point("b", 1, 60.0, 4.0, None, 0.1)]
    ticks_of = _texts(ElementTree.fromstring(scatter_chart(points, "t", "x", "y")))
    assert not [text for text in ticks_of if text.startswith("-")]


def test_dots_share_a_scale() -> None:
    rows = [Dots("small", [("A", 0, 10.0), ("B", 1, 30.0)]), Dots("large", [("A", 0, 20.0)])]
    root = ElementTree.fromstring(dot_chart(rows, "t"))
    (a, y), (b, same), (c, below) = _marks(root)
    assert y == same < below and c - a == pytest.approx(b - c, abs=0.2) and a < b
    span, _ = (path.get("d") for path in root.iter("path") if path.get("class") == "span")
    assert span == f"M{a} {y}H{b}"


def test_scatter_places_marks_and_keeps_labels_apart() -> None:
    points = [
        Point("first", 0, 10.0, 5.0, 1.0, 0.5),
        Point("second, close to it", 1, 10.1, 5.0),
        Point("third", 2, 20.0, 9.0),
    ]
    root = ElementTree.fromstring(scatter_chart(points, "t", "x", "y"))
    (x0, y0), (x1, _), (x2, y2) = _marks(root)
    assert x0 < x1 < x2 and y2 < y0
    assert len([p for p in root.iter("path") if p.get("class") == "whisker"]) == 2
    labels = [text for text in root.iter("text") if text.get("class") == "label"]
    boxes = [
        (float(t.get("x")), float(t.get("y")), float(t.get("x")) + 6.3 * len(t.text))
        for t in labels
    ]
    for one, two in ((0, 1), (0, 2), (1, 2)):
        apart = abs(boxes[one][1] - boxes[two][1]) >= 11
        assert apart or boxes[one][2] <= boxes[two][0] or boxes[two][2] <= boxes[one][0]
    assert all(0 <= left and right <= 400 for left, _, right in boxes)
    many = [Point(f"point {i}", i, 1.0 + i, 2.0) for i in range(7)]  # left to the page's legend
    assert 'class="label"' not in scatter_chart(many, "t", "x", "y")
