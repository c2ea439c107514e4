"""The frame of charts that have one row per name: a scale above the rows, and its vertical grid."""

from __future__ import annotations

from dataclasses import dataclass

from transfer.report.figures.axes import WIDTH, Axis
from transfer.report.figures.svg import number, open_svg, text

TOP, BOTTOM = 24, 8


@dataclass(frozen=True)
class RowFrame:
    """Has `count` rows, each `row` pixels high, with `left` and `right` pixels beside the scale."""

    scale: Axis
    left: float
    right: float
    row: float
    count: int

    def place(self, value: float) -> float:
        """Converts a value to pixels from the left."""
        return self.left + self.scale.part(value) * (WIDTH - self.left - self.right)

    def middle(self, index: int) -> float:
        """Returns the middle of a row, in pixels from the top."""
        return TOP + index * self.row + self.row / 2

    def draw(self, title: str) -> str:
        """Opens the figure, and draws the scale's numbers and the grid below them."""
        height = TOP + self.row * self.count + BOTTOM
        parts = [open_svg(WIDTH, height, title)]
        for tick in self.scale.ticks:
            x = self.place(tick)
            parts.append(f'<path class="grid" d="M{x:.1f} {TOP - 6}V{height - 6}"/>')
            parts.append(text(x, 12, number(tick), "middle"))
        return "".join(parts)
