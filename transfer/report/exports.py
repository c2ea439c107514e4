"""The report's numbers for other programs: `Results` in; CSV with all digits and LaTeX out."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from transfer.report.compute import compute_rows
from transfer.report.flags import find_flags
from transfer.report.formats import SPREAD
from transfer.report.published import MARK, Published
from transfer.report.results import Checkpoint, Protocol, Results
from transfer.report.text import Table, headline_rows, method_rows, published_table

CSV_FIELDS = (
    "checkpoint,sha256,method,backbone,pretrain_epochs,pretrain_seconds,pretrain_gpu_seconds,"
    "pretrain_views,task,dataset,protocol,engine,config_sha256,overrides,metric,mean,std,n,"
    "t95_half_width,values,transfer_seconds,transfer_gpu_seconds,transfer_views,shortened,"
    "low95,high95,interval_covers,best,unit,learning_rate,source"
).split(",")
_LATEX = {
    "\\": "\\textbackslash{}",
    "{": "\\{",
    "}": "\\}",
    "_": "\\_",
    "%": "\\%",
    "&": "\\&",
    "#": "\\#",
    "$": "\\$",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "±": "$\\pm$",
    "–": "--",
    "†": "$^\\dagger$",
    "★": "$^\\star$",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
}


def to_csv(results: Results) -> str:
    """Long form: one line per row, protocol and metric; published numbers last, by their unit."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for checkpoint in (*results.checkpoints, *results.methods):
        for protocol in results.protocols:
            cell = results.cell(checkpoint, protocol)
            for metric in results.metrics[protocol.key] if cell else ():
                if metric in cell.summaries:
                    writer.writerow(_csv_row(results, checkpoint, protocol, metric))
    for protocol in results.protocols:
        for row in protocol.published:
            writer.writerows(_published_lines(results, protocol, row))
    return stream.getvalue()


def to_latex(results: Results, compared: Table | None = None, units: str = "") -> str:
    """Tables with booktabs: the main one, methods, comparison, costs, published rows."""
    lines = ["% needs \\usepackage{booktabs}; " + SPREAD.replace("±", "+-").replace("★", "star")]
    lines += [f"% flag: {flag}" for flag in find_flags(results)]
    lines.append(_tabular(headline_rows(results), 2))
    if results.methods:
        lines += ["% methods: n counts pretraining seeds", _tabular(method_rows(results), 3)]
    if compared:
        lines += [f"% {units}", _tabular(compared, 2)]
    for protocol in results.protocols:
        if protocol.differs:
            lines += [f"% {protocol.label} {line}" for line in protocol.differs]
        costs = compute_rows(results, protocol, results.headline(protocol))
        if costs[1]:
            lines += [f"% cost of pretraining: {protocol.label}", _tabular(costs, 1)]
        if protocol.published:
            table = published_table(results, protocol)
            lines += [f"% {MARK} by others: {protocol.label}", _tabular(table, 1)]
    return "\n".join(" ".join(x.split("\n")) if x[0] == "%" else x for x in lines) + "\n"


def escape_latex(text: str) -> str:
    """Text as LaTeX prints it in a table."""
    return "".join(_LATEX.get(character, character) for character in text)


def _tabular(table: Table, left: int) -> str:
    header, rows = table
    lines: Sequence[str] = [
        "\\begin{tabular}{" + "l" * left + "r" * (len(header) - left) + "}",
        "\\toprule",
        " & ".join(map(escape_latex, header)) + " \\\\",
        "\\midrule",
        # A row that begins with [ would be the length of the line break before it
        *("{}" + " & ".join(map(escape_latex, row)) + " \\\\" for row in rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines)


def _published_lines(
    results: Results, protocol: Protocol, row: Published
) -> list[dict[str, object]]:
    facts = {
        "checkpoint": row.label,
        "task": protocol.task,
        "dataset": protocol.dataset,
        "protocol": protocol.name,
        "n": row.trials,
        "unit": MARK,
        "source": row.source,
    }
    known = [metric for metric in results.metrics[protocol.key] if metric in row.metrics]
    return [{**facts, "metric": m, "mean": repr(row.metrics[m])} for m in known]


def _csv_row(
    results: Results, checkpoint: Checkpoint, protocol: Protocol, metric: str
) -> dict[str, object]:
    cell = results.cell(checkpoint, protocol)
    summary = cell.summaries[metric]
    values = (
        checkpoint.label,
        "" if checkpoint.untrained else checkpoint.sha256,
        checkpoint.method,
        checkpoint.backbone,
        checkpoint.epochs,
        checkpoint.seconds,
        checkpoint.gpu_seconds,
        checkpoint.views,
        protocol.task,
        protocol.dataset,
        protocol.name,
        protocol.engine,
        protocol.config_sha256,
        "; ".join(protocol.overrides),
        metric,
        repr(summary.mean),
        "" if summary.std is None else repr(summary.std),
        summary.n,
        "" if summary.half_width is None else repr(summary.half_width),
        " ".join(map(repr, cell.values[metric])),
        cell.seconds,
        cell.gpu_seconds,
        cell.views,
        cell.shortened,
        "" if summary.low is None else repr(summary.low),
        "" if summary.high is None else repr(summary.high),
        summary.covers or "",
        results.is_best(checkpoint, protocol, metric),
        checkpoint.unit,
        protocol.rate,
        "",
    )
    return dict(zip(CSV_FIELDS, values))
