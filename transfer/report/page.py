"""The report as one self-contained page: `Results` and artifacts in, HTML text out.

Nothing is fetched: style and script are inlined, pictures are data URIs, figures are SVG. The
script only sorts and filters; without it every number is still there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from transfer.report.compute import compute_rows
from transfer.report.figures import COLOURS, Bar, Line, bar_chart, line_chart
from transfer.report.flags import find_flags
from transfer.report.formats import (
    COMPUTE,
    SPREAD,
    costs,
    format_count,
    format_interval,
    format_seconds,
    format_summary,
)
from transfer.report.pictures import TITLES, collect_curves, collect_pictures
from transfer.report.results import Checkpoint, Protocol, Results
from transfer.report.text import describe_protocol, method_rows, published_table

TEMPLATES = Path(__file__).with_name("templates")
MAX_CHARTS = 6
# Scalars that are no result: where the run was, not how well it went
_NOT_DRAWN = ("step", "epoch", "lr", "eta", "time", "data_time", "seconds")
_NOT_DRAWN_ENDS = ("_seconds", "_per_second", "_per_s", "_seen")
_DRAWN_FIRST = ("total_loss", "knn", "top1", "bbox/AP", "segm/AP", "feature_std", "rank")


Compared = tuple[list[str], list[list[str]]]


@dataclass(frozen=True)
class Chart:
    """One figure with its caption."""

    title: str
    svg: Markup


def render_page(
    results: Results,
    title: str,
    compared: Compared | None = None,
    pictures: bool = True,
    units: str = "",
) -> str:
    """Returns the HTML.

    `compared` is (header, rows) of two rows' differences, `units` says what they mean. `pictures`
    off leaves out all images that show data (kernels stay).
    """
    notes = results.notes  # grows by what cannot be drawn
    colours = {row.key: number for number, row in enumerate(results.checkpoints)}
    kinds = ("views", "kernels", "detections") if pictures else ("kernels",)
    panels = collect_pictures(results, kinds, notes)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        seconds=format_seconds,
        count=format_count,
        summary=format_summary,
        costs=costs,
        interval=format_interval,
    )
    return environment.get_template("report.html").render(
        title=title,
        results=results,
        headlines=results.headlines(),
        groups=_grouped(results.headlines()),
        spread=SPREAD,
        compute=COMPUTE,
        describe=describe_protocol,
        colour={key: number % COLOURS for key, number in colours.items()},
        overview=_overview(results, colours),
        training=_curve_charts(results, colours, "curves", notes),
        pretraining=_curve_charts(results, colours, "pretrain_curves", notes),
        panels=[(kind, TITLES[kind], [p for p in panels if p.kind == kind]) for kind in kinds],
        compared=compared,
        units=units,
        flags=find_flags(results),
        methods=method_rows(results),
        compute_tables=[
            (p, compute_rows(results, p, results.headline(p))) for p in results.protocols
        ],
        published=[(p, published_table(results, p)) for p in results.protocols if p.published],
        gpu=any(row.gpu_seconds for row in results.checkpoints),
        runs=_runs(results),
        notes=notes,
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "report.js").read_text(encoding="utf-8")),
    )


def _grouped(columns: Sequence[tuple[Protocol, str]]) -> list[tuple[Protocol, int]]:
    """Each protocol once with its number of columns, for the upper header row."""
    groups: list[tuple[Protocol, int]] = []
    for protocol, _ in columns:
        if groups and groups[-1][0] is protocol:
            groups[-1] = (protocol, groups[-1][1] + 1)
        else:
            groups.append((protocol, 1))
    return groups


def _overview(results: Results, colours: dict[Any, int]) -> list[Chart]:
    """A bar chart per headline metric."""
    charts = []
    for protocol, metric in results.headlines():
        bars = []
        for checkpoint in results.checkpoints:
            cell = results.cell(checkpoint, protocol)
            summary = cell.summaries.get(metric) if cell else None
            if summary:
                text = format_summary(summary, count=False)
                number = colours[checkpoint.key]
                bars.append(Bar(checkpoint.label, number, summary.mean, summary.std, text))
        title = f"{protocol.label}: {metric} (percent)"
        charts.append(Chart(title, Markup(bar_chart(bars, title))))
    return charts


def _curve_charts(
    results: Results, colours: dict[Any, int], kind: str, notes: list[str]
) -> list[tuple[str, list[Chart], list[Checkpoint]]]:
    """(group, charts, the checkpoints drawn) for each group that has curves."""
    groups = []
    for group, members in collect_curves(results, kind, notes).items():
        names = sorted(
            {name for _, rows in members for row in rows for name in row if _is_drawn(name)},
            key=_importance,
        )
        charts = []
        for name in names[:MAX_CHARTS]:
            lines = [
                Line(row.label, colours[row.key], _points(rows, name)) for row, rows in members
            ]
            if any(line.points for line in lines):
                svg = line_chart(lines, f"{group}: {name} by step", "step")
                charts.append(Chart(name, Markup(svg)))
        if len(names) > MAX_CHARTS:
            notes.append(f"{group}: curves not drawn: {', '.join(names[MAX_CHARTS:])}")
        if charts:
            groups.append((group, charts, [checkpoint for checkpoint, _ in members]))
    return groups


def _points(rows: Sequence[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    return [
        (float(row["step"]), float(row[name]))
        for row in rows
        if isinstance(row.get(name), (int, float))
    ]


def _is_drawn(name: str) -> bool:
    return name not in _NOT_DRAWN and not name.endswith(_NOT_DRAWN_ENDS)


def _importance(name: str) -> tuple[int, str]:
    if name == "loss":
        return -1, name
    ranks = [rank for rank, part in enumerate(_DRAWN_FIRST) if part in name]
    return (min(ranks, default=len(_DRAWN_FIRST)), name)


def _runs(results: Results) -> list[dict[str, Any]]:
    """One line per record, for those who check."""
    runs = []
    for checkpoint in results.checkpoints:
        for protocol in results.protocols:
            cell = results.cell(checkpoint, protocol)
            for entry in cell.entries if cell else ():
                record = entry.record
                runs.append(
                    {
                        "checkpoint": checkpoint.label,
                        "sha": record["checkpoint"]["sha256"][:10],
                        "protocol": protocol.label,
                        "record": record,
                        "path": str(entry.path),
                        "device": record["hardware"].get("device", "unknown"),
                        "torch": record["environment"].get("torch", "unknown"),
                        "commit": record["environment"].get("git_commit", "unknown"),
                    }
                )
    return runs
