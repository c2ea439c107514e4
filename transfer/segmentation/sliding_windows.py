"""Scores of a large image from overlapping windows, as in mmseg's slide_inference.

Windows follow each other at a fixed stride; the last one of a row or a column is moved back to end
with the image. A pixel's score is the mean over the windows that cover it.

Legend: K classes; h, w pixels of the image.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Returns where windows begin on an axis of `length` pixels; one window if it covers them."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def mean_over_windows(
    images: Tensor, scores_of: Callable[[Tensor], Tensor], window: int, stride: int
) -> Tensor:
    """Maps an image (1, 3, h, w) to scores (1, K, h, w).

    Args:
        scores_of: maps (1, 3, y, x) to scores (1, K, y, x) of a window, y and x at most `window`.
    """
    height, width = images.shape[-2:]
    total = count = None
    for top in window_starts(height, window, stride):
        for left in window_starts(width, window, stride):
            rows, columns = slice(top, top + window), slice(left, left + window)
            found = scores_of(images[..., rows, columns])
            if total is None or count is None:
                total = found.new_zeros(1, found.shape[1], height, width)
                count = found.new_zeros(1, 1, height, width)
            total[..., rows, columns] += found
            count[..., rows, columns] += 1
    assert total is not None and count is not None, "an image has at least one window"
    return total / count
