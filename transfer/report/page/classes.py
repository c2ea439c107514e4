"""Numbers per class: all checkpoints side by side, and the differences of each pair.

The records have them as {metric: {class: percent}}. Values are means over trials.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

from markupsafe import Markup

from transfer.report.figures.dots import Dots, dot_chart
from transfer.report.page.artifacts import Artifacts
from transfer.report.page.charts import Chart, Group
from transfer.report.rows_columns_cells import Cell, Protocol, Results

MOST_CLASSES = 24  # in one figure; the largest differences first
MOST_DIFFERENCES = 12

Values = dict[int, dict[str, float]]  # percent by series and class


def by_class(results: Results, artifacts: Artifacts) -> Group:
    """Returns charts with a row per class and a mark per checkpoint: classes that differ most."""
    charts: list[Chart] = []
    drawn: set[int] = set()
    for protocol in results.protocols:
        metric, values = class_values(results, protocol)
        names = _common(values)
        if not names:
            continue
        readable = _readable(results, protocol, artifacts)
        gaps = {name: _gap([found[name] for found in values.values()]) for name in names}
        shown = sorted(names, key=lambda name: (-gaps[name], name))[:MOST_CLASSES]
        rows = []
        for name in sorted(shown, key=lambda name: -_mean([v[name] for v in values.values()])):
            labels = [
                (results.checkpoints[series].label, series, found[name])
                for series, found in values.items()
            ]
            rows.append(Dots(readable.get(name, name), labels))
        cut = f", the {len(shown)} of {len(names)} classes that differ most"
        title = f"{protocol.short}: {metric} by class{cut if len(shown) < len(names) else ''}"
        charts.append(Chart(title, Markup(dot_chart(rows, title))))
        drawn.update(values)
    return Group(
        "classes",
        "By class",
        "Means over trials; the best class is at the top.",
        charts,
        [row for series, row in enumerate(results.checkpoints) if series in drawn],
        "No record has numbers per class.",
    )


def class_differences(results: Results, artifacts: Artifacts) -> dict[str, list[dict[str, Any]]]:
    """Returns the differences by class of each pair of checkpoints, for JSON.

    {"0-1": [{title, rows: [[class, first - second], ...]}]} with the lower series first; a table
    per protocol, the largest difference first. The script draws them with the sign of its table.
    """
    tables: dict[str, list[dict[str, Any]]] = {}
    for protocol in results.protocols:
        metric, values = class_values(results, protocol)
        readable = _readable(results, protocol, artifacts)
        for one, two in combinations(sorted(values), 2):
            names = _common({one: values[one], two: values[two]})
            if not names:
                continue
            rows: list[tuple[str, float]] = [
                (readable.get(name, name), round(values[one][name] - values[two][name], 4))
                for name in names
            ]
            largest = sorted(rows, key=lambda row: -abs(row[1]))[:MOST_DIFFERENCES]
            shown = sorted(largest, key=lambda row: (-row[1], row[0]))
            cut = f", the {len(shown)} largest of {len(rows)}" if len(shown) < len(rows) else ""
            title = f"{protocol.short}: difference in {metric} by class{cut}"
            title += " (means over trials, not tested)"
            tables.setdefault(f"{one}-{two}", []).append({"title": title, "rows": shown})
    return tables


def class_values(results: Results, protocol: Protocol) -> tuple[str, Values]:
    """Returns the first metric with classes (headlines first), and its values by checkpoint."""
    cells = {
        series: cell
        for series, row in enumerate(results.checkpoints)
        if (cell := results.cell(row, protocol))
    }
    known = {m for cell in cells.values() for f in cell.files for m in f.record["per_class"] or ()}
    metrics = (*results.headlines_of(protocol), *results.metrics[protocol.key])
    ordered = [name for name in metrics if name in known]
    metric = next(iter(ordered or sorted(known)), "")
    means = {series: _class_means(cell, metric) for series, cell in cells.items()}
    return metric, {series: found for series, found in means.items() if found}


def _readable(results: Results, protocol: Protocol, artifacts: Artifacts) -> dict[str, str]:
    """Returns {class: name for readers} from the column's records; {} if none has the file."""
    for _, cell in results.column(protocol):
        found = artifacts.read(cell, "class_names", _names)
        if found:
            return found
    return {}


def _names(content: Any) -> dict[str, str]:
    if not all(isinstance(name, str) for name in content.values()):
        raise ValueError("a name is not a text")
    return dict(content)


def _class_means(cell: Cell, metric: str) -> dict[str, float]:
    """Returns means over trials for the classes that have a value in every trial."""
    trials = [(entry.record["per_class"] or {}).get(metric) or {} for entry in cell.files]
    return {
        name: _mean([trial[name] for trial in trials])
        for name in trials[0]
        if all(trial.get(name) is not None for trial in trials)
    }


def _common(values: Values) -> list[str]:
    """Returns the classes that all checkpoints have, in the order of the first."""
    found = list(values.values())
    return [name for name in found[0] if all(name in other for other in found)] if found else []


def _gap(values: list[float]) -> float:
    return max(values) - min(values)


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
