"""Which views a loss compares: the branch of each view in, pairs or directions of views out.

Branches are 0 (A) and 1 (B); views of other branches are not in any pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Pairs = list[tuple[int, int]]
Pairing = Callable[[Sequence[int]], Pairs]


def cross_pairs(branches: Sequence[int]) -> Pairs:
    """Returns each view of branch A with each view of branch B (the paper's "asymmetric pairs")."""
    first = [view for view, branch in enumerate(branches) if branch == 0]
    second = [view for view, branch in enumerate(branches) if branch == 1]
    return [(a, b) for a in first for b in second]


def all_pairs(branches: Sequence[int]) -> Pairs:
    """Returns every pair of two views, of the same or of different branches."""
    views = [view for view, branch in enumerate(branches) if branch in (0, 1)]
    return [(a, b) for a in views for b in views if a < b]


PAIRINGS: dict[str, Pairing] = {"cross": cross_pairs, "all": all_pairs}


def pairs_of(pairing: Pairing, branches: Sequence[int]) -> Pairs:
    """Returns the pairs of these branches. Raises ValueError when there are none."""
    pairs = pairing(branches)
    if not pairs:
        raise ValueError(f"there is no pair of views among branches {list(branches)}")
    return pairs


def both_directions(pairs: Pairs) -> Pairs:
    """Returns (online view, target view) for each pair in both orders: the symmetric losses."""
    return [direction for a, b in pairs for direction in ((a, b), (b, a))]


def one_direction(pairs: Pairs, branches: Sequence[int], online: int) -> Pairs:
    """Returns (online view, target view) for each pair: the view of branch `online` is the online
    one.

    Two views of one branch keep their order.
    """
    return [(b, a) if branches[a] != branches[b] == online else (a, b) for a, b in pairs]


def views_in(directions: Pairs, side: int) -> list[int]:
    """Returns the views on one side (0 or 1) of the directions, each once, in order of their
    number.
    """
    return sorted({direction[side] for direction in directions})
