"""The report as text: report.md and the tables that the command prints.

Percentages have one decimal; report.csv has all digits (`csv_and_latex.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from pretrain.common.printable import printable
from transfer.report.cost import compute_rows
from transfer.report.flags import find_flags
from transfer.report.numbers_as_text import (
    COMPUTE,
    SPREAD,
    costs,
    format_cell,
    format_count,
    format_rank,
    format_seconds,
    words_on_rank,
)
from transfer.report.published import MARK
from transfer.report.rows_columns_cells import Checkpoint, Protocol, Results

Table = tuple[list[str], list[list[str]]]  # header, rows
# The backslash comes first, because it escapes the others. A link is broken before its "(".
_MARKDOWN = {
    "\\": "\\\\",
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    "|": "\\|",
    "`": "\\`",
    "](": "]\\(",
    "![": "\\![",
}
MOST_OF_CHANGES = 2000  # characters of all overrides
_FACTS = ["backbone", "pretrain", "views", "transfer"]


def headline_rows(results: Results, rows: Sequence[Checkpoint] | None = None) -> Table:
    """Returns the main table as (header, rows) of plain text; `rows` None: one per checkpoint."""
    columns, rows = results.headlines(), results.by_rank(rows)
    header = ["checkpoint", *_fact_heads(results)]
    header += [f"{protocol.label}: {metric}" for protocol, metric in columns]
    cells = ([format_cell(results, row, *column) for column in columns] for row in rows)
    return header, [[row.label, *_facts(results, row), *line] for row, line in zip(rows, cells)]


def method_rows(results: Results) -> Table:
    """Returns methods with three or more pretraining seeds; n counts seeds, not their trials."""
    header, rows = headline_rows(results, results.methods)
    units = [row.unit for row in results.by_rank(results.methods)]
    return ["method", "unit", *header[1:]], [[r[0], u, *r[1:]] for u, r in zip(units, rows)]


def to_terminal(results: Results) -> str:
    """Returns narrow tables for a terminal: rows with costs, a table per protocol, flags."""
    rows = [[row.label, *_facts(results, row)] for row in results.by_rank()]
    parts = [aligned(["checkpoint", *_fact_heads(results)], rows)]
    if results.methods:
        rows = [[row.label, row.unit, *_facts(results, row)] for row in results.methods]
        parts.append(aligned(["method", "unit", *_fact_heads(results)], rows))
    for protocol in results.protocols:
        parts.append(f"{protocol.task}: {protocol.label}\n{_headline_table(results, protocol)}")
    parts.append("\n".join(f"flag: {flag}" for flag in find_flags(results)))
    return "\n\n".join(filter(None, parts))


def _fact_heads(results: Results) -> list[str]:
    return [*(["rank"] if results.mean_ranks else []), *_FACTS]


def _facts(results: Results, row: Checkpoint) -> list[str]:
    """Returns a row's texts in the columns `_fact_heads`."""
    seconds, _, views = costs(row)
    transfer = format_seconds(results.transfer_seconds(row))
    rank = [format_rank(results, row)] if results.mean_ranks else []
    return [*rank, row.backbone, seconds, views, transfer]


def _headline_table(results: Results, protocol: Protocol) -> str:
    """Returns the main metrics of checkpoints and methods that have any of them."""
    metrics = results.headlines_of(protocol)
    rows = [
        [row.label, *(format_cell(results, row, protocol, metric) for metric in metrics)]
        for rows in (results.checkpoints, results.methods)
        for row in results.by_result(protocol, rows)
    ]
    return aligned(["", *metrics], rows, left=1)


def comparison_to_terminal(compared: Table, units: str) -> str:
    """Returns the rows of `compare_table` with a heading per protocol."""
    header, rows = compared
    parts = [units]
    for label, group in groupby(rows, key=lambda row: row[0]):
        parts.append(f"{label}\n{aligned(header[1:], [row[1:] for row in group], left=1)}")
    return "\n\n".join(parts)


