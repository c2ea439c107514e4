"""Finds a row of the report by any of the names under which its runs are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pretrain.common.errors import InputError
from pretrain.common.lookup import find
from transfer.report.rows_columns_cells import Checkpoint, Results

OPTION = "--compare"


def row_named(results: Results, name: str) -> Checkpoint:
    """Returns the checkpoint or method with this name.

    It is the row's label in the table; or else the name in its records; or else the folder of its
    runs, which is its row in a suite; or else its method ("random": the untrained backbone).

    Raises:
        InputError: no row has the name, or several have it and none has it as its label.
    """
    rows = [*results.checkpoints, *results.methods]
    kinds: tuple[Callable[[Checkpoint], Iterable[str | None]], ...] = (
        lambda row: [row.label],
        lambda row: [row.key.name],
        lambda row: _folders(results, row),
        lambda row: ["random" if row.untrained else row.method],
    )
    for names_of in kinds:
        found = [row for row in rows if name in names_of(row)]
        if len(found) == 1:
            return found[0]
        if found:
            labels = ", ".join(row.label for row in found)
            raise InputError(
                f"{OPTION} {name} may be any of these rows: {labels}; name one of them"
            )
    return find(name, {row.label: row for row in rows}, "checkpoint", OPTION)


def _folders(results: Results, row: Checkpoint) -> set[str]:
    """Returns the names of the folders that hold the row's trials: OUTPUT/FOLDER/trial_0."""
    if row.seeds:
        return set()
    cells = (results.cell(row, protocol) for protocol in results.protocols)
    files = (file for cell in cells if cell for file in cell.files)
    return {
        file.path.parent.parent.name for file in files if file.path.parent.name.startswith("trial_")
    }
