"""SVG that parses, with points where the numbers say."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from transfer.report.figures import Bar, Line, bar_chart, line_chart, ticks


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


def test_line_chart_places_points() -> None:
    svg = line_chart([Line("a & b", 0, [(0, 0.0), (10, 10.0)]), Line("none", 1, [])], "t <1>", "x")
    root = ElementTree.fromstring(svg)
    (curve,) = root.findall("polyline")
    (x0, y0), (x1, y1) = (map(float, spot.split(",")) for spot in curve.get("points").split())
    assert x0 < x1 and y0 > y1  # larger values lie higher
    assert curve.find("title").text == "a & b" and root.get("aria-label") == "t <1>"


def test_line_chart_of_one_point() -> None:
    root = ElementTree.fromstring(line_chart([Line("a", 9, [(0, 5.0)])], "t", "x"))
    (dot,) = root.findall("circle")  # a line needs two points
    assert not root.findall("polyline")
    assert math.isfinite(float(dot.get("cx"))) and math.isfinite(float(dot.get("cy")))


def test_bars_are_proportional() -> None:
    bars = [Bar("one", 0, 20.0, None, "20.0"), Bar("two", 1, 40.0, 2.0, "40.0 ± 2.0")]
    root = ElementTree.fromstring(bar_chart(bars, "t"))
    one, two = (float(rect.get("width")) for rect in root.iter("rect"))
    assert two == pytest.approx(2 * one, rel=0.01)
    assert len(list(root.iter("path"))) == 1
