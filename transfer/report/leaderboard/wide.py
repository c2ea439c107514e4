"""The wide table of papers: checkpoints by tasks, with the columns AP, AP50 and AP75 of a detector.

Cells are mean ± sample standard deviation. The highest mean of a column is bold; ★ marks each row
that no other row of the column beats beyond chance, by the same rule as in the report.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import wrap

from transfer.report.csv_and_latex import MOST_COLUMNS, escape_latex
from transfer.report.markdown_and_terminal import escape_markdown
from transfer.report.numbers_as_text import BEST, CUT, format_summary
from transfer.report.page.blocks import grouped, split_columns
from transfer.report.rows_columns_cells import Checkpoint, Protocol, Results
from transfer.results.all_pairs import best_of
from transfer.results.group import DETERMINISTIC_TASKS, LEAST_TRIALS
from transfer.results.metrics import ORDER
from transfer.results.statistics import ROUNDING

MOST_OF_LINE = 14  # characters above a column of a LaTeX table


@dataclass(frozen=True)
class WideCell:
    """Is a cell as text: "53.5 ± 0.2", and its marks."""

    text: str
    bold: bool = False
    marks: str = ""


@dataclass(frozen=True)
class WideTable:
    """Holds `columns` (protocol, metric) and `rows`, a checkpoint with a cell for each column."""

    columns: list[tuple[Protocol, str]]
    rows: list[tuple[Checkpoint, list[WideCell]]]

    @property
    def groups(self) -> list[tuple[Protocol, int]]:
        """Returns each protocol with its number of columns."""
        return grouped(self.columns)


def wide_table(results: Results, rows: list[Checkpoint]) -> WideTable:
    """Returns the table of these rows; checkpoints come in the given order."""
    columns = [(p, metric) for p in results.protocols for metric in paper_metrics(results, p)]
    cells = [_column(results, rows, *column) for column in columns]
    return WideTable(
        columns, [(row, [column[n] for column in cells]) for n, row in enumerate(rows)]
    )


def paper_metrics(results: Results, protocol: Protocol) -> list[str]:
    """Returns the AP, AP50 and AP75 of boxes and masks, and the headline metrics of other tasks."""
    found = [metric for metric in ORDER if metric in results.metrics[protocol.key]]
    return found or results.headlines_of(protocol)


def _column(
    results: Results, rows: list[Checkpoint], protocol: Protocol, metric: str
) -> list[WideCell]:
    cells = [results.cell(row, protocol) for row in rows]
    known = [n for n, cell in enumerate(cells) if cell and metric in cell.samples]
    certain = protocol.task in DETERMINISTIC_TASKS
    samples = [cell.samples[metric] for cell in cells if cell and metric in cell.samples]
    best = dict(zip(known, best_of(samples, 1 if certain else LEAST_TRIALS, certain)))
    means = [cell.summaries[metric].mean for cell in cells if cell and metric in cell.samples]
    highest = max(means, default=0.0)
    found = []
    for number, cell in enumerate(cells):
        if cell is None or metric not in cell.summaries:
            found.append(WideCell("–"))
            continue
        summary = cell.summaries[metric]
        marks = (BEST if best[number] else "") + (CUT if cell.shortened else "")
        bold = len(known) > 1 and summary.mean > highest - ROUNDING
        found.append(WideCell(format_summary(summary, count=False), bold, marks))
    return found


def to_markdown(table: WideTable) -> str:
    """Returns a Markdown table, whose heads have protocol and metric."""
    heads = ["checkpoint", *(f"{protocol.label}: {metric}" for protocol, metric in table.columns)]
    lines = [
        " | ".join(map(escape_markdown, heads)),
        " | ".join(["---"] + ["---:"] * len(table.columns)),
    ]
    for row, cells in table.rows:
        texts = [(f"**{c.text}**" if c.bold else c.text) + c.marks for c in cells]
        lines.append(" | ".join([escape_markdown(row.label), *texts]))
    return "\n".join(f"| {line} |" for line in lines)


def to_latex(table: WideTable) -> list[str]:
    """Returns booktabs tables with the protocols above their metrics, none divided in two."""
    found, start = [], 0
    for columns in split_columns(table.columns, MOST_COLUMNS):
        end = start + len(columns)
        rows = [(row, cells[start:end]) for row, cells in table.rows]
        found.append(_latex_table(WideTable(columns, rows)))
        start = end
    return found


def _latex_table(table: WideTable) -> str:
    heads, rules, start = [""], [], 2
    for protocol, count in table.groups:
        lines = wrap(protocol.short, MOST_OF_LINE * count, break_long_words=False)
        # LaTeX would read a [ at the start of a line as the length of the line break before it
        stack = " \\\\ ".join("{}" + escape_latex(line) for line in lines)
        heads.append(f"\\multicolumn{{{count}}}{{c}}{{\\shortstack{{{stack}}}}}")
        rules.append(f"\\cmidrule(lr){{{start}-{start + count - 1}}}")
        start += count
    short = [
        metric.rpartition("/")[2] if _one_kind(table, p) else metric for p, metric in table.columns
    ]
    lines = [
        "\\begin{tabular}{l" + "r" * len(table.columns) + "}",
        "\\toprule",
        " & ".join(heads) + " \\\\",
        "".join(rules),
        " & ".join(["checkpoint", *map(escape_latex, short)]) + " \\\\",
        "\\midrule",
    ]
    for row, cells in table.rows:
        texts = [_latex_cell(cell) for cell in cells]
        # LaTeX would read a [ at the start of a row as the length of the line break before it
        lines.append("{}" + " & ".join([escape_latex(row.label), *texts]) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])


def _one_kind(table: WideTable, protocol: Protocol) -> bool:
    """Returns whether the protocol's metrics are all of boxes, or all of masks."""
    kinds = {m.partition("/")[0] for p, m in table.columns if p.key == protocol.key}
    return len(kinds) == 1


def _latex_cell(cell: WideCell) -> str:
    text = escape_latex(cell.text)
    if cell.bold:
        mean, plus, rest = text.partition(" $\\pm$")
        text = f"\\textbf{{{mean}}}{plus}{rest}"
    return text + escape_latex(cell.marks)
