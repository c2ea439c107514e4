"""Figures of artifacts: learning curves, precision-recall, feature spectra.

Precision and recall are means over the trials; other figures show the first trial with the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from transfer.report.figures.lines import Line, line_chart
from transfer.report.page.artifacts import Artifacts, drawable
from transfer.report.page.charts import Chart, Group
from transfer.report.rows_columns_cells import Checkpoint, Protocol, Results

MOST_METRICS = 40  # most precision-recall curves of one file
_SAME = 1e-6  # largest difference of two curves that are drawn as one
MAX_CHARTS = 6  # most charts of one protocol's learning curves
# Scalars that are not results: they say how far the run was
_NOT_DRAWN = ("step", "epoch", "lr", "eta", "time", "data_time", "seconds")
_NOT_DRAWN_ENDS = ("_seconds", "_per_second", "_per_s", "_seen")
_DRAWN_FIRST = (
    *("total_loss", "knn", "top1", "bbox/AP", "segm/AP", "keypoints/AP", "feature_std", "rank"),
)

Members = list[tuple[int, Checkpoint, Any]]  # series, checkpoint, the artifact's content


def learning_curves(results: Results, artifacts: Artifacts) -> list[Group]:
    """Returns curves of pretraining (one group), then of training (a group per protocol)."""
    groups = [
        _curve_group(
            "Learning curves: pretraining", _pretraining(results, artifacts), artifacts.notes
        )
    ]
    for protocol in results.protocols:
        members = _members(results, protocol, artifacts, "curves", _rows)
        groups.append(_curve_group(f"Learning curves: {protocol.short}", members, artifacts.notes))
    found = [group for group in groups if group.charts]
    missing = "No record has learning curves: kNN and SVM have none."
    return found or [Group("curves", "Learning curves", "", [], missing=missing)]


def precision_recall(results: Results, artifacts: Artifacts) -> Group:
    """Returns precision against recall, with a chart per protocol and metric."""
    charts, drawn = [], []
    for protocol in results.protocols:
        members = []
        for series, row in enumerate(results.checkpoints):
            cell = results.cell(row, protocol)
            trials = artifacts.read_all(cell, "pr_curves", _pr_content)
            members += [(series, row, trials)] if trials else []
        names = (name for _, _, trials in members for trial in trials for name in trial["mean"])
        for metric in dict.fromkeys(names):
            lines = [
                over_trials(row.label, series, metric, trials) for series, row, trials in members
            ]
            title = f"{protocol.short}: {metric}"
            if has_curve(lines):
                words = f"{title}, precision against recall"
                svg = line_chart(lines, words, "recall", "precision", most=1.0)
                charts.append(Chart(title, Markup(svg)))
        drawn += [row for _, row, _ in members]
    return Group(
        "precision-recall",
        "Precision and recall",
        "Interpolated precision at each recall, mean over classes and trials; a band spans the "
        "trials. The mean height of a curve is the AP in its name (VOC's 2007 metric uses eleven "
        "points of it).",
        charts,
        [row for row in results.checkpoints if row in drawn],
        "Not stored by these runs; detection runs store pr_curves.json.",
    )


def spectra(results: Results, artifacts: Artifacts) -> Group:
    """Returns singular values of frozen features, with a chart per data set and pooling."""
    charts, drawn, seen = [], [], set()
    for protocol in results.protocols:
        members = _members(results, protocol, artifacts, "spectrum", _spectrum_content)
        lines = [Line(row.label, series, points) for series, row, points in members]
        shown = tuple((line.series, tuple(line.points)) for line in lines)
        if not has_curve(lines) or shown in seen:  # kNN and a linear probe on the same features
            continue
        seen.add(shown)
        title = f"{protocol.short}: spectrum of the features of {protocol.dataset}"
        labels = ("dimension", "share of the largest")
        svg = line_chart(lines, title, *labels, log_x=True, log_y=True)
        charts.append(Chart(title, Markup(svg)))
        drawn += [row for _, row, _ in members]
    return Group(
        "spectrum",
        "Feature spectrum",
        "Singular values of the centred test features, as shares of the largest. A curve that "
        "falls early means that few dimensions are used.",
        charts,
        [row for row in results.checkpoints if row in drawn],
        "Not stored by these runs; classification runs on whole images store spectrum.json.",
    )


def over_trials(label: str, series: int, metric: str, trials: Sequence[dict[str, Any]]) -> Line:
    """Returns mean and range of the trials that have the metric at the first trial's recalls."""
    found = [trial for trial in trials if metric in trial["mean"]]
    found = [trial for trial in found if trial["recall"] == found[0]["recall"]]
    if not found:
        return Line(label, series, [])
    heights = np.array([trial["mean"][metric] for trial in found], dtype=np.float64)
    recall = found[0]["recall"]
    ends = zip(recall, heights.min(axis=0).tolist(), heights.max(axis=0).tolist())
    points = list(zip(recall, heights.mean(axis=0).tolist()))
    band = list(ends) if len(found) > 1 else ()
    return Line(f"{label} (n={len(found)})", series, points, band)


