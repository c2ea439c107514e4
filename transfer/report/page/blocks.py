"""The main table in blocks, so that each fits on a screen of 1280 px without scrolling sideways.

If all columns fit, there is one block. If not, classification has its own, and so have detection
and segmentation; a group with too many columns is split between protocols. The rows of all blocks
are in the same order, and the page sorts them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transfer.report.configs import DETECTION_TASKS
from transfer.report.rows_columns_cells import Protocol, Results

MOST_COLUMNS = 11  # each has at least 78 px, next to a name of 220 px
MOST_ON_ONE_LINE = 6  # columns in which value, deviation and n fit on one line
COSTS = ("pretrain", "views", "transfer")
COSTS_ON_GPU = ("pretrain", "GPU time", "views", "transfer")

Column = tuple[Protocol, str]


@dataclass(frozen=True)
class Block:
    """Holds some columns: whole protocols with their headline metrics, then the costs or ()."""

    columns: list[Column]
    costs: tuple[str, ...] = ()

    @property
    def groups(self) -> list[tuple[Protocol, int]]:
        """Returns each protocol once, with its number of columns, for the upper header row."""
        return grouped(self.columns)

    @property
    def width(self) -> int:
        """Returns the number of columns without that of the names."""
        return len(self.columns) + len(self.costs)

    @property
    def stacked(self) -> bool:
        """Returns whether the parts of a cell are below each other."""
        return self.width > MOST_ON_ONE_LINE

    @property
    def tasks(self) -> str:
        """Returns the block's tasks, for its caption."""
        return ", ".join(dict.fromkeys(protocol.task for protocol, _ in self.columns))


def grouped(columns: Sequence[Column]) -> list[tuple[Protocol, int]]:
    """Returns each protocol once with its number of columns; a protocol's columns are together."""
    groups: list[tuple[Protocol, int]] = []
    for protocol, _ in columns:
        if groups and groups[-1][0].key == protocol.key:
            groups[-1] = (protocol, groups[-1][1] + 1)
        else:
            groups.append((protocol, 1))
    return groups


def column_blocks(results: Results) -> list[Block]:
    """Returns the headline columns, then the costs; the first block also has ranks."""
    gpu = any(row.gpu_seconds for row in results.checkpoints)
    costs = COSTS_ON_GPU if gpu else COSTS
    columns, first = results.headlines(), MOST_COLUMNS - bool(results.mean_ranks)
    if len(columns) + len(costs) <= first:
        return [Block(columns, costs)]
    images = [column for column in columns if column[0].task not in DETECTION_TASKS]
    boxes = [column for column in columns if column[0].task in DETECTION_TASKS]
    blocks = [Block(part) for members in (images, boxes) for part in split_columns(members, first)]
    if blocks[-1].width + len(costs) <= MOST_COLUMNS:
        return [*blocks[:-1], Block(blocks[-1].columns, costs)]
    return [*blocks, Block([], costs)]


def split_columns(columns: Sequence[Column], most: int) -> list[list[Column]]:
    """Returns parts of about equal numbers of columns, at most `most`; no protocol is divided."""
    groups = [
        [column for column in columns if column[0].key == key]
        for key in dict.fromkeys(protocol.key for protocol, _ in columns)
    ]
    aim = len(columns) / max(1, -(-len(columns) // most))
    parts: list[list[Column]] = []
    for group in groups:
        full = parts and (len(parts[-1]) >= aim or len(parts[-1]) + len(group) > most)
        if not parts or full:
            parts.append([])
        parts[-1] += group
    return parts
