"""Letters of groups against a search over all sets of rows."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from transfer.results.letters import MOST_GROUPS, MOST_ROWS, letter_groups


def _slow(beats: np.ndarray) -> set[frozenset[int]]:
    """All largest sets of rows of which no two are resolved."""
    apart, count = beats | beats.T, len(beats)
    sets = [
        frozenset(rows)
        for size in range(1, count + 1)
        for rows in combinations(range(count), size)
        if not any(apart[a, b] for a, b in combinations(rows, 2))
    ]
    return {one for one in sets if not any(one < other for other in sets)}


@pytest.mark.parametrize("seed", range(30))
def test_letters_are_the_largest_sets(seed: int) -> None:
    draws = np.random.default_rng(seed)
    count = int(draws.integers(2, 8))
    means = draws.permutation(count).astype(float)
    beats = (means[:, None] > means) & (draws.random((count, count)) < draws.random())
    letters = letter_groups(beats, means)
    found = {
        frozenset(row for row in range(count) if letter in letters[row])
        for letter in set("".join(letters))
    }
    assert found == _slow(beats)
    assert "a" in letters[int(means.argmax())]  # the best row is in the first group


def test_no_difference_and_too_many_groups() -> None:
    assert letter_groups(np.zeros((3, 3), bool), [1.0, 1.0, 1.0]) == ["a", "a", "a"]
    count = 2 * int(np.log2(MOST_GROUPS) + 2)
    beats = np.zeros((count, count), bool)
    for row in range(0, count, 2):  # independent pairs double the number of groups
        beats[row, row + 1] = True
    assert letter_groups(beats, list(range(count))) == [""] * count
    count = MOST_ROWS + 1
    assert letter_groups(np.zeros((count, count), bool), [0.0] * count) == [""] * count
