"""The leaderboard as tables of text, and as leaderboard.md, .tex and .csv."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from transfer.report.csv_and_latex import below_each_other, narrow_tables, no_formula
from transfer.report.leaderboard.board import DRAWS, SEED, Leaderboard, TaskRanks
from transfer.report.leaderboard.correlations import LEAST_ROWS, Correlation
from transfer.report.leaderboard.wide import WideTable, to_latex, to_markdown
from transfer.report.markdown_and_terminal import (
    Table,
    aligned,
    describe_protocol,
    escape_markdown,
    markdown_table,
)
from transfer.report.numbers_as_text import BEST, costs, format_seconds, some_of
from transfer.report.rows_columns_cells import Checkpoint
from transfer.results.letters import MOST_ROWS as MOST_LETTERED

MOST_ROWS = 32  # most checkpoints that are compared with each other
CSV_FIELDS = (
    "checkpoint,task,protocol,metric,mean,place_low,place_high,letters,mean_rank,rank_low,"
    "rank_high,place,here_low,here_high,alike_low,alike_high,first,mean_z"
).split(",")


def words_on_ranks(board: Leaderboard) -> str:
    """Returns the text that explains the overall table."""
    names = some_of([task.label for task in board.ranked_on])
    return (
        f"Mean rank over {len(board.ranked_on)} tasks that all ranked checkpoints have ({names}). "
        f"Intervals are the central 95 % of {DRAWS} bootstrap draws (seed {SEED}): 'these tasks' "
        "draws trials and test images at random, 'tasks like these' also tasks, with replacement. "
        "First: the share of the latter draws in which the checkpoint is ranked first. "
        "z: the distance from the mean of these checkpoints in their standard deviations, averaged "
        "over the tasks; it depends on which checkpoints are compared"
    )


WORDS_ON_GROUPS = (
    "Means in percent. Two checkpoints of a task share a letter if their difference is not "
    f"resolved, and only then (the rule of {BEST} in the report: Holm over all pairs). Place: the "
    "range that the resolved differences allow; with too few trials, all places are possible. "
    f"Tasks of more than {MOST_LETTERED} checkpoints have no letters"
)
WORDS_ON_WINS = (
    "On how many of the tasks that both have, the checkpoint of the line is higher than that of "
    "the column; in brackets: differences that are resolved. At most the first "
    f"{MOST_ROWS} checkpoints"
)
WORDS_ON_CORRELATIONS = (
    "Rank correlation of two tasks over the checkpoints that have both (at least "
    f"{LEAST_ROWS}): Spearman's rho and Kendall's tau-b, with the central 95 % of bootstrap draws "
    "of the checkpoints, trials and test images. Few checkpoints give wide intervals"
)
WORDS_ON_WIDE = (
    "Mean ± sample standard deviation; bold: the highest mean of the column; "
    f"{BEST}: no other row of the column is significantly better"
)


def overall_rows(board: Leaderboard) -> Table:
    """Returns place, rank with intervals, z-score, wins and costs of each ranked checkpoint."""
    header = ["place", "checkpoint", "mean rank", "95 % interval", "place on these tasks"]
    header += ["place on tasks like these", "first", "mean z", "wins : losses", "resolved"]
    header += ["pretrain", "GPU time", "views", "transfer"]
    lines = []
    for one in board.overall:
        seconds, gpu, views = costs(one.row)
        transfer = format_seconds(board.results.transfer_seconds(one.row))
        lines.append(
            [
                f"{one.place:g}",
                one.row.label,
                f"{one.rank:.2f}",
                f"[{one.rank_interval[0]:.1f}, {one.rank_interval[1]:.1f}]",
                format_places(*one.here),
                format_places(*one.alike),
                f"{100 * one.first:.0f} %",
                f"{one.z:+.2f}",
                *_sums(board, one.row),
                seconds,
                gpu,
                views,
                transfer,
            ]
        )
    return header, lines


def group_rows(board: Leaderboard) -> Table:
    """Returns a line per checkpoint and a column per task: "56.1 ab (1 to 3)"."""
    header = ["checkpoint", *(task.label for task in board.tasks)]
    return header, [
        [row.label, *(format_group(board, row, task) for task in board.tasks)] for row in board.rows
    ]


def format_group(board: Leaderboard, row: Checkpoint, task: TaskRanks) -> str:
    """Returns "56.1 ab (1 to 3)"; "–" if the row was not run on the task."""
    number = board.places.get((task.label, row.label))
    if number is None:
        return "–"
    places = format_places(*task.places()[number])
    return f"{task.means[number]:.1f} {task.letters[number]} ({places})"


def win_rows(board: Leaderboard) -> Table:
    """Returns the first checkpoints against each other: "5 (3) of 6"."""
    rows, wins = board.rows[:MOST_ROWS], board.wins
    header = ["higher than", *(row.label for row in rows)]

    def cell(one: int, two: int) -> str:
        if one == two:
            return ""
        tasks, higher = wins.tasks[one, two], wins.higher[one, two]
        return f"{higher} ({wins.resolved[one, two]}) of {tasks}" if tasks else "–"

    places = range(len(rows))
    return header, [[rows[one].label, *(cell(one, two) for two in places)] for one in places]


def correlation_rows(found: Sequence[Correlation]) -> Table:
    """Returns a line for each pair of tasks."""
    header = ["task", "task", "checkpoints", "Spearman", "95 % interval"]
    header += ["Kendall", "95 % interval"]
    return header, [
        [
            one.one.label,
            one.two.label,
            str(one.rows),
            _signed(one.rho),
            _ends(one.rho_interval),
            _signed(one.tau),
            _ends(one.tau_interval),
        ]
        for one in found
    ]


def to_terminal(board: Leaderboard) -> str:
    """Returns the overall table and the groups of each task."""
    parts = []
    if board.overall:
        header, lines = overall_rows(board)
        parts.append("leaderboard\n" + aligned(header[:8], [line[:8] for line in lines]))
    for task in board.tasks:
        shown = [
            [row.label, f"{mean:.1f}", letters, format_places(*places)]
            for row, mean, letters, places in zip(
                task.rows, task.means, task.letters, task.places()
            )
        ]
        header = ["", task.metric, "group", "place"]
        parts.append(f"{task.protocol.label}\n{aligned(header, shown, left=1)}")
    parts.append("\n".join(f"note: {note}" for note in board.notes))
    return "\n\n".join(filter(None, parts))


def leaderboard_markdown(
    board: Leaderboard, found: Sequence[Correlation], wide: WideTable, title: str
) -> str:
    """Returns leaderboard.md."""
    parts = [f"# {escape_markdown(title)}: leaderboard"]
    if board.overall:
        parts += ["## Overall", escape_markdown(words_on_ranks(board)) + "."]
        parts.append(markdown_table(*overall_rows(board)))
    parts += [
        "## By task",
        escape_markdown(WORDS_ON_GROUPS) + ".",
        markdown_table(*group_rows(board)),
    ]
    parts += ["## Wins", WORDS_ON_WINS + ".", markdown_table(*win_rows(board))]
    if found:
        parts += ["## Does one task predict another?", WORDS_ON_CORRELATIONS + "."]
        parts.append(markdown_table(*correlation_rows(found)))
    parts += ["## Table for a paper", WORDS_ON_WIDE + ".", to_markdown(wide)]
    if board.notes:
        parts += ["## Notes", "\n".join(f"- {escape_markdown(note)}" for note in board.notes)]
    return "\n\n".join(parts) + "\n"


def leaderboard_latex(board: Leaderboard, found: Sequence[Correlation], wide: WideTable) -> str:
    """Returns leaderboard.tex: the wide table first, then the others."""
    parts = ["% needs \\usepackage{booktabs}", _comment(WORDS_ON_WIDE)]
    parts += [
        _comment(f"{protocol.short}: {describe_protocol(protocol)}") for protocol, _ in wide.groups
    ]
    parts += to_latex(wide)
    if board.overall:
        parts += [_comment(words_on_ranks(board)), *narrow_tables(overall_rows(board), 2)]
    parts += [_comment(WORDS_ON_GROUPS), *narrow_tables(_turned(group_rows(board)), 1)]
    parts += [_comment(WORDS_ON_WINS), *narrow_tables(win_rows(board), 1)]
    if found:
        parts += [_comment(WORDS_ON_CORRELATIONS), *narrow_tables(correlation_rows(found), 2)]
    parts += [_comment(f"note: {note}") for note in board.notes]
    return below_each_other(parts)


def leaderboard_csv(board: Leaderboard) -> str:
    """Returns lines of each checkpoint and task, then of each checkpoint overall, in all digits."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, CSV_FIELDS, lineterminator="\n", restval="")
    writer.writeheader()

    def write(line: dict[str, object]) -> None:
        writer.writerow({name: no_formula(value) for name, value in line.items()})

    for task in board.tasks:
        for number, (row, places) in enumerate(zip(task.rows, task.places())):
            write(
                {
                    "checkpoint": row.label,
                    "task": task.protocol.task,
                    "protocol": task.protocol.label,
                    "metric": task.metric,
                    "mean": repr(task.means[number]),
                    "place_low": places[0],
                    "place_high": places[1],
                    "letters": task.letters[number],
                }
            )
    for one in board.overall:
        line: dict[str, object] = {"checkpoint": one.row.label, "task": "overall"}
        line |= {"mean_rank": one.rank, "place": one.place, "first": one.first, "mean_z": one.z}
        for name, ends in (("rank", one.rank_interval), ("here", one.here), ("alike", one.alike)):
            line |= {f"{name}_low": ends[0], f"{name}_high": ends[1]}
        write(line)
    return stream.getvalue()


def format_places(low: float, high: float) -> str:
    """Returns "2", or "1 to 3"; a shared place counts as both."""
    first, last = math.floor(low), math.ceil(high)
    return f"{first}" if first == last else f"{first} to {last}"


def _sums(board: Leaderboard, row: Checkpoint) -> tuple[str, str]:
    """Returns wins and losses against all other checkpoints, all of them and the resolved ones."""
    number = board.rows.index(row)
    plain, resolved = (
        f"{found[number].sum()} : {found[:, number].sum()}"
        for found in (board.wins.higher, board.wins.resolved)
    )
    return plain, resolved


def _signed(value: float) -> str:
    return f"{value:+.2f}" if math.isfinite(value) else "–"


def _ends(ends: tuple[float, float]) -> str:
    return f"[{ends[0]:+.2f}, {ends[1]:+.2f}]" if math.isfinite(ends[0]) else "–"


def _turned(table: Table) -> Table:
    """Returns the table with a line for each column: tasks have long names, checkpoints short."""
    header, rows = table
    lines = [list(line) for line in zip(header, *rows)]
    return ["task", *lines[0][1:]], lines[1:]


def _comment(text: str) -> str:
    return "% " + " ".join(text.replace("★", "star").replace("±", "+-").split())
