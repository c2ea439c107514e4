"""The common parts of all commands: parser, exit status, output folder, names of files.

`exit_status.py` decides what a command returns to the shell.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pretrain.common.command_names import as_started
from pretrain.common.errors import InputError
from pretrain.common.exit_status import exit_status
from pretrain.common.locks import FILE_NAME
from pretrain.common.output_path import check_output
from pretrain.common.run_files import CHECKPOINT, CONFIG, RECORD, WEIGHTS_FILE
from pretrain.common.stop_signals import Stopped, end_quietly
from pretrain.common.verbosity import add_verbosity

SUFFIXES = r"(\.(yaml|yml|pth|pt|tar|pkl|safetensors))+$"  # suffixes of configs and weights

Main = Callable[[Sequence[str] | None], int | None]


class Command(Protocol):
    """Is a command: it takes arguments (None: those of the shell) and returns an exit status."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


def make_parser(description: str, example: str, overrides: bool = True) -> argparse.ArgumentParser:
    """Returns a parser whose `--help` ends with a runnable example.

    Args:
        overrides: adds `opts`, the KEY VALUE config overrides, which come last.
    """
    return _with_common(argparse.ArgumentParser(**_style(description, example)), overrides)


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    description: str,
    example: str,
    overrides: bool = False,
) -> argparse.ArgumentParser:
    """Returns the parser of one command among several (`parser.add_subparsers()`); see
    `make_parser`.
    """
    parser = commands.add_parser(name, help=description, **_style(description, example))
    return _with_common(parser, overrides)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Shows the KEY VALUE pairs in the line of usage, where argparse has only "...", and calls the
    commands as the user does.
    """

    def format_help(self) -> str:
        return as_started(super().format_help())

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs == argparse.REMAINDER:
            return "[KEY VALUE ...]"
        return super()._format_args(action, default_metavar)


def _style(description: str, example: str) -> dict[str, Any]:
    return {
        "description": description,
        "epilog": f"example:\n  {example}",
        "formatter_class": _Help,
        "allow_abbrev": False,
    }


def _with_common(parser: argparse.ArgumentParser, overrides: bool) -> argparse.ArgumentParser:
    """Returns the parser with what every command has: --quiet, --verbose, perhaps KEY VALUE
    pairs.
    """
    add_verbosity(parser)
    if overrides:
        parser.add_argument(
            "opts",
            nargs=argparse.REMAINDER,
            metavar="KEY VALUE",
            help="config overrides, after all options",
        )
    return parser


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits the arguments of an option that takes several names: returns the names, and the KEY
    VALUE overrides that followed them without another option in between."""
    for place, word in enumerate(words):
        if re.fullmatch(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*", word):
            return list(words[:place]), list(words[place:])
    return list(words), []


def short_names(paths: Sequence[str | Path]) -> list[str]:
    """Returns a short name for each path: its last part without suffix. If that is ambiguous,
    folders above it are put before it, joined by "-".

    Raises:
        InputError: a path is given twice.
    """
    whole = [os.path.abspath(path) for path in paths]
    for path in paths:
        if whole.count(os.path.abspath(path)) > 1:
            raise InputError(f"{path} is given twice; give it once")
    parts = [re.sub(SUFFIXES, "", path).strip("/").split("/") for path in whole]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["-".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise InputError(
        f"{', '.join(map(str, paths))}: their names differ only by their suffixes; rename one"
    )


def tool(main: Main) -> Command:
    """Wraps main(argv): returns its exit status, and prints an InputError as one line."""

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        before = _own_environment()
        try:
            return exit_status(lambda: main(argv))
        finally:  # remove the variables that the command set for the processes that it starts
            for name in _own_environment():
                del os.environ[name]
            os.environ.update(before)
            atexit.unregister(end_quietly)
            atexit.register(end_quietly)

    return run


def _own_environment() -> dict[str, str]:
    """Returns the variables of this project, such as MSCN_TRUST."""
    return {name: value for name, value in os.environ.items() if name.startswith("MSCN_")}


# File names (or glob patterns) that show what a folder has: a pretraining run, trials, or one trial
PRETRAINING = (CHECKPOINT, "checkpoint.prev.pth")
TRIALS = (f"trial_*/{CONFIG}", f"trial_*/{RECORD}")
ONE_TRIAL = (RECORD, WEIGHTS_FILE)


def output_folder(path: str | Path, resume: bool, own: Sequence[str]) -> Path:
    """Returns the output folder of a run, if no other run has used it. It is made only when
    something is written.

    Args:
        resume: whether the user asked to continue the run in this folder.
        own: the marks of the runs of this command: PRETRAINING or TRIALS.

    Raises:
        InputError: there is a run and `resume` is off, or the run is of a different command, or
            see `check_output`.
    """
    folder = check_output(path)
    found = _marks_in(folder, (*PRETRAINING, CONFIG, *TRIALS, *ONE_TRIAL))
    if found and not resume:
        raise InputError(
            f"{found[0]} already exists; add --resume to continue that run, or give another "
            "--output"
        )
    saved = [hit for hit in found if hit != folder / CONFIG]  # a config alone: nothing was saved
    if saved and not _marks_in(folder, own):
        raise InputError(
            f"{saved[0]} is of a run of a different command, which --resume cannot continue here; "
            "give another --output"
        )
    return folder


def _marks_in(folder: Path, marks: Sequence[str]) -> list[Path]:
    return [hit for mark in marks for hit in sorted(folder.glob(mark))]


@contextmanager
def interrupt_says(text: Callable[[], str]) -> Iterator[None]:
    """Makes a command whose block Ctrl-C or another signal ends print `text()`, which says what was
    saved, as its last line.
    """
    try:
        yield
    except Stopped as error:
        raise Stopped(error.number, text()) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(text()) from None


def note_fresh_start(output: str | Path, saved: Sequence[str]) -> None:
    """Prints on stderr that --resume starts from the beginning, if nothing was saved.

    Args:
        saved: names (or glob patterns) of the files from which a run can continue.
    """
    folder = Path(output)
    if any(any(folder.glob(name)) for name in saved):
        return
    # This command's lock already exists, and it made the folder if it was missing.
    begun = folder.is_dir() and any(path.name != FILE_NAME for path in folder.iterdir())
    there = "nothing was saved yet in" if begun else "there was no run in"
    print(f"--resume: {there} {folder}; the run starts from the beginning", file=sys.stderr)
