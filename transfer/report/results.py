"""What the report shows in numbers: rows, columns, cells. Built by `tables.build_results`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from transfer.report.published import Published
from transfer.results.comparison import Sample
from transfer.results.metrics import headlines, is_percent
from transfer.results.read_records import Entry
from transfer.results.statistics import Summary, summarize


@dataclass(frozen=True)
class Checkpoint:
    """A row. Costs are the pretraining's, None where unknown."""

    key: tuple[str, str]
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
    config_sha256: str | None = None
    seeds: int = 0  # pretraining seeds behind the row of a method; 0: one checkpoint

    @property
    def unit(self) -> str:
        """What a claim about this row is about."""
        return f"method ({self.seeds} pretraining seeds)" if self.seeds else "checkpoint"


@dataclass(frozen=True)
class Protocol:
    """A group of columns."""

    key: tuple[str, ...]
    task: str
    dataset: str
    name: str
    engine: str
    config_sha256: str
    overrides: tuple[str, ...]
    label: str
    rate: str = ""  # "swept lr", "fixed lr", or "" where there is none
    differs: tuple[str, ...] = ()  # from the other protocols of its task and data, one line each
    published: tuple[Published, ...] = ()
    changed: tuple[str, ...] = ()  # "KEY value" of what is not as in the shipped config
    config_known: bool = True  # whether a record kept its config


@dataclass(frozen=True)
class Cell:
    """One checkpoint under one protocol."""

    summaries: dict[str, Summary]
    values: dict[str, list[float]]  # in the order of trials
    seconds: float  # mean per trial
    gpu_seconds: float
    views: float
    shortened: bool
    entries: list[Entry] = field(repr=False)
    samples: dict[str, Sample] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Results:
    """Everything that the report shows in numbers."""

    checkpoints: list[Checkpoint]
    protocols: list[Protocol]
    metrics: dict[tuple[str, ...], list[str]]  # of each protocol, by its key
    cells: dict[tuple[tuple[str, str], tuple[str, ...]], Cell]
    notes: list[str]
    methods: list[Checkpoint] = field(default_factory=list)
    # (protocol's key, metric) -> keys of rows that none is resolved above; () where all are equal
    best: dict[tuple[tuple[str, ...], str], frozenset] = field(default_factory=dict)

    def is_best(self, checkpoint: Checkpoint, protocol: Protocol, metric: str) -> bool:
        """Whether the row carries the mark in this column."""
        return checkpoint.key in self.best.get((protocol.key, metric), ())

    def cell(self, checkpoint: Checkpoint, protocol: Protocol) -> Cell | None:
        """The cell, or None where nothing was run."""
        return self.cells.get((checkpoint.key, protocol.key))

    def headlines(self) -> list[tuple[Protocol, str]]:
        """The columns of the main table: the metrics that papers print, by protocol."""
        return [(p, metric) for p in self.protocols for metric in self.headlines_of(p)]

    def headlines_of(self, protocol: Protocol) -> list[str]:
        """A protocol's columns of the main table."""
        return headlines(protocol.task, self.metrics[protocol.key])

    def headline(self, protocol: Protocol) -> str:
        """The one metric that stands for a protocol."""
        return self.headlines_of(protocol)[0]

    def transfer_seconds(self, checkpoint: Checkpoint) -> float:
        """Seconds of all protocols, one trial of each (the mean over trials)."""
        return math.fsum(
            cell.seconds for (key, _), cell in self.cells.items() if key == checkpoint.key
        )


def make_cell(
    samples: dict[str, Sample], records: list[dict[str, Any]], entries: list[Entry]
) -> Cell:
    """A cell of samples; its costs are the means over `records`."""
    return Cell(
        summaries={
            m: summarize(s.values, s.replicates, s.images, percent=is_percent(m))
            for m, s in samples.items()
        },
        values={metric: list(sample.values) for metric, sample in samples.items()},
        samples=samples,
        seconds=math.fsum(record["seconds"] for record in records) / len(records),
        gpu_seconds=math.fsum(record["gpu_seconds"] for record in records) / len(records),
        views=math.fsum(record["views_seen"] for record in records) / len(records),
        shortened=any(record["status"] == "shortened" for record in records),
        entries=entries,
    )
