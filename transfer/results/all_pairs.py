"""Compares all pairs of samples in one column: which pairs differ, by Holm's method.

A column of 500 rows has 124,750 pairs. `Column` therefore keeps the differences between one sample
and many others as arrays. Holm's method only needs to know whether each p value is below a level:
one quantile per number of degrees of freedom answers this for all pairs at once. The numbers equal
those of `comparison.compare` for each pair, except for the rounding of floats.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from transfer.results.comparison import LEAST_DRAWS, Sample, chances, difference, spread_of
from transfer.results.pooled import Spread
from transfer.results.statistics import (
    CONFIDENCE,
    ROUNDING,
    Estimate,
    Source,
    interaction,
    variance_parts,
)

_SOURCES = 2  # trials and images


@dataclass(frozen=True)
class Differences:
    """Holds m differences in percent points, with the sources of chance of each.

    values: (m,). variances, df: (m, 2); a variance of 0 means that there is no such source.
    """

    values: np.ndarray
    variances: np.ndarray
    df: np.ndarray

    @staticmethod
    def joined(parts: Sequence[Differences]) -> Differences:
        """Returns the concatenation of all parts."""
        columns = zip(*((part.values, part.variances, part.df) for part in parts))
        return Differences(*(np.concatenate(column) for column in columns))

    @staticmethod
    def of(estimates: Sequence[Estimate]) -> Differences:
        """Returns the differences of estimates that were made one by one."""
        empty = Source(0.0, 1.0)
        padded = [(*found.sources, empty, empty)[:_SOURCES] for found in estimates]
        return Differences(
            np.array([found.value for found in estimates], np.float64),
            np.array([[s.variance for s in pair] for pair in padded]).reshape(-1, _SOURCES),
            np.array([[s.df for s in pair] for pair in padded]).reshape(-1, _SOURCES),
        )

    def taken(self, places: np.ndarray) -> Differences:
        """Returns the differences at some places."""
        return Differences(self.values[places], self.variances[places], self.df[places])

    def resolved(self) -> np.ndarray:
        """Returns bool (m,): which of all m differences Holm's method calls different from 0.

        It goes from the smallest p value to the next as long as p is below alpha / (m - k), with k
        the number of smaller ones. All p values below one level can be accepted in one round.
        """
        total, known = len(self.values), (self.variances > 0).any(axis=1)
        distinct, places = np.unique(self.df, return_inverse=True)
        places = places.reshape(self.df.shape)
        found = np.zeros(total, bool)
        while not found.all():
            level = (1 - CONFIDENCE) / (total - int(found.sum()))
            quantiles = stdtrit(distinct, level / 2)[places]
            reach = np.sqrt((quantiles**2 * self.variances).sum(axis=1))
            below = known & (np.abs(self.values) > reach)
            if below.sum() <= found.sum():
                break
            found = below
        return found


class Column:
    """Holds samples of one protocol and metric; samples with the same draws are stacked.

    spread, certain: see `comparison.difference`.
    """

    def __init__(
        self, samples: Sequence[Sample], spread: Spread | None, certain: bool = False
    ) -> None:
        self.samples = samples
        self._spread, self._certain = spread, certain
        rows: dict[object, list[int]] = defaultdict(list)
        for index, sample in enumerate(samples):
            rows[_alike(sample)].append(index)
        self._stacks = [self._stack(found) for found in rows.values()]
        self._stack_of, self._place = np.zeros((2, len(samples)), np.int64)
        for number, found in enumerate(rows.values()):
            self._stack_of[found], self._place[found] = number, range(len(found))

    def against(self, index: int, others: Sequence[int] | np.ndarray) -> Differences:
        """Returns the sample `index` minus each of `others`, in their order."""
        others = np.asarray(others, np.int64)
        first, stack = self.samples[index], self._stacks[self._stack_of[index]]
        stacked = self._stack_of[others] == self._stack_of[index]
        if stack is None:
            stacked[:] = False
        alone = [self.samples[other] for other in others[~stacked]]
        found = Differences.of(
            [difference(first, other, self._spread, self._certain) for other in alone]
        )
        if stack is None or not stacked.any():
            return found
        together = stack.against(int(self._place[index]), self._place[others[stacked]])
        # The two parts, back in the requested order
        order = np.argsort(np.argsort(stacked, kind="stable"))
        return Differences.joined([found, together]).taken(order)

    def _stack(self, indices: Sequence[int]) -> _Stack | None:
        """Returns None for a single sample."""
        samples = [self.samples[index] for index in indices]
        return _Stack(samples, self._spread, self._certain) if len(samples) > 1 else None


class _Stack:
    """k samples with the same B draws, or without draws: means, and variances by source of chance.

    means, parts, weights, df: (k,). drawn: (k, B), the means over trials. contained: (k,), the part
    of the images' variance that the trials' part already contains. Unknown parts are nan.
    """

    def __init__(self, samples: Sequence[Sample], spread: Spread | None, certain: bool) -> None:
        counts = [len(sample.values) for sample in samples]
        self._pooled = spread if spread is not None and spread.is_equal else None
        self._certain = certain
        self.means = np.array([math.fsum(s.values) for s in samples]) / counts
        self.several = np.array(counts) > 1
        parts = [variance_parts(sample.values, None).trials for sample in samples]
        self.parts = np.array([math.nan if part is None else part for part in parts])
        # A weight of 0 means a row whose result is deterministic
        weights = [0.0 if count is None else 1 / count for count in chances(counts, certain)]
        self.weights, self.df = np.array(weights), np.maximum(np.array(counts) - 1.0, 1.0)
        replicates = [s.replicates for s in samples if s.replicates is not None and _has_draws(s)]
        self.drawn = np.stack([r.mean(axis=0) for r in replicates]) if replicates else None
        self.contained = np.array([interaction(r) for r in replicates])
        self.images = samples[0].images

    def against(self, place: int, others: np.ndarray) -> Differences:
        """Returns the same as `comparison.difference` for each pair."""
        trials, df = self._trials(place, others)
        images, known = np.zeros_like(trials), 1.0
        if self.drawn is not None:
            contained = self.contained[place] + self.contained[others]
            images = self._images(self.drawn[place] - self.drawn[others], contained)
            known = min(self.drawn.shape[1], self.images or self.drawn.shape[1]) - 1.0
        variances = np.stack([trials, images], axis=1)
        dfs = np.stack([df, np.full_like(df, known)], axis=1)
        return Differences(self.means[place] - self.means[others], variances, dfs)

    def _trials(self, place: int, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the variance by the trials, 0 if unknown, and its degrees of freedom."""
        if self._pooled is not None:
            variance = self._pooled.variance * (self.weights[place] + self.weights[others])
            return variance, np.full(len(others), float(self._pooled.df))
        one, two = np.full(len(others), self.parts[place]), self.parts[others]
        if self._certain:  # a single trial compared with several adds no variance
            one = np.where(self.several[others], np.nan_to_num(one), one)
            two = np.nan_to_num(two) if self.several[place] else two
        variance = np.nan_to_num(one + two)
        spread = np.nan_to_num(one**2 / self.df[place] + two**2 / self.df[others])
        return variance, variance**2 / np.where(variance > 0, spread, 1.0) + (variance == 0)

    def _images(self, apart: np.ndarray, contained: np.ndarray) -> np.ndarray:
        """Returns the variance by the images of differences (m, B)."""
        together = apart.var(axis=1, ddof=1)
        few = self.images / (self.images - 1) if self.images else 1.0
        variance = np.maximum(together - contained, 0.0) * few
        return np.where(together > ROUNDING**2, variance, 0.0)


