"""Packed coordinates return exactly the floats that were packed."""

from __future__ import annotations

import numpy as np
import pytest

from transfer.datasets.coordinates import Coordinates, packed

TWO_DECIMALS = [float(f"{n // 100}.{n % 100:02}") for n in range(0, 70_000, 7)] + [-0.01, -12.34]


@pytest.mark.parametrize(
    ("odd", "dtype"), [([], np.int32), ([0.125], np.float64), ([1e9], np.float64)]
)
def test_the_same_floats_come_back(odd: list[float], dtype: type) -> None:
    values = TWO_DECIMALS + odd
    piece = packed(np.array(values))
    assert piece.dtype == dtype
    found = Coordinates([packed(np.array(TWO_DECIMALS)), piece])
    assert len(found) == len(values) + len(TWO_DECIMALS)
    assert found.part(len(TWO_DECIMALS), len(found)) == values
    assert found.part(3, 5) == TWO_DECIMALS[3:5]
    more = found.followed_by([1.5, 0.1 + 0.2])
    assert more.part(len(found), len(found) + 2) == [1.5, 0.1 + 0.2]
    assert more.part(0, len(TWO_DECIMALS)) == TWO_DECIMALS


@pytest.mark.parametrize("third", [0.25, 1 / 3])
def test_beyond(third: float) -> None:
    found = Coordinates([packed(np.array([1.0, -700.0, third, 500.0]))])
    assert found.beyond(500.0).tolist() == [1, 3]
    assert found.beyond(701.0).tolist() == []
    assert Coordinates([]).beyond(1.0).tolist() == [] and len(Coordinates([])) == 0
