"""Compares two rows of the report for each metric: difference, interval, and the verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pretrain.common.errors import InputError
from transfer.report.rows_columns_cells import Checkpoint, Protocol, Results
from transfer.results.comparison import Comparison, Sample, compare
from transfer.results.data_of_records import how_they_differ
from transfer.results.group import DETERMINISTIC_TASKS, LEAST_TRIALS
from transfer.results.metrics import is_percent
from transfer.results.pooled import Spread
from transfer.results.statistics import IMAGES, TRIALS

RESOLVED, OPEN = "resolved", "not resolved"


@dataclass(frozen=True)
class Pair:
    """Compares one metric of one protocol for two rows; `verdict` says what may be claimed.

    spread: spread of the trials in the column; None if only the two rows' own trials are used.
    """

    protocol: Protocol
    metric: str
    samples: tuple[Sample, Sample]
    spread: Spread | None
    found: Comparison
    verdict: str

    @property
    def trials(self) -> str:
        """Returns which spread of the trials the interval uses."""
        if self.found.estimate.covers in (None, IMAGES):
            return "–"
        if self.spread is None or not self.spread.is_equal:
            return "each row's own spread"
        return f"pooled SD {self.spread.std:.2g}, {self.spread.df} df"


def compare_rows(results: Results, first: Checkpoint, second: Checkpoint) -> list[Pair]:
    """Returns every accuracy and AP that both rows have, first - second.

    Raises:
        InputError: the two have no protocol in common.
    """
    pairs = []
    for protocol in results.protocols:
        one, two = results.cell(first, protocol), results.cell(second, protocol)
        if one is None or two is None:
            continue
        for metric in filter(is_percent, results.metrics[protocol.key]):
            if metric in one.samples and metric in two.samples:
                samples = one.samples[metric], two.samples[metric]
                spread = results.spread(protocol, metric, first, second)
                pairs.append(compare_cells(protocol, metric, *samples, spread))
    if not pairs:
        raise InputError(
            f"{first.label} and {second.label} have no protocol in common"
            f"{_on_other_data(results, first, second)}"
        )
    return pairs


def _on_other_data(results: Results, first: Checkpoint, second: Checkpoint) -> str:
    """Returns the part of the message for rows with one protocol name but different data, or ""."""
    for one in results.protocols:
        for two in results.protocols:
            same = one.key._replace(data="") == two.key._replace(data="")
            if same and results.cell(first, one) and results.cell(second, two):
                sides = (f"of {first.label}", f"of {second.label}")
                how = how_they_differ(one.fingerprints, two.fingerprints, sides)
                return (
                    f" on the same data: {one.name} was run on different data with the name "
                    f"{one.dataset}: {how or 'the data of one is unknown'}; run one of them again "
                    "on the data of the other"
                )
    return ""


def compare_cells(
    protocol: Protocol, metric: str, first: Sample, second: Sample, spread: Spread | None
) -> Pair:
    """Compares two samples of one column; for `spread` see `comparison.difference`."""
    found = compare(first, second, spread, certain=protocol.task in DETERMINISTIC_TASKS)
    verdict = _verdict(protocol, first, second, found)
    return Pair(protocol, metric, (first, second), spread, found, verdict)


def _verdict(protocol: Protocol, first: Sample, second: Sample, found: Comparison) -> str:
    """Returns what may be claimed.

    A difference of single trials says nothing about checkpoints, even if the interval over the
    images does not contain 0.
    """
    trials = min(len(first.values), len(second.values))
    if found.p is None:
        why = "one trial, no replicates" if trials == 1 else "the trials show no spread"
        return f"{OPEN}: no interval ({why})"
    if protocol.task not in DETERMINISTIC_TASKS:
        if trials == 1:
            return f"{OPEN}: one trial"
        if trials < LEAST_TRIALS:
            return f"{OPEN}: fewer than {LEAST_TRIALS} trials"
    if not found.resolved:
        return OPEN
    # Without replicates nothing can be said about different images, even with a small interval
    return f"{RESOLVED}: on these test images" if found.estimate.covers == TRIALS else RESOLVED


def compare_table(
    results: Results, first: Checkpoint, second: Checkpoint
) -> tuple[list[str], list[list[str]]]:
    """Returns (header, rows) of `compare_rows` as text, and raises its errors."""
    header = ["protocol", "metric", first.label, second.label, "difference", "95 % interval"]
    header += ["verdict", "detectable", "covers", "trials"]
    rows = []
    for pair in compare_rows(results, first, second):
        found = pair.found
        means = [math.fsum(s.values) / len(s.values) for s in pair.samples]
        texts = [f"{mean:.1f} (n={len(s.values)})" for mean, s in zip(means, pair.samples)]
        interval = found.estimate.interval()
        rows.append(
            [
                pair.protocol.label,
                pair.metric,
                *texts,
                f"{found.estimate.value:+.1f}",
                "–" if interval is None else f"{interval[0]:+.1f} to {interval[1]:+.1f}",
                pair.verdict,
                "–" if found.detectable is None else f"{found.detectable:.1f}",
                found.estimate.covers or "–",
                pair.trials,
            ]
        )
    return header, rows


def describe_units(first: Checkpoint, second: Checkpoint) -> str:
    """Returns a text that says what is compared, and what the columns mean."""
    return (
        f"{first.label} ({first.unit}) minus {second.label} ({second.unit}), percentage points. "
        "Resolved: the 95 % interval does not contain 0. Detectable: the smallest true difference "
        "that these trials and images resolve 80 % of the time."
    )