def _pretraining(results: Results, artifacts: Artifacts) -> Members:
    """Returns the pretraining curves of each checkpoint, once."""
    members: Members = []
    for protocol in results.protocols:
        known = {series for series, _, _ in members}
        found = _members(results, protocol, artifacts, "pretrain_curves", _rows)
        members += [member for member in found if member[0] not in known]
    return sorted(members, key=lambda member: member[0])


def _members(
    results: Results,
    protocol: Protocol,
    artifacts: Artifacts,
    kind: str,
    check: Callable[[Any], Any],
) -> Members:
    members = []
    for series, row in enumerate(results.checkpoints):
        content = artifacts.read(results.cell(row, protocol), kind, check)
        if content:
            members.append((series, row, content))
    return members


def _curve_group(title: str, members: Members, notes: list[str]) -> Group:
    names = {name for _, _, rows in members for row in rows for name in row if _is_drawn(name)}
    drawn: list[tuple[str, list[Line]]] = []
    single = []
    for name in sorted(names, key=_importance):
        lines = [Line(row.label, series, _points(rows, name)) for series, row, rows in members]
        if not has_curve(lines):
            single.append(name)
            continue
        same = next((n for n, (_, others) in enumerate(drawn) if _are_equal(lines, others)), None)
        if same is None:
            drawn.append((name, lines))
        else:  # such as "loss" and "nt_xent", if a method has one loss
            drawn[same] = (f"{drawn[same][0]} = {name}", drawn[same][1])
    charts = []
    for name, lines in drawn[:MAX_CHARTS]:
        svg = line_chart(lines, f"{title}: {name} by step", "step", name)
        charts.append(Chart(name, Markup(svg)))
    if len(drawn) > MAX_CHARTS:
        notes.append(f"{title}: curves not drawn: {', '.join(n for n, _ in drawn[MAX_CHARTS:])}")
    if single:
        notes.append(f"{title}: not drawn, because they have one value: {', '.join(single)}")
    anchor = "curves-" + "".join(c if c.isalnum() else "-" for c in title.lower())
    rows = [row for _, row, _ in members]
    return Group(anchor, title, "First trial.", charts, rows, contents="Learning curves")


def has_curve(lines: Sequence[Line]) -> bool:
    """Returns whether any of the lines has two points or more, and is not only a mark."""
    return any(len(line.points) > 1 for line in lines)


def _are_equal(lines: Sequence[Line], others: Sequence[Line]) -> bool:
    """Returns whether two scalars have the same curves, up to the rounding of float32."""
    return all(
        len(one.points) == len(two.points)
        and all(
            a[0] == b[0] and math.isclose(a[1], b[1], rel_tol=_SAME, abs_tol=_SAME)
            for a, b in zip(one.points, two.points)
        )
        for one, two in zip(lines, others, strict=True)
    )


def _rows(content: Any) -> list[dict[str, Any]]:
    """Returns the rows that have a step, each with the scalars that can be drawn."""
    found = []
    for row in content:
        kept = {name: value for name, value in row.items() if _is_drawable(value)}
        if "step" in kept:
            found.append(kept)
    return found


def _is_drawable(value: Any) -> bool:
    try:
        drawable(value)
    except ValueError:
        return False
    return True


def _pr_content(content: Any) -> dict[str, Any]:
    recall, mean = content["recall"], content["mean"]
    if len(mean) > MOST_METRICS:
        raise ValueError(f"{len(mean)} curves; a page shows at most {MOST_METRICS}")
    for name, values in mean.items():
        if len(values) != len(recall):
            raise ValueError(f"{name} has {len(values)} values for {len(recall)} recalls")
    heights = {name: list(map(drawable, values)) for name, values in mean.items()}
    return {"recall": list(map(drawable, recall)), "mean": heights}


def _spectrum_content(content: Any) -> list[tuple[float, float]]:
    values = list(map(drawable, content["singular_values"]))
    places = list(map(drawable, content.get("index") or range(1, len(values) + 1)))
    if values and values[0] <= 0.0:  # a collapse
        raise ValueError("the features do not vary")
    return [(place, drawable(value / values[0])) for place, value in zip(places, values)]


def _points(rows: Sequence[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(drawable(row["step"]), drawable(row[name])) for row in rows if name in row]


def _is_drawn(name: str) -> bool:
    return name not in _NOT_DRAWN and not name.endswith(_NOT_DRAWN_ENDS)


def _importance(name: str) -> tuple[int, str]:
    if name == "loss":
        return -1, name
    ranks = [rank for rank, part in enumerate(_DRAWN_FIRST) if part in name]
    return (min(ranks, default=len(_DRAWN_FIRST)), name)
