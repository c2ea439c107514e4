"""Box regression: what leads from one box to another as deltas (dx, dy, dw, dh), and back.

n boxes, K classes. Boxes XYXY, no +1 anywhere.
Specification: detectron2 `modeling/box_regression.py` (Girshick et al. 2014).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# The largest dw, dh that decoding takes: a box of 16 pixels grown to 1000. Stops exp's overflow.
LARGEST_LOG_SCALE = math.log(1000.0 / 16)


class BoxCoder:
    """Deltas scaled by four weights (x, y, w, h), so that targets have about unit variance."""

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = tuple(weights)

    def encode(self, sources: Tensor, targets: Tensor) -> Tensor:
        """Returns the deltas (n, 4) that turn boxes `sources` (n, 4) into `targets` (n, 4)."""
        wx, wy, ww, wh = self.weights
        x, y, width, height = _centre_form(sources)
        target_x, target_y, target_width, target_height = _centre_form(targets)
        return torch.stack(
            (
                wx * (target_x - x) / width,
                wy * (target_y - y) / height,
                ww * torch.log(target_width / width),
                wh * torch.log(target_height / height),
            ),
            dim=1,
        )

    def decode(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Returns the boxes (n, 4 * K), float32, that deltas (n, 4 * K) make of boxes (n, 4)."""
        deltas = deltas.float()  # half precision would move the corners of a large box by pixels
        x, y, width, height = (part[:, None] for part in _centre_form(boxes.to(deltas.dtype)))
        wx, wy, ww, wh = self.weights
        dx, dy = deltas[:, 0::4] / wx, deltas[:, 1::4] / wy
        dw = (deltas[:, 2::4] / ww).clamp(max=LARGEST_LOG_SCALE)
        dh = (deltas[:, 3::4] / wh).clamp(max=LARGEST_LOG_SCALE)
        new_x, new_y = dx * width + x, dy * height + y
        half_width, half_height = 0.5 * (dw.exp() * width), 0.5 * (dh.exp() * height)
        corners = (
            new_x - half_width,
            new_y - half_height,
            new_x + half_width,
            new_y + half_height,
        )
        return torch.stack(corners, dim=-1).reshape(deltas.shape)


def _centre_form(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns centre x, centre y, width and height, each (n,), of boxes (n, 4) XYXY."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    return boxes[:, 0] + 0.5 * width, boxes[:, 1] + 0.5 * height, width, height