def best_of(samples: Sequence[Sample], least_trials: int = 1, certain: bool = False) -> list[bool]:
    """Returns which samples no other sample beats significantly, by `beats`.

    If no pair is resolved, no sample is marked. A sample with fewer trials than `least_trials` is
    never marked.
    """
    found = beats(samples, least_trials, certain)
    if not found.any():
        return [False] * len(samples)
    below: list[bool] = np.asarray(found.any(axis=0)).tolist()
    return [
        len(sample.values) >= least_trials and not is_below
        for sample, is_below in zip(samples, below)
    ]


def beats(samples: Sequence[Sample], least_trials: int = 1, certain: bool = False) -> np.ndarray:
    """Returns bool (k, k): [i, j] says that sample i is significantly higher than sample j.

    All pairs of the column are corrected for by Holm's method, because the highest mean was chosen
    after looking at all of them. A sample with fewer trials than `least_trials` is not compared,
    but its trials count for the spread of trials.
    """
    tested = [i for i, sample in enumerate(samples) if len(sample.values) >= least_trials]
    above = np.zeros((len(samples), len(samples)), bool)
    if len(tested) < 2:
        return above  # no pair
    column = Column(samples, spread_of(samples), certain)
    found = Differences.joined([column.against(i, tested[:n]) for n, i in enumerate(tested)][1:])
    first = np.repeat(tested, range(len(tested)))
    second = np.concatenate([tested[:n] for n in range(1, len(tested))])
    resolved, higher = found.resolved(), found.values > 0
    above[first[resolved & higher], second[resolved & higher]] = True
    above[second[resolved & ~higher], first[resolved & ~higher]] = True
    return above


def _alike(sample: Sample) -> tuple[object, ...]:
    """Returns the key that samples of one stack share."""
    if sample.replicates is None:
        return ()
    return (sample.draws, sample.replicates.shape[1], sample.images)


def _has_draws(sample: Sample) -> bool:
    """Returns whether a sample has enough draws; see `comparison.LEAST_DRAWS`."""
    return sample.replicates is not None and sample.replicates.shape[1] >= LEAST_DRAWS
