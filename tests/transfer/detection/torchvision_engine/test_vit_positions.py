"""Windows and positions against loops over single tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from transfer.detection.torchvision_engine.vit_positions import (
    absolute_positions,
    add_relative_positions,
    from_windows,
    relative_table,
    to_windows,
)


@pytest.mark.parametrize(("height", "width", "side"), [(8, 4, 4), (5, 7, 3), (2, 3, 4), (6, 6, 6)])
def test_windows(height: int, width: int, side: int) -> None:
    tokens = torch.randn(2, height, width, 5)
    windows = to_windows(tokens, side)
    rows, columns = math.ceil(height / side), math.ceil(width / side)
    assert windows.shape == (2 * rows * columns, side, side, 5)
    expected = torch.zeros_like(windows)
    for image in range(2):
        for y in range(height):
            for x in range(width):
                number = image * rows * columns + (y // side) * columns + x // side
                expected[number, y % side, x % side] = tokens[image, y, x]
    assert torch.equal(windows, expected)
    assert torch.equal(from_windows(windows, height, width), tokens)


def keys_cubic(distance: float) -> float:
    """The kernel of bicubic resampling, with torch's a = -0.75."""
    a, t = -0.75, abs(distance)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def resampling(size: int, new_size: int) -> np.ndarray:
    """(new_size, size): rows of weights, edges repeated."""
    matrix = np.zeros((new_size, size))
    for new in range(new_size):
        centre = (new + 0.5) * size / new_size - 0.5
        for place in range(math.floor(centre) - 1, math.floor(centre) + 3):
            matrix[new, min(max(place, 0), size - 1)] += keys_cubic(centre - place)
    return matrix


@pytest.mark.parametrize(("height", "width"), [(7, 5), (4, 4), (2, 9), (3, 3)])
def test_absolute_positions(height: int, width: int) -> None:
    table = torch.randn(1, 1 + 16, 6)
    grid = table[0, 1:].numpy().reshape(4, 4, 6)
    rows, columns = resampling(4, height), resampling(4, width)
    expected = np.einsum("yr,xc,rcd->yxd", rows, columns, grid)
    found = absolute_positions(table, height, width)
    assert found.shape == (1, height, width, 6)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-5)
    if (height, width) == (4, 4):
        assert torch.equal(found, table[:, 1:].view(1, 4, 4, 6)), "the same grid is left alone"


def test_relative_table_of_its_own_grid() -> None:
    table = torch.randn(9, 2)  # distances -4 .. 4
    found = relative_table(table, 5)
    for query in range(5):
        for key in range(5):
            assert torch.equal(found[query, key], table[query - key + 4])


@pytest.mark.parametrize("side", [3, 8])
def test_relative_table_of_another_grid(side: int) -> None:
    table = torch.randn(9, 2)
    found = relative_table(table, side)
    for query in range(side):
        for key in range(side):
            # Linear, at the centres of 2 * side - 1 cells over nine, edges repeated.
            place = (query - key + side - 1 + 0.5) * 9 / (2 * side - 1) - 0.5
            place = min(max(place, 0.0), 8.0)
            low = min(int(place), 7)
            expected = table[low] + (place - low) * (table[low + 1] - table[low])
            torch.testing.assert_close(found[query, key], expected)


def test_scores_with_relative_positions() -> None:
    height, width, dim = 3, 4, 5
    scores = torch.randn(2, height * width, height * width)
    query = torch.randn(2, height * width, dim)
    rows, columns = torch.randn(2 * height - 1, dim), torch.randn(2 * width - 1, dim)
    expected = scores.clone()

    def place(index: int) -> tuple[int, int]:
        return divmod(index, width)

    for head in range(2):
        for q in range(height * width):
            for k in range(height * width):
                (qy, qx), (ky, kx) = place(q), place(k)
                along = rows[qy - ky + height - 1] + columns[qx - kx + width - 1]
                expected[head, q, k] += query[head, q] @ along
    found: Tensor = add_relative_positions(scores, query, rows, columns, height, width)
    torch.testing.assert_close(found, expected)
