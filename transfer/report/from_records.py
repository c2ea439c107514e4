"""Makes the report's table from records; `transfer/results/group.py` says which belong together.

Three or more checkpoints that differ only in their pretraining seed have one row each, and together
one more row for their method.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from transfer.report.cells import trials_of
from transfer.report.columns import make_protocols
from transfer.report.ranking import rank_checkpoints
from transfer.report.rows import checkpoint_rows, note_equal_weights, pool_methods
from transfer.report.rows_columns_cells import Cells, Protocol, Results
from transfer.results.all_pairs import best_of
from transfer.results.comparison import spread_of
from transfer.results.group import (
    DETERMINISTIC_TASKS,
    LEAST_TRIALS,
    CheckpointKey,
    ProtocolKey,
    cell_of,
    why_left_out,
)
from transfer.results.metrics import is_percent, sorted_metrics
from transfer.results.read_records import RecordFile

Groups = dict[tuple[CheckpointKey, ProtocolKey], list[RecordFile]]


def build_results(files: Sequence[RecordFile]) -> Results:
    """Groups records into rows, columns and cells; the notes name those that are left out."""
    notes, groups = _grouped([file.shown() for file in files])
    cells = {key: trials_of(members, notes) for key, members in groups.items()}
    checkpoints = checkpoint_rows(groups)
    notes += note_equal_weights(checkpoints)
    members: dict[ProtocolKey, list[RecordFile]] = defaultdict(list)
    for (_, key), group in groups.items():
        members[key] += group
    protocols = make_protocols(members, notes)
    metrics = _metrics(protocols, cells)
    if any(cell.shortened for cell in cells.values()):
        notes.append("† shortened: the protocol was cut to fit a budget; see the runs below")
    methods = pool_methods(checkpoints, protocols, cells, notes)
    results = Results(checkpoints, protocols, metrics, cells, notes, methods)
    _add_spreads(results)
    for protocol, metric in results.headlines():
        results.best[protocol.key, metric] = _best(results, protocol, metric)
    ranking = rank_checkpoints(results)
    if ranking.rows:
        results.mean_ranks.update(ranking.means())
        results.ranked_on.extend(ranking.tasks)
    return results


def _grouped(files: Sequence[RecordFile]) -> tuple[list[str], Groups]:
    """Returns a note for each record that is not counted, and the others by their cell."""
    notes: list[str] = []
    groups: Groups = defaultdict(list)
    for file in files:
        if reason := why_left_out(file.record):
            notes.append(f"{file.path}: {reason}; left out")
        else:
            groups[cell_of(file.record)].append(file)
    return notes, groups


def _metrics(protocols: Sequence[Protocol], cells: Cells) -> dict[ProtocolKey, list[str]]:
    """Returns the metrics that any cell of each protocol has, in the table's order."""
    found: dict[ProtocolKey, set[str]] = defaultdict(set)
    for (_, key), cell in cells.items():
        found[key].update(cell.summaries)
    return {protocol.key: sorted_metrics(found[protocol.key]) for protocol in protocols}


def _add_spreads(results: Results) -> None:
    """Adds the spread of trials in each column of percentages, for checkpoints and for methods."""
    for protocol in results.protocols:
        for rows in (results.checkpoints, results.methods):
            column = results.column(protocol, rows)
            for metric in filter(is_percent, results.metrics[protocol.key] if column else ()):
                samples = [cell.samples[metric] for _, cell in column if metric in cell.samples]
                place = protocol.key, metric, rows is results.methods
                results.spreads[place] = spread_of(samples)


def _best(results: Results, protocol: Protocol, metric: str) -> frozenset[CheckpointKey]:
    column = results.column(protocol)
    samples = {row.key: cell.samples[metric] for row, cell in column if metric in cell.samples}
    certain = protocol.task in DETERMINISTIC_TASKS
    best = best_of(list(samples.values()), 1 if certain else LEAST_TRIALS, certain)
    return frozenset(key for key, good in zip(samples, best) if good)
