"""The report's table of numbers: checkpoints are rows, protocols are columns, with a cell for both.

`from_records.build_results` fills it; all four outputs and the page's figures are drawn from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

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
    """A row. Costs are the pretraining's, None where unknown."""

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
    source: str | None = None  # the format that the weights were read from
    proof: str | None = None  # transfer.results.record.PROOFS
    seed: int | None = None  # of the pretraining
    of_method: MethodKey | None = None  # whose seeds it is one of
    seeds: int = 0  # pretraining seeds behind the row of a method; 0: one checkpoint

    @property
    def unit(self) -> str:
        """What a claim about this row is about."""
        return f"method ({self.seeds} pretraining seeds)" if self.seeds else "checkpoint"


@dataclass(frozen=True)
class Protocol:
    """A group of columns, one per metric. The six fields after `key` are those of the key."""

    key: ProtocolKey
    task: str
    dataset: str
    name: str
    engine: str
    config_sha256: str
    data: str
    overrides: tuple[str, ...]
    label: str
    rate: str = ""  # "swept lr", "fixed lr", or "" where there is none
    differs: tuple[str, ...] = ()  # from the other protocols of its task and data, one line each
    published: tuple[Published, ...] = ()
    changed: tuple[str, ...] = ()  # "KEY value" of what is not as in the shipped config
    config_known: bool = True  # whether a record kept its config
    # "train" and "test"; {}: the data is unknown
    fingerprints: Mapping[str, Fingerprint] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One checkpoint under one protocol."""

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
class Results:
    """Everything that the report shows in numbers."""

    checkpoints: list[Checkpoint]
    protocols: list[Protocol]
    metrics: dict[ProtocolKey, list[str]]
    cells: Cells
    notes: list[str]
    methods: list[Checkpoint] = field(default_factory=list)
    # (protocol, metric) -> keys of rows that none is resolved above; () where all are equal
    best: dict[tuple[ProtocolKey, str], frozenset[CheckpointKey]] = field(default_factory=dict)
    # (protocol, metric, whether of methods) -> how the trials of all rows of the column spread
    spreads: dict[tuple[ProtocolKey, str, bool], Spread | None] = field(default_factory=dict)
    # (protocol, metric) -> what `cost.compute_rows` made of all rows
    cost_tables: dict[tuple[ProtocolKey, str], CostTable] = field(default_factory=dict)

    def is_best(self, checkpoint: Checkpoint, protocol: Protocol, metric: str) -> bool:
        """Whether the row carries the mark in this column."""
        return checkpoint.key in self.best.get((protocol.key, metric), ())

    def spread(
        self, protocol: Protocol, metric: str, first: Checkpoint, second: Checkpoint
    ) -> Spread | None:
        """Of the trials of the column that both rows belong to.

        None for a method beside a checkpoint: pretraining seeds are not fine-tuning trials.
        """
        of_methods = {bool(first.seeds), bool(second.seeds)}
        if len(of_methods) > 1:
            return None
        return self.spreads.get((protocol.key, metric, of_methods.pop()))

    def cell(self, checkpoint: Checkpoint, protocol: Protocol) -> Cell | None:
        """The cell, or None where nothing was run."""
        return self.cells.get((checkpoint.key, protocol.key))

    def column(
        self, protocol: Protocol, rows: Sequence[Checkpoint] | None = None
    ) -> list[tuple[Checkpoint, Cell]]:
        """Those of `rows` (None: all checkpoints) that something was run of, with their cells."""
        wanted = self.checkpoints if rows is None else rows
        found = ((row, self.cell(row, protocol)) for row in wanted)
        return [(row, cell) for row, cell in found if cell]

    def of_rows(self, checkpoints: Sequence[Checkpoint], methods: Sequence[Checkpoint]) -> Results:
        """The same columns with some of the rows; notes are shared, marks are those of all rows."""
        rows = list(checkpoints), list(methods)
        return replace(self, checkpoints=rows[0], methods=rows[1], cost_tables={})

    def headlines(self) -> list[tuple[Protocol, str]]:
        """The columns of the main table: the metrics that papers print, by protocol."""
        return [(p, metric) for p in self.protocols for metric in self.headlines_of(p)]

    def headlines_of(self, protocol: Protocol) -> list[str]:
        """A protocol's columns of the main table."""
        return headlines(protocol.task, self.metrics[protocol.key])

    def headline(self, protocol: Protocol) -> str:
        """The one metric that summarises a protocol."""
        return self.headlines_of(protocol)[0]

    def transfer_seconds(self, checkpoint: Checkpoint) -> float:
        """Seconds of all protocols, one trial of each (the mean over trials)."""
        cells = (self.cell(checkpoint, protocol) for protocol in self.protocols)
        return math.fsum(cell.seconds for cell in cells if cell)
