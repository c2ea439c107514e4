"""Draws each row's seeds as dots, with their mean; the same rows give the same file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def make_figure(salt: str, panels: int, size: tuple[float, float]) -> tuple[Any, Sequence[Any]]:
    """Returns a figure and its panels, side by side, which have the same rows.

    Args:
        salt: seed of the names inside the SVG, which are random otherwise.
        size: width and height in inches.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = salt
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, panels, sharey=True, figsize=size, squeeze=False)
    return figure, axes[0]


def plot_seeds(axis: Any, rows: Sequence[Sequence[float]], title: str) -> None:
    """Draws each row's values, the first row at the bottom."""
    for place, points in enumerate(rows):
        axis.plot(points, [place] * len(points), "o", color="tab:blue", alpha=0.5, ms=4)
        axis.plot([sum(points) / len(points)], [place], "|", color="tab:blue", ms=14, mew=2)
    finish(axis, title)


def finish(axis: Any, title: str) -> None:
    """Adds the title and the vertical lines of a panel."""
    axis.set_title(title, fontsize=9)
    axis.grid(axis="x", alpha=0.3)


def save(figure: Any, path: Path) -> None:
    """Writes the file, without the date."""
    import matplotlib.pyplot as plt

    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
