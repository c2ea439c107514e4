"""The report's table of numbers: rows are checkpoints, columns are protocols.

`from_records.build_results` fills it; all four outputs and the page's figures are drawn from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pretrain.data.fingerprint import Fingerprint
from transfer.report.published import Published
from transfer.results.comparison import Sample
from transfer.results.group import CheckpointKey, MethodKey, ProtocolKey
from transfer.results.metrics import headlines
from transfer.results.pooled import Spread
from transfer.results.read_records import RecordFile
from transfer.results.statistics import Summary


@dataclass(frozen=True)
class Checkpoint:
    """Is a row. Costs are those of the pretraining, None if unknown."""

    key: CheckpointKey
    label: str
    sha256: str
    method: str | None
    backbone: str
    untrained: bool
    epochs: float | None
    seconds: float | None
    gpu_seconds: float | None
    views: int | None
    source: str | None = None  # the format of the weights file
    proof: str | None = None  # transfer.results.record.PROOFS
    seed: int | None = None  # seed of the pretraining
    of_method: MethodKey | None = None  # the method to which the checkpoint belongs
    seeds: int = 0  # number of pretraining seeds in a method's row; 0: one checkpoint

    @property
    def unit(self) -> str:
        """Returns the subject of a claim about this row."""
        return f"method ({self.seeds} pretraining seeds)" if self.seeds else "checkpoint"


@dataclass(frozen=True)
class Protocol:
    """Is a group of columns, one per metric. The six fields after `key` are those of the key."""

    key: ProtocolKey
    task: str
    dataset: str
    name: str
    engine: str
    config_sha256: str
    data: str
    overrides: tuple[str, ...]
    label: str
    short: str  # the label without its overrides, for heads, captions and axes
    rate: str = ""  # "swept lr", "fixed lr", or "" if there is none
    differs: tuple[str, ...] = ()  # differences from protocols of the same task and data, in lines
    published: tuple[Published, ...] = ()
    changed: tuple[str, ...] = ()  # "KEY value" of each difference from the shipped config
    config_known: bool = True  # whether a record kept its config
    # "train" and "test"; {}: the data is unknown
    fingerprints: Mapping[str, Fingerprint] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """Holds the numbers of one checkpoint under one protocol."""

    summaries: dict[str, Summary]
    values: dict[str, list[float]]  # in the order of trials
    seconds: float  # mean per trial
    gpu_seconds: float
    views: float
    shortened: bool
    files: list[RecordFile] = field(repr=False)
    samples: dict[str, Sample] = field(default_factory=dict, repr=False)


Cells = dict[tuple[CheckpointKey, ProtocolKey], Cell]
CostTable = tuple[list[str], list[list[str]]]  # header, rows


@dataclass(frozen=True)
class Ranking:
    """Holds the checkpoints that are ranked, and the tasks that all of them have.

    ranks: float (tasks, checkpoints); 1 is the best, equal values share the mean of their places.
    """

    rows: list[Checkpoint]
    tasks: list[Protocol]
    ranks: np.ndarray

    def means(self) -> dict[CheckpointKey, float]:
        """Returns the mean rank of each checkpoint over the tasks."""
        return {row.key: float(rank) for row, rank in zip(self.rows, self.ranks.mean(axis=0))}


@dataclass(frozen=True)
class Results:
    """Holds everything that the report shows in numbers."""

    checkpoints: list[Checkpoint]
    protocols: list[Protocol]
    metrics: dict[ProtocolKey, list[str]]
    cells: Cells
    notes: list[str]
    methods: list[Checkpoint] = field(default_factory=list)
    # by (protocol, metric): keys of rows that no row beats significantly; () if all are equal
    best: dict[tuple[ProtocolKey, str], frozenset[CheckpointKey]] = field(default_factory=dict)
    # by (protocol, metric, whether of methods): spread of the trials in all rows of the column
    spreads: dict[tuple[ProtocolKey, str, bool], Spread | None] = field(default_factory=dict)
    # by (protocol, metric): result of `cost.compute_rows`
    cost_tables: dict[tuple[ProtocolKey, str], CostTable] = field(default_factory=dict)
    # mean rank over the protocols `ranked_on`; a checkpoint without one is not ranked
    mean_ranks: dict[CheckpointKey, float] = field(default_factory=dict)
    ranked_on: list[Protocol] = field(default_factory=list)

    def is_best(self, checkpoint: Checkpoint, protocol: Protocol, metric: str) -> bool:
        """Returns whether the row has the mark in this column."""
        return checkpoint.key in self.best.get((protocol.key, metric), ())

    def spread(
        self, protocol: Protocol, metric: str, first: Checkpoint, second: Checkpoint
    ) -> Spread | None:
        """Returns the spread of trials in the column that has both rows.

        None for a method and a checkpoint: pretraining seeds are not fine-tuning trials.
        """
        of_methods = {bool(first.seeds), bool(second.seeds)}
        if len(of_methods) > 1:
            return None
        return self.spreads.get((protocol.key, metric, of_methods.pop()))

    def cell(self, checkpoint: Checkpoint, protocol: Protocol) -> Cell | None:
        """Returns the cell, or None if nothing was run."""
        return self.cells.get((checkpoint.key, protocol.key))

    def column(
        self, protocol: Protocol, rows: Sequence[Checkpoint] | None = None
    ) -> list[tuple[Checkpoint, Cell]]:
        """Returns those of `rows` (None: all checkpoints) that have a cell, with their cells."""
        wanted = self.checkpoints if rows is None else rows
        found = ((row, self.cell(row, protocol)) for row in wanted)
        return [(row, cell) for row, cell in found if cell]

    def of_rows(self, checkpoints: Sequence[Checkpoint], methods: Sequence[Checkpoint]) -> Results:
        """Returns the same columns with some of the rows; notes and marks are those of all rows."""
        rows = list(checkpoints), list(methods)
        return replace(self, checkpoints=rows[0], methods=rows[1], cost_tables={})

    def by_rank(self, rows: Sequence[Checkpoint] | None = None) -> list[Checkpoint]:
        """Returns the rows (None: all checkpoints), the best first; those without rank are last."""
        wanted = self.checkpoints if rows is None else rows
        return sorted(wanted, key=lambda row: self.mean_ranks.get(row.key, math.inf))

    def by_result(
        self, protocol: Protocol, rows: Sequence[Checkpoint] | None = None
    ) -> list[Checkpoint]:
        """Returns those of `rows` (None: all checkpoints) that have a cell, the best first."""

        def place(found: tuple[Checkpoint, Cell]) -> float:
            summary = found[1].summaries.get(self.headline(protocol))
            return math.inf if summary is None else -summary.mean

        return [row for row, _ in sorted(self.column(protocol, rows), key=place)]

    def headlines(self) -> list[tuple[Protocol, str]]:
        """Returns the columns of the main table: the metrics that papers print, by protocol."""
        return [(p, metric) for p in self.protocols for metric in self.headlines_of(p)]

    def headlines_of(self, protocol: Protocol) -> list[str]:
        """Returns a protocol's columns of the main table."""
        return headlines(protocol.task, self.metrics[protocol.key])

    def headline(self, protocol: Protocol) -> str:
        """Returns the one metric that summarises a protocol."""
        return self.headlines_of(protocol)[0]

    def transfer_seconds(self, checkpoint: Checkpoint) -> float:
        """Returns the seconds of one trial (the mean over trials) of each protocol, summed."""
        cells = (self.cell(checkpoint, protocol) for protocol in self.protocols)
        return math.fsum(cell.seconds for cell in cells if cell)
