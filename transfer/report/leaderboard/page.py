"""The leaderboard as one self-contained HTML page, in the style of the report's page."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from transfer.report.figures.intervals import Interval, interval_chart
from transfer.report.figures.scatter import Point, scatter_chart
from transfer.report.leaderboard.board import Leaderboard
from transfer.report.leaderboard.correlations import Correlation
from transfer.report.leaderboard.texts import (
    WORDS_ON_CORRELATIONS,
    WORDS_ON_GROUPS,
    WORDS_ON_WIDE,
    WORDS_ON_WINS,
    correlation_rows,
    format_places,
    overall_rows,
    win_rows,
    words_on_ranks,
)
from transfer.report.leaderboard.wide import WideTable
from transfer.report.page.charts import Chart, cost_points
from transfer.report.page.environment import environment


def render_leaderboard(
    board: Leaderboard, found: Sequence[Correlation], wide: WideTable, title: str
) -> str:
    """Returns the HTML."""
    series = {row.key: number for number, row in enumerate(board.results.checkpoints)}
    return (
        environment()
        .get_template("leaderboard.html")
        .render(
            title=title,
            board=board,
            number=series,
            overall=overall_rows(board) if board.overall else None,
            wins=win_rows(board),
            correlations=correlation_rows(found) if found else None,
            charts=_charts(board, series) if board.overall else [],
            wide=wide,
            places=format_places,
            words={
                "ranks": words_on_ranks(board),
                "groups": WORDS_ON_GROUPS,
                "wins": WORDS_ON_WINS,
                "correlations": WORDS_ON_CORRELATIONS,
                "wide": WORDS_ON_WIDE,
            },
        )
    )


def _charts(board: Leaderboard, series: dict) -> list[Chart]:
    """Returns the mean ranks with their intervals, and z-scores against the cost of pretraining."""
    rows = [
        Interval(
            one.row.label, series[one.row.key], one.rank, *one.rank_interval, f"{one.rank:.2f}"
        )
        for one in board.overall
    ]
    title = "Mean rank with its 95 % interval on tasks like these (1 is the best)"
    charts = [Chart(title, Markup(interval_chart(rows, title)))]
    z_of = {one.row.key: one.z for one in board.overall}
    members = [(series[one.row.key], one.row) for one in board.overall]
    for gpu in (True, False):
        costs, label = cost_points(members, gpu)
        if costs:
            points = [
                Point(row.label, number, costs[number], z_of[row.key])
                for number, row in members
                if number in costs
            ]
            title = f"Mean z-score against {label}"
            svg = scatter_chart(points, title, label, "mean z-score", from_zero=True)
            charts.append(Chart(title, Markup(svg)))
    return charts
