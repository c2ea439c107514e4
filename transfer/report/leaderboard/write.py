"""All files of the leaderboard as texts."""

from __future__ import annotations

from dataclasses import dataclass

from transfer.report.leaderboard.board import make_leaderboard
from transfer.report.leaderboard.correlations import correlations
from transfer.report.leaderboard.page import render_leaderboard
from transfer.report.leaderboard.texts import (
    leaderboard_csv,
    leaderboard_latex,
    leaderboard_markdown,
    to_terminal,
)
from transfer.report.leaderboard.wide import wide_table
from transfer.report.rows_columns_cells import Results


@dataclass(frozen=True)
class LeaderboardTexts:
    """Holds the content of `files` by "html", "md", "csv" and "tex", and what the command prints
    (`terminal`).
    """

    files: dict[str, str]
    terminal: str


def leaderboard_texts(results: Results, title: str) -> LeaderboardTexts:
    """Returns the texts; raises the InputError of `make_leaderboard`."""
    board = make_leaderboard(results)
    found = correlations(board)
    wide = wide_table(results, board.rows)
    files = {
        "html": render_leaderboard(board, found, wide, title),
        "md": leaderboard_markdown(board, found, wide, title),
        "csv": leaderboard_csv(board),
        "tex": leaderboard_latex(board, found, wide),
    }
    return LeaderboardTexts(files, to_terminal(board))