def to_markdown(results: Results, compared: Table | None = None, units: str = "") -> str:
    """Returns the main table, methods, a comparison, flags, all metrics by protocol, and notes."""
    parts = ["# Transfer results", f"Percent; {SPREAD}. {COMPUTE}."]
    parts.append(markdown_table(*headline_rows(results)))
    parts += [escape_markdown(words_on_rank(results))]
    if results.methods:
        parts += ["## Methods", "n counts pretraining seeds, each the mean of its trials."]
        parts.append(markdown_table(*method_rows(results)))
    if compared:
        parts += ["## Comparison", escape_markdown(units), markdown_table(*compared)]
    flags = find_flags(results)
    if flags:
        parts += ["## Flags", "\n".join(f"- {escape_markdown(str(flag))}" for flag in flags)]
    for protocol in results.protocols:
        parts += _protocol_part(results, protocol)
    if results.notes:
        parts += ["## Notes", "\n".join(f"- {escape_markdown(note)}" for note in results.notes)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _protocol_part(results: Results, protocol: Protocol) -> list[str]:
    title = escape_markdown(f"{protocol.task}: {protocol.label}")
    parts = [f"## {title}", escape_markdown(describe_protocol(protocol))]
    if protocol.differs:
        parts.append("\n".join(f"- {escape_markdown(line)}" for line in protocol.differs))
    parts.append(markdown_table(*protocol_rows(results, protocol)))
    if protocol.published:
        parts.append(f"Numbers {MARK} by others for the same protocol, not measured here:")
        parts.append(markdown_table(*published_table(results, protocol)))
    metric = results.headline(protocol)
    header, rows = compute_rows(results, protocol, metric)
    if rows:
        parts.append(f"{escape_markdown(metric)} against the cost of pretraining:")
        parts.append(markdown_table(header, rows))
    return parts


def protocol_rows(results: Results, protocol: Protocol) -> Table:
    """Returns all metrics of one protocol as (header, rows); the cost of one trial comes last."""
    metrics = results.metrics[protocol.key]
    rows = []
    for checkpoint, cell in results.column(protocol, results.by_result(protocol)):
        row = [format_cell(results, checkpoint, protocol, metric) for metric in metrics]
        cost = [format_seconds(cell.seconds), format_count(cell.views)]
        rows.append([checkpoint.label, *row, *cost])
    return ["checkpoint", *metrics, "time per trial", "views per trial"], rows


def published_table(results: Results, protocol: Protocol) -> Table:
    """Returns published numbers for this protocol, in the columns of the measured metrics."""
    metrics = [
        metric
        for metric in results.metrics[protocol.key]
        if any(metric in row.metrics for row in protocol.published)
    ]
    rows = []
    for row in protocol.published:
        values = [f"{row.metrics[m]:.1f}" if m in row.metrics else "–" for m in metrics]
        rows.append([f"{row.label} ({MARK})", *values, row.trials or "–", row.source])
    return [MARK, *metrics, "trials", "source"], rows


def describe_protocol(protocol: Protocol) -> str:
    """Returns one line that distinguishes this protocol from others."""
    text = f"data set {protocol.dataset}, engine {protocol.engine}, config {protocol.name}"
    changes = f" with {', '.join(protocol.overrides)}" if protocol.overrides else ""
    changes = printable(changes, MOST_OF_CHANGES)
    rate = f", {protocol.rate}" if protocol.rate else ""
    return f"{text}{changes}{rate} (config sha256 {protocol.config_sha256[:12]})"


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 2) -> str:
    """Returns text columns for a terminal: the first `left` left-aligned, others right-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = [
        "  ".join(
            text.ljust(width) if i < left else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths))
        )
        for line in (header, ["-" * width for width in widths], *rows)
    ]
    return "\n".join(line.rstrip() for line in lines)


def escape_markdown(text: str) -> str:
    """Escapes a text so that Markdown shows it unchanged: no HTML, link, code or table cell.

    Underscores and stars inside words stay, because many names of keys and metrics have them.
    """
    for character, escaped in _MARKDOWN.items():
        text = text.replace(character, escaped)
    return re.sub(r"(?<!\w)([*_])|([*_])(?!\w)", r"\\\1\2", text)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table with a left-aligned first column and right-aligned others."""
    marks = ["---"] + ["---:"] * (len(header) - 1)
    lines = [
        [escape_markdown(text) for text in header],
        marks,
        *([escape_markdown(text) for text in row] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
