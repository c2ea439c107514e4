"""Ranks of values, and rank correlations of many pairs of rankings at once.

`scipy.stats` has the same numbers, one pair at a time; its module takes a second to import.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from transfer.results.statistics import ROUNDING

MOST_PAIRS = 4_000_000  # pairs of values that are compared at once, 32 MB


def ranks_of(values: np.ndarray | Sequence[Sequence[float]]) -> np.ndarray:
    """Returns the ranks along the last axis, in the values' shape: 1 is the largest value.

    Equal values (up to rounding) share the mean of their places, as in `scipy.stats.rankdata`,
    whose module takes a second to import.
    """
    given = np.asarray(values, np.float64)
    count = given.shape[-1]
    order = np.argsort(-given, axis=-1, kind="stable")
    ordered = np.take_along_axis(given, order, axis=-1)
    places = np.broadcast_to(np.arange(count), given.shape)
    ends = np.ones(given.shape, bool)  # whether the next value is a different one
    ends[..., :-1] = ordered[..., :-1] - ordered[..., 1:] > ROUNDING
    starts = np.ones(given.shape, bool)
    starts[..., 1:] = ends[..., :-1]
    first = np.maximum.accumulate(np.where(starts, places, 0), axis=-1)
    backwards = np.where(ends, places, count)[..., ::-1]
    last = np.minimum.accumulate(backwards, axis=-1)[..., ::-1]
    ranks = np.empty(given.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, axis=-1)
    return ranks


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns Spearman's rho of each row of two arrays (B, n): (B,); NaN if all values are equal.

    It is Pearson's correlation of the ranks (C. Spearman, American Journal of Psychology 15, 1904).
    """
    centred = [ranks_of(values) - (values.shape[-1] + 1) / 2 for values in (first, second)]
    squares = [(ranks**2).sum(-1) for ranks in centred]
    return _share((centred[0] * centred[1]).sum(-1), squares[0] * squares[1])


def kendall(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns Kendall's tau-b of each row of two arrays (B, n): (B,); NaN if all values are equal.

    Pairs in the same order minus pairs in the opposite order, over the geometric mean of the
    numbers of pairs without a tie (M. Kendall, Biometrika 33(3), 1945).
    """
    found = np.empty(len(first))
    step = max(1, MOST_PAIRS // max(1, first.shape[1] ** 2))
    for start in range(0, len(first), step):
        part = slice(start, start + step)
        one, two = (_signs(values[part]) for values in (first, second))
        untied = (one != 0).sum((-1, -2)) * (two != 0).sum((-1, -2))
        found[part] = _share((one * two).sum((-1, -2)), untied)
    return found


def _signs(values: np.ndarray) -> np.ndarray:
    """Returns int64 (B, n, n): 1, 0 or -1 for each pair; equal up to rounding is 0."""
    apart = values[:, :, None] - values[:, None, :]
    return (apart > ROUNDING).astype(np.int64) - (apart < -ROUNDING)


def _share(product: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Returns product / sqrt(squares); NaN if a ranking has only one value."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = product / np.sqrt(squares)
    return np.where(squares > 0, found, np.nan)
