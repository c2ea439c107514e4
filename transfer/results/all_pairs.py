"""The samples of one column against each other: which pairs differ, by Holm's method.

A column of 500 rows has 124,750 pairs. `Column` therefore keeps the differences of one sample to
many as arrays, and Holm's method asks each pair only whether its p value is below a level: one
quantile per number of degrees of freedom answers that for all pairs at once. The numbers are those
of `comparison.compare`, pair by pair, up to the rounding of floats.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from transfer.results.comparison import LEAST_DRAWS, Sample, difference, orders_by_seed
from transfer.results.statistics import CONFIDENCE, ROUNDING, Estimate, Source

_SOURCES = 2  # trials and images


@dataclass(frozen=True)
class Differences:
    """m differences in percent points, with the sources of chance of each.

    values: (m,). variances, df: (m, 2); a variance of 0 is a source that is not there.
    """

    values: np.ndarray
    variances: np.ndarray
    df: np.ndarray

    @staticmethod
    def joined(parts: Sequence[Differences]) -> Differences:
        """All of them, one after the other."""
        columns = zip(*((part.values, part.variances, part.df) for part in parts))
        return Differences(*(np.concatenate(column) for column in columns))

    @staticmethod
    def of(estimates: Sequence[Estimate]) -> Differences:
        """Those of estimates that were made one by one."""
        empty = Source(0.0, 1.0)
        padded = [(*found.sources, empty, empty)[:_SOURCES] for found in estimates]
        return Differences(
            np.array([found.value for found in estimates], np.float64),
            np.array([[s.variance for s in pair] for pair in padded]).reshape(-1, _SOURCES),
            np.array([[s.df for s in pair] for pair in padded]).reshape(-1, _SOURCES),
        )

    def taken(self, places: np.ndarray) -> Differences:
        """Those at some places."""
        return Differences(self.values[places], self.variances[places], self.df[places])

    def resolved(self) -> np.ndarray:
        """bool (m,): the differences that Holm's method calls different from 0, all m tested.

        It goes on from the smallest p value to the next as long as p is below alpha / (m - k), k
        being the number before. As many as are below a level may all go before the next level.
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
    """Samples of one protocol and metric; those of the same seeds and draws are stacked.

    certain: see `comparison.compare`.
    """

    def __init__(self, samples: Sequence[Sample], certain: bool = False) -> None:
        self.samples = samples
        self._certain = certain
        rows: dict[object, list[int]] = defaultdict(list)
        for index, sample in enumerate(samples):
            rows[_alike(sample) or index].append(index)
        self._stacks = [_stack([samples[i] for i in found]) for found in rows.values()]
        self._stack_of, self._place = np.zeros((2, len(samples)), np.int64)
        for number, found in enumerate(rows.values()):
            self._stack_of[found], self._place[found] = number, range(len(found))

    def against(self, index: int, others: Sequence[int] | np.ndarray) -> Differences:
        """The sample `index` minus each of `others`, in their order."""
        others = np.asarray(others, np.int64)
        first, stack = self.samples[index], self._stacks[self._stack_of[index]]
        stacked = self._stack_of[others] == self._stack_of[index]
        if stack is None:
            stacked[:] = False
        alone = [self.samples[other] for other in others[~stacked]]
        found = Differences.of([difference(first, o, self._certain)[0] for o in alone])
        if stack is None or not stacked.any():
            return found
        together = stack.against(int(self._place[index]), self._place[others[stacked]])
        # The two parts, back in the order that was asked for
        order = np.argsort(np.argsort(stacked, kind="stable"))
        return Differences.joined([found, together]).taken(order)


class _Stack:
    """k samples of the same n seeds and the same B draws: values (k, n), drawn (k, n, B)."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        orders = [orders_by_seed(sample) for sample in samples]
        self.values = np.stack([np.asarray(s.values)[o] for s, o in zip(samples, orders)])
        self.drawn: np.ndarray | None = None
        if all(_has_draws(sample) for sample in samples):
            drawn = [s.replicates[o] for s, o in zip(samples, orders) if s.replicates is not None]
            self.drawn = np.stack(drawn)
        self.images = samples[0].images

    def against(self, place: int, others: np.ndarray) -> Differences:
        """As `statistics.estimate` of the differences, trial by trial and draw by draw."""
        apart = self.values[place] - self.values[others]
        count = apart.shape[1]
        spread = apart.std(axis=1, ddof=1)
        trials = np.where(spread > ROUNDING, spread**2 / count, 0.0)
        images, known = np.zeros_like(trials), 1.0
        if self.drawn is not None:
            images = self._images(self.drawn[place] - self.drawn[others])
            known = min(self.drawn.shape[2], self.images or self.drawn.shape[2]) - 1.0
        df = np.broadcast_to([count - 1.0, known], (len(others), _SOURCES))
        return Differences(apart.mean(axis=1), np.stack([trials, images], axis=1), df)

    def _images(self, apart: np.ndarray) -> np.ndarray:
        """The variance by the images, of differences (m, n, B)."""
        together = apart.mean(axis=1).var(axis=1, ddof=1)
        each = apart.var(axis=2, ddof=1).mean(axis=1)
        contained = np.maximum(0.0, each - together) / (apart.shape[1] - 1)
        few = self.images / (self.images - 1) if self.images else 1.0
        variance = np.maximum(together - contained, 0.0) * few
        return np.where(together > ROUNDING**2, variance, 0.0)


def _stack(samples: Sequence[Sample]) -> _Stack | None:
    """None for a sample alone, which may be of one trial."""
    return _Stack(samples) if len(samples) > 1 else None


def best_of(samples: Sequence[Sample], least_trials: int = 1, certain: bool = False) -> list[bool]:
    """Which samples no other is resolved above, over all pairs of a column, by Holm's method.

    The highest mean was chosen after a look at all, hence all pairs and not only its own. None
    where no pair is resolved, and never a sample of fewer trials than `least_trials`: it takes no
    part, so that nothing is known of it.
    """
    tested = [i for i, sample in enumerate(samples) if len(sample.values) >= least_trials]
    if len(tested) < 2:
        return [False] * len(samples)  # no pair
    column = Column(samples, certain)
    found = Differences.joined([column.against(i, tested[:n]) for n, i in enumerate(tested)][1:])
    first = np.repeat(tested, range(len(tested)))
    second = np.concatenate([tested[:n] for n in range(1, len(tested))])
    lower = np.where(found.values > 0, second, first)
    below = set(lower[found.resolved()].tolist())
    best = set(tested) - below if below else set()
    return [i in best for i in range(len(samples))]


def _alike(sample: Sample) -> tuple[object, ...] | None:
    """What samples share that are compared by their stack; None for one that is compared alone."""
    seeds = sorted(map(str, sample.seeds))
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        return None
    if sample.replicates is None or not _has_draws(sample):
        return (tuple(seeds),)
    return (tuple(seeds), sample.draws, sample.replicates.shape[1], sample.images)


def _has_draws(sample: Sample) -> bool:
    """Whether its draws are enough to be compared; see `comparison.LEAST_DRAWS`."""
    return sample.replicates is not None and sample.replicates.shape[1] >= LEAST_DRAWS
