"""Groups of rows that no test tells apart, as letters: the compact letter display.

Two rows share a letter exactly if their difference is not resolved. The groups are the largest sets
of rows of which no two are resolved; the first letter is that of the best rows. They are found by
inserting the resolved pairs one by one and absorbing groups that are parts of others (H.-P. Piepho,
Journal of Computational and Graphical Statistics 13(2), 2004).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LETTERS = "abcdefghijklmnopqrstuvwxyz"
MOST_ROWS = 100
MOST_GROUPS = 200  # their number may double with each pair


def letter_groups(beats: np.ndarray, means: Sequence[float]) -> list[str]:
    """Returns the letters of each row, such as "ab"; "" for all if there are too many to read.

    Args:
        beats: bool (k, k), whether row i is significantly higher than row j.
        means: means of the k rows, for the order of the letters.
    """
    if len(means) > MOST_ROWS:
        return [""] * len(means)
    groups = {frozenset(range(len(means)))}
    for one, two in zip(*np.nonzero(beats)):
        both = {group for group in groups if one in group and two in group}
        groups -= both
        for part in {group - {out} for group in both for out in (one, two)}:
            if not any(part <= group for group in groups):
                groups = {group for group in groups if not group < part} | {part}
        if len(groups) > MOST_GROUPS:
            return [""] * len(means)
    order = sorted(groups, key=lambda g: sorted((-means[row] for row in g)))
    names = [_name(place) for place in range(len(order))]
    return [
        "".join(name for name, group in zip(names, order) if row in group)
        for row in range(len(means))
    ]


def _name(place: int) -> str:
    """Returns a, b, ..., z, a1, b1, ..."""
    turn, letter = divmod(place, len(LETTERS))
    return LETTERS[letter] + (str(turn) if turn else "")
