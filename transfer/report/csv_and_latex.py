"""The report's numbers for other programs: report.csv with all digits, and report.tex."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from transfer.report.cost import compute_rows
from transfer.report.flags import find_flags
from transfer.report.markdown_and_terminal import Table, describe_protocol
from transfer.report.numbers_as_text import SPREAD, format_cell
from transfer.report.published import MARK, Published
from transfer.report.rows_columns_cells import Cell, Checkpoint, Protocol, Results
from transfer.results.metrics import is_percent

CSV_FIELDS = (
    "checkpoint,sha256,method,backbone,pretrain_epochs,pretrain_seconds,pretrain_gpu_seconds,"
    "pretrain_views,task,dataset,protocol,engine,config_sha256,overrides,metric,mean,std,n,"
    "t95_half_width,values,transfer_seconds,transfer_gpu_seconds,transfer_views,shortened,"
    "low95,high95,interval_covers,best,unit,learning_rate,source,metric_unit,"
    "data,mean_rank"
).split(",")
PERCENT = "percent"
MOST_COLUMNS = 6  # columns of numbers in a LaTeX table; more do not fit on a page
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
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
    "\n": " ",
}


def to_csv(results: Results) -> str:
    """Returns CSV in long form: a line per row, protocol and metric; published numbers are last.

    `data` distinguishes results on different data of one name; it is empty if the data is unknown.
    `mean_rank` is over the protocols that all ranked checkpoints share.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()

    def write(line: dict[str, object]) -> None:
        writer.writerow({key: no_formula(value) for key, value in line.items()})

    for checkpoint in (*results.checkpoints, *results.methods):
        for protocol in results.protocols:
            cell = results.cell(checkpoint, protocol)
            if cell is None:
                continue
            for metric in results.metrics[protocol.key]:
                if metric in cell.summaries:
                    write(_csv_row(results, checkpoint, protocol, cell, metric))
    for protocol in results.protocols:
        for row in protocol.published:
            for line in _published_lines(results, protocol, row):
                write(line)
    return stream.getvalue()


def no_formula(value: object) -> object:
    """Returns a cell that no spreadsheet executes: a text like a formula gets a ' before it."""
    if not isinstance(value, str) or not value.startswith(FORMULA_STARTS):
        return value
    return value if all(map(_is_number, value.split())) else f"'{value}"


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def to_latex(results: Results, compared: Table | None = None, units: str = "") -> str:
    """Returns booktabs tables: one for each protocol, then the comparison and the costs."""
    lines = ["% needs \\usepackage{booktabs}; " + SPREAD.replace("±", "+-").replace("★", "star")]
    for protocol in results.protocols:
        lines += _protocol_lines(results, protocol)
    if compared:
        lines += [f"% {units}", tabular(compared[0], [compared[1]], 2)]
    lines += [f"% flag: {flag}" for flag in find_flags(results)]
    for protocol in results.protocols:
        header, costs = compute_rows(results, protocol, results.headline(protocol))
        if costs:
            lines += [f"% cost of pretraining: {protocol.short}", tabular(header, [costs], 1)]
    return below_each_other(" ".join(x.split("\n")) if x[0] == "%" else x for x in lines)


def _protocol_lines(results: Results, protocol: Protocol) -> list[str]:
    """Returns one table: checkpoints, then methods, then published numbers, with rules between."""
    metrics = results.headlines_of(protocol)
    measured = [
        [
            _measured_line(results, row, protocol, metrics)
            for row in results.by_result(protocol, rows)
        ]
        for rows in (results.checkpoints, results.methods)
    ]
    theirs = [
        [f"{row.label} ({MARK})", row.trials or "–"]
        + [f"{row.metrics[m]:.1f}" if m in row.metrics else "–" for m in metrics]
        for row in protocol.published
        if row.metrics.keys() & set(metrics)
    ]
    lines = [f"% {protocol.short}: {describe_protocol(protocol)}"]
    lines += [f"% {line}" for line in protocol.differs]
    if measured[1]:
        lines.append("% methods: n counts pretraining seeds, each the mean of its trials")
    lines += [f"% {MARK}: {row.label}: {row.source}" for row in protocol.published]
    return [*lines, tabular([protocol.short, "n", *metrics], [*measured, theirs], 1)]


def _measured_line(
    results: Results, row: Checkpoint, protocol: Protocol, metrics: Sequence[str]
) -> list[str]:
    """Returns name, n and values of a row, [] if it was not run; different n are in the cells."""
    cell = results.cell(row, protocol)
    if cell is None:
        return []
    label = f"{row.label}, {row.seeds} seeds" if row.seeds else row.label
    counts = {cell.summaries[m].n for m in metrics if m in cell.summaries}
    one = len(counts) <= 1
    values = [format_cell(results, row, protocol, m, count=not one) for m in metrics]
    return [label, str(*counts) if one else "", *values]


def escape_latex(text: str) -> str:
    """Escapes a text for a LaTeX table."""
    return "".join(_LATEX.get(character, character) for character in text)


def tabular(header: Sequence[str], groups: Sequence[Sequence[Sequence[str]]], left: int) -> str:
    """Returns a table of `groups` of rows, each after a rule; `left` columns are left-aligned."""
    lines = [
        "\\begin{tabular}{" + "l" * left + "r" * (len(header) - left) + "}",
        "\\toprule",
        " & ".join(map(escape_latex, header)) + " \\\\",
    ]
    for rows in filter(None, groups):
        lines.append("\\midrule")
        # LaTeX would read a [ at the start of a row as the length of the line break before it
        lines += ["{}" + " & ".join(map(escape_latex, row)) + " \\\\" for row in rows]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])


def below_each_other(parts: Iterable[str]) -> str:
    """Returns comments (one line each) and tables as one file, with a space after each table."""
    return "\n".join(x if x.startswith("%") else f"{x}\n\n\\medskip\n" for x in parts) + "\n"


def narrow_tables(table: Table, left: int) -> list[str]:
    """Returns the table in parts of `MOST_COLUMNS` columns, each with the first `left` columns."""
    header, rows = table
    return [
        tabular(
            [*header[:left], *header[start : start + MOST_COLUMNS]],
            [[[*row[:left], *row[start : start + MOST_COLUMNS]] for row in rows]],
            left,
        )
        for start in range(left, len(header), MOST_COLUMNS)
    ]


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
        "metric_unit": PERCENT,
    }
    known = [metric for metric in results.metrics[protocol.key] if metric in row.metrics]
    return [{**facts, "metric": m, "mean": repr(row.metrics[m])} for m in known]


def _csv_row(
    results: Results, checkpoint: Checkpoint, protocol: Protocol, cell: Cell, metric: str
) -> dict[str, object]:
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
        PERCENT if is_percent(metric) else "",
        protocol.data,
        results.mean_ranks.get(checkpoint.key, ""),
    )
    return dict(zip(CSV_FIELDS, values))
