"""Tables as text: `Results` in; Markdown, CSV, LaTeX and a terminal table out.

Percentages have one decimal; the CSV has all digits. `mean ± std (n)` is the sample standard
deviation over n trials; one trial shows no spread.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from pretrain.common.errors import InputError
from transfer.report.tables import Checkpoint, Protocol, Results
from transfer.results.statistics import Summary

CSV_FIELDS = (
    "checkpoint,sha256,method,backbone,pretrain_epochs,pretrain_seconds,pretrain_gpu_seconds,"
    "pretrain_views,task,dataset,protocol,engine,config_sha256,overrides,metric,mean,std,n,"
    "t95_half_width,values,transfer_seconds,transfer_gpu_seconds,transfer_views,shortened"
).split(",")
SPREAD = "mean ± sample standard deviation over n trials; no spread for a single trial"
COMPUTE = (
    "Compute: time and views of pretraining; transfer is the time of all the row's protocols, one "
    "trial of each"
)


def format_summary(summary: Summary | None, plus_minus: str = "±", count: bool = True) -> str:
    """ "51.3 ± 0.4 (n=3)", "51.3 (n=1)", or "–" where nothing was run."""
    if summary is None:
        return "–"
    spread = "" if summary.std is None else f" {plus_minus} {summary.std:.1f}"
    return f"{summary.mean:.1f}{spread}" + (f" (n={summary.n})" if count else "")


def format_seconds(seconds: float | None) -> str:
    """A duration in its natural unit; "–" where unknown."""
    if seconds is None:
        return "–"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def format_count(count: float | None) -> str:
    """12,345 as "12.3k"; "–" where unknown."""
    if count is None:
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def costs(checkpoint: Checkpoint) -> tuple[str, str, str]:
    """Pretraining compute as (seconds, GPU-seconds, views); nothing for untrained weights."""
    if checkpoint.untrained:
        return "none", "none", "0"
    return (
        format_seconds(checkpoint.seconds),
        format_seconds(checkpoint.gpu_seconds),
        format_count(checkpoint.views),
    )


def headline_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """The main table as (header, rows) of plain text."""
    columns = results.headlines()
    header = ["checkpoint", "backbone", "pretrain", "views", "transfer"]
    header += [f"{protocol.label}: {metric}" for protocol, metric in columns]
    rows = []
    for checkpoint in results.checkpoints:
        seconds, _, views = costs(checkpoint)
        row = [checkpoint.label, checkpoint.backbone, seconds, views]
        row.append(format_seconds(results.transfer_seconds(checkpoint)))
        rows.append(row + [_cell_text(results, checkpoint, *column) for column in columns])
    return header, rows


def to_terminal(results: Results) -> str:
    """The main table for a terminal, one line per checkpoint."""
    return aligned(*headline_rows(results))


def to_markdown(results: Results) -> str:
    """The main table, then every metric of every protocol, then the notes."""
    parts = ["# Transfer results", f"Percent; {SPREAD}. {COMPUTE}."]
    parts.append(_markdown_table(*headline_rows(results)))
    for protocol in results.protocols:
        parts.append(f"## {protocol.task}: {protocol.label}")
        parts.append(describe_protocol(protocol))
        parts.append(_markdown_table(*protocol_rows(results, protocol)))
    if results.notes:
        parts.append("## Notes")
        parts.append("\n".join(f"- {note}" for note in results.notes))
    return "\n\n".join(parts) + "\n"


def protocol_rows(results: Results, protocol: Protocol) -> tuple[list[str], list[list[str]]]:
    """All metrics of one protocol as (header, rows), the cost of one trial last."""
    metrics = results.metrics[protocol.key]
    rows = []
    for checkpoint in results.checkpoints:
        cell = results.cell(checkpoint, protocol)
        if cell:
            row = [_cell_text(results, checkpoint, protocol, metric) for metric in metrics]
            cost = [format_seconds(cell.seconds), format_count(cell.views)]
            rows.append([checkpoint.label, *row, *cost])
    return ["checkpoint", *metrics, "time per trial", "views per trial"], rows


def describe_protocol(protocol: Protocol) -> str:
    """One line that tells this protocol from others."""
    text = f"data set {protocol.dataset}, engine {protocol.engine}, config {protocol.name}"
    changes = f" with {', '.join(protocol.overrides)}" if protocol.overrides else ""
    return f"{text}{changes} (config sha256 {protocol.config_sha256[:12]})"


def to_csv(results: Results) -> str:
    """Long form: one line per checkpoint, protocol and metric, all digits."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for checkpoint in results.checkpoints:
        for protocol in results.protocols:
            cell = results.cell(checkpoint, protocol)
            for metric in results.metrics[protocol.key] if cell else ():
                if metric in cell.summaries:
                    writer.writerow(_csv_row(results, checkpoint, protocol, metric))
    return stream.getvalue()


def to_latex(results: Results) -> str:
    """The main table with booktabs, ready to paste."""
    header, rows = headline_rows(results)
    lines = [
        "% needs \\usepackage{booktabs}; " + SPREAD.replace("±", "+-"),
        "\\begin{tabular}{ll" + "r" * (len(header) - 2) + "}",
        "\\toprule",
        " & ".join(map(_latex, header)) + " \\\\",
        "\\midrule",
        *(" & ".join(map(_latex, row)) + " \\\\" for row in rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def compare(
    results: Results, first: Checkpoint, second: Checkpoint
) -> tuple[list[str], list[list[str]]]:
    """(header, rows): every metric that both have, the difference first - second, n of each.

    A difference only: nothing is said about whether it is resolved.

    Raises:
        InputError: the two have no protocol in common.
    """
    header = ["protocol", "metric", first.label, second.label, "difference"]
    rows = []
    for protocol in results.protocols:
        cells = results.cell(first, protocol), results.cell(second, protocol)
        for metric in results.metrics[protocol.key]:
            pair = [cell.summaries.get(metric) if cell else None for cell in cells]
            if all(pair):
                texts = [format_summary(summary) for summary in pair]
                difference = pair[0].mean - pair[1].mean
                rows.append([protocol.label, metric, *texts, f"{difference:+.1f}"])
    if not rows:
        raise InputError(f"{first.label} and {second.label} have no protocol in common")
    return header, rows


def _cell_text(results: Results, checkpoint: Checkpoint, protocol: Protocol, metric: str) -> str:
    cell = results.cell(checkpoint, protocol)
    text = format_summary(cell.summaries.get(metric) if cell else None)
    return text + "†" if cell and cell.shortened else text


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
    )
    return dict(zip(CSV_FIELDS, values))


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text columns for a terminal: the first two to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = [
        "  ".join(
            text.ljust(width) if i < 2 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths))
        )
        for line in (header, ["-" * width for width in widths], *rows)
    ]
    return "\n".join(line.rstrip() for line in lines)


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    marks = ["---"] + ["---:"] * (len(header) - 1)
    lines = [header, marks, *rows]
    return "\n".join("| " + " | ".join(t.replace("|", "\\|") for t in x) + " |" for x in lines)


def _latex(text: str) -> str:
    for plain, code in (("\\", "/"), ("_", "\\_"), ("%", "\\%"), ("&", "\\&"), ("#", "\\#")):
        text = text.replace(plain, code)
    for plain, code in (("±", "$\\pm$"), ("–", "--"), ("†", "$^\\dagger$")):
        text = text.replace(plain, code)
    return text
