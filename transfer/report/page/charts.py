"""Figures of the table's numbers: bars, AP by size, probe against detection, cost.

Every function returns a `Group`: charts with a heading and a legend, or the reason why there is no
chart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product

from markupsafe import Markup

from transfer.report.figures.bars import Bar, bar_chart
from transfer.report.figures.dots import Dots, dot_chart
from transfer.report.figures.scatter import MOST_LABELS, Point, scatter_chart
from transfer.report.numbers_as_text import format_summary
from transfer.report.rows_columns_cells import Checkpoint, Protocol, Results
from transfer.results.statistics import Summary

SIZES = {"APs": "small", "APm": "medium", "APl": "large"}
MAX_SCATTERS = 8


@dataclass(frozen=True)
class Chart:
    """Is one figure with its caption."""

    title: str
    svg: Markup


@dataclass(frozen=True)
class Group:
    """Figures under one heading; `rows` are the checkpoints of the legend.

    `missing` says why there is no chart, and what is needed for one.
    """

    name: str  # name of its anchor
    heading: str
    words: str
    charts: list[Chart]
    rows: list[Checkpoint] = field(default_factory=list)
    missing: str = ""
    contents: str = ""  # its name in the list of figures; several groups may share one

    @property
    def link(self) -> str:
        return self.contents or self.heading


def overview(results: Results) -> Group:
    """Returns a bar chart per headline metric."""
    charts = []
    for protocol, metric in results.headlines():
        bars = []
        for series, row, summary in _summaries(results, protocol, metric):
            ends = (summary.low, summary.high)
            words = f"{format_summary(summary, count=False)} n={summary.n}"
            bars.append(Bar(row.label, series, summary.mean, *ends, words))
        title = f"{protocol.short}: {metric} (percent)"
        charts.append(Chart(title, Markup(bar_chart(bars, title))))
    return Group(
        "overview",
        "Headline numbers",
        "Bars start at 0; whiskers are the 95 % intervals of the table, if there are any.",
        charts,
    )


def by_size(results: Results) -> Group:
    """Returns charts of the AP of small, medium and large objects."""
    charts, drawn = [], []
    for protocol, kind in product(results.protocols, ("bbox", "segm", "keypoints")):
        rows = []
        for name, words in SIZES.items():
            found = list(_summaries(results, protocol, f"{kind}/{name}"))
            if found:
                rows.append(Dots(words, [(row.label, s, value.mean) for s, row, value in found]))
                drawn += [row for _, row, _ in found]
        if rows:
            title = f"{protocol.short}: {kind}/AP by size of the object (percent)"
            charts.append(Chart(title, Markup(dot_chart(rows, title))))
    return Group(
        "sizes",
        "AP by size",
        "COCO's sizes: small is below 32 x 32 pixels, large above 96 x 96. Means over trials.",
        charts,
        _ordered(results, drawn),
        "Only COCO's evaluator computes it, for the sizes of objects in the test set.",
    )


def linear_against_detection(results: Results) -> Group:
    """Returns charts of linear top-1 against box AP, with a mark per checkpoint that has both."""
    linear = [(p, m) for p, m in results.headlines() if p.task == "linear"]
    detection = [(p, m) for p, m in results.headlines() if m == "bbox/AP"]
    charts, unnamed = [], set()
    for (p1, m1), (p2, m2) in product(linear, detection):
        ones = {series: value for series, _, value in _summaries(results, p1, m1)}
        points = [
            Point(row.label, s, ones[s].mean, value.mean, ones[s].std, value.std)
            for s, row, value in _summaries(results, p2, m2)
            if s in ones
        ]
        if len(points) > 1:
            title = f"{p1.short} {m1} against {p2.short} {m2}"
            svg = scatter_chart(points, title, f"{p1.short}: {m1}", f"{p2.short}: {m2}")
            charts.append(Chart(title, Markup(svg)))
            unnamed |= _without_names(points)
    cut = f" The first {MAX_SCATTERS} of {len(charts)} pairs of columns."
    return Group(
        "scatter",
        "Linear probe against detection",
        "Does a good linear probe mean a good detector? Percent; whiskers are one sample "
        "standard deviation." + (cut if len(charts) > MAX_SCATTERS else ""),
        charts[:MAX_SCATTERS],
        _of_series(results, unnamed),
        missing="Needs two checkpoints with results of both a linear probe and a detector.",
    )


def cost_against_quality(results: Results) -> Group:
    """Returns charts of each protocol's first headline metric against pretraining cost."""
    charts, seen, unnamed = [], set(), set()
    for protocol, metric in results.headlines():
        if protocol.key in seen:
            continue
        seen.add(protocol.key)
        found = list(_summaries(results, protocol, metric))
        for gpu in (True, False):
            costs, label = cost_points([(series, row) for series, row, _ in found], gpu)
            if costs:
                points = [
                    Point(row.label, series, costs[series], value.mean, None, value.std)
                    for series, row, value in found
                    if series in costs
                ]
                title = f"{protocol.short}: {metric} against {label}"
                svg = scatter_chart(
                    points, title, label, f"{protocol.short}: {metric}", from_zero=True
                )
                charts.append(Chart(title, Markup(svg)))
                unnamed |= _without_names(points)
    return Group(
        "cost",
        "Cost against quality",
        "Cost is the measured time of pretraining: GPU time if it ran on GPUs, else wall-clock "
        "time on its processors. Untrained weights cost nothing.",
        charts,
        _of_series(results, unnamed),
        "Needs two checkpoints, one of them with a measured pretraining time.",
    )


def _without_names(points: Sequence[Point]) -> set[int]:
    """Returns the series of a chart without labels at its marks: the legend names them."""
    return {point.series for point in points} if len(points) > MOST_LABELS else set()


def _of_series(results: Results, wanted: set[int]) -> list[Checkpoint]:
    return [row for series, row in enumerate(results.checkpoints) if series in wanted]


def cost_points(rows: Iterable[tuple[int, Checkpoint]], gpu: bool) -> tuple[dict[int, float], str]:
    """Returns {series: cost of pretraining} and the label of the axis, ({}, "") for no figure.

    GPU time and other times are never on one axis. A figure needs two rows and a cost above 0.
    """
    costs: dict[int, float] = {}
    for series, row in rows:
        cost = row.gpu_seconds if gpu else (None if row.gpu_seconds else row.seconds)
        if row.untrained:
            costs[series] = 0.0
        elif cost:
            costs[series] = cost
    if len(costs) < 2 or not any(costs.values()):
        return {}, ""
    unit, size = ("hours", 3600.0) if max(costs.values()) >= 7200 else ("minutes", 60.0)
    label = f"{'GPU ' if gpu else ''}{unit} of pretraining" + ("" if gpu else " (no GPU)")
    return {series: cost / size for series, cost in costs.items()}, label


def _summaries(
    results: Results, protocol: Protocol, metric: str
) -> Iterable[tuple[int, Checkpoint, Summary]]:
    """Returns (series, checkpoint, summary) of the checkpoints that have the metric."""
    for series, row in enumerate(results.checkpoints):
        cell = results.cell(row, protocol)
        summary = cell.summaries.get(metric) if cell else None
        if summary:
            yield series, row, summary


def _ordered(results: Results, rows: Sequence[Checkpoint]) -> list[Checkpoint]:
    return [row for row in results.checkpoints if row in rows]
