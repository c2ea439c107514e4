"""Renders the report as one self-contained HTML page.

The page loads nothing from elsewhere: style and script are inlined, pictures are data URIs, figures
are SVG. The script sorts, filters and compares two rows; without it, the page still shows every
number of each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transfer.report.cost import compute_rows
from transfer.report.flags import find_flags
from transfer.report.numbers_as_text import COMPUTE, SPREAD, words_on_rank
from transfer.report.page import charts, provenance
from transfer.report.page.artifacts import Artifacts
from transfer.report.page.blocks import Block, column_blocks
from transfer.report.page.classes import by_class, class_differences
from transfer.report.page.comparison import default_pair, every_row, pair_data
from transfer.report.page.curves import learning_curves, precision_recall, spectra
from transfer.report.page.environment import environment
from transfer.report.page.gallery import MIN_SCORE, Gallery, collect_galleries
from transfer.report.page.pictures import TITLES, collect_pictures
from transfer.report.page.shown_rows import shown_rows, words_on_shown
from transfer.report.rows_columns_cells import Protocol, Results

NO_GALLERY = "Needs two checkpoints under one protocol; detection runs store gallery.json."


@dataclass(frozen=True)
class PublishedRow:
    """Values by (protocol's key, metric) in percent; `source` is its number in the page's list."""

    label: str
    values: dict[tuple[tuple[str, ...], str], float]
    source: int


def render_page(
    results: Results, title: str, pair: Sequence[str] = (), pictures: bool = True
) -> str:
    """Returns the HTML.

    `pair` has the labels of two rows to compare first. Without `pictures`, images that show data
    are left out (kernels stay).
    """
    artifacts = Artifacts(results.notes)  # it adds notes about artifacts that cannot be drawn
    shown = shown_rows(results, pair)
    drawn = _drawn(shown, artifacts, pictures) | _compared(shown, tuple(pair), artifacts)
    artifacts.finish()
    published, sources = published_on_page(results)
    template = environment().get_template("report.html")
    return template.render(
        title=title,
        results=results,
        rows=[*results.by_rank(), *results.by_rank(results.methods)],
        number={row.key: series for series, row in enumerate(shown.checkpoints)},
        compared={row.key: place for place, row in enumerate(every_row(shown))},
        shown=every_row(shown),
        cut=words_on_shown(results, shown),
        blocks=column_blocks(results),
        words_on_rank=words_on_rank(results),
        tasks=list(dict.fromkeys(protocol.task for protocol in results.protocols)),
        published=published,
        published_in=_having,
        sources=sources,
        flags=find_flags(results),
        spread=SPREAD,
        compute=COMPUTE,
        compute_tables=_compute_tables(results),
        newest=provenance.newest(results),
        machines=provenance.machines(results),
        versions=provenance.versions(results),
        runs=provenance.runs(results),
        notes=results.notes,
        **drawn,
    )


def _drawn(results: Results, artifacts: Artifacts, pictures: bool) -> dict[str, Any]:
    """Returns figures and pictures, and why some are missing."""
    figures = [
        charts.overview(results),
        charts.linear_against_detection(results),
        charts.cost_against_quality(results),
        charts.by_size(results),
        by_class(results, artifacts),
        precision_recall(results, artifacts),
        spectra(results, artifacts),
        *learning_curves(results, artifacts),
    ]
    kinds = ("views", "kernels", "detections") if pictures else ("kernels",)
    panels = collect_pictures(results, kinds, artifacts)
    galleries = collect_galleries(results, artifacts, pictures)
    absent = [(group.heading, group.missing) for group in figures if not group.charts]
    return {
        "figures": [group for group in figures if group.charts],
        "contents": {group.link: group.name for group in reversed(figures) if group.charts},
        "absent": absent + ([] if galleries else [("Detections side by side", NO_GALLERY)]),
        "panels": [(kind, TITLES[kind], [p for p in panels if p.kind == kind]) for kind in kinds],
        "galleries": galleries,
        "min_score": MIN_SCORE,
        "orders": [_order(gallery) for gallery in galleries],
    }


def _compared(results: Results, pair: tuple[str, ...], artifacts: Artifacts) -> dict[str, Any]:
    """Returns the data that the script needs to compare any two rows."""
    return {
        "pair": default_pair(results, pair),
        "pairs": {**pair_data(results), "classes": class_differences(results, artifacts)},
    }


def _order(gallery: Gallery) -> dict[str, object]:
    return {
        "label": gallery.label,
        "names": gallery.names,
        "orders": gallery.orders,
        "trials": gallery.trials,
    }


def published_on_page(results: Results) -> tuple[list[PublishedRow], list[str]]:
    """Returns one row per method and source, over all columns with a number, and the sources.

    Two sources may print different numbers for one method, so each has its own row.
    """
    rows: dict[tuple[str, str], PublishedRow] = {}
    sources: list[str] = []
    for protocol in results.protocols:
        for found in protocol.published:
            if found.source not in sources:
                sources.append(found.source)
            number = sources.index(found.source) + 1
            row = rows.setdefault(
                (found.label, found.source), PublishedRow(found.label, {}, number)
            )
            row.values.update({(protocol.key, m): value for m, value in found.metrics.items()})
    return list(rows.values()), sources


def _compute_tables(results: Results) -> list[tuple[Protocol, str, list[str], list[list[str]]]]:
    """Returns (protocol, metric, header, lines) of protocols that have rows with a known cost."""
    tables = []
    for protocol in results.protocols:
        metric = results.headline(protocol)
        header, lines = compute_rows(results, protocol, metric)
        tables += [(protocol, metric, header, lines)] if lines else []
    return tables


def _having(rows: Sequence[PublishedRow], block: Block) -> list[PublishedRow]:
    """Returns the published rows with a number in any column of the block."""
    places = {(protocol.key, metric) for protocol, metric in block.columns}
    return [row for row in rows if places & row.values.keys()]
