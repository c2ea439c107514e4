"""What every command does alike: parser, exit status, output folder.

Exit 0 on success, 2 on bad input (one line on stderr), 1 on a failed run, 130 on Ctrl-C.
"""

from __future__ import annotations

import argparse
import functools
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pretrain.common.errors import InputError

Main = Callable[[Sequence[str] | None], int | None]


def make_parser(description: str, example: str, overrides: bool = True) -> argparse.ArgumentParser:
    """A parser whose `--help` ends with a runnable example.

    Args:
        overrides: adds `opts`, the KEY VALUE config overrides, which come last.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if overrides:
        parser.add_argument(
            "opts",
            nargs=argparse.REMAINDER,
            metavar="KEY VALUE",
            help="config overrides, after all options",
        )
    return parser


def tool(main: Main) -> Callable[[Sequence[str] | None], int]:
    """Wraps main(argv): returns its exit status, and prints an InputError as one line."""

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv) or 0
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted; --resume continues where the command has it", file=sys.stderr)
            return 130
        except Exception:
            logging.getLogger("mscn").exception("the run failed")
            return 1

    return run


RUN_MARKS = ("checkpoint.pth", "config.yaml", "trial_*/config.yaml", "trial_*/record.json")


def output_folder(path: str | Path, resume: bool, marks: Sequence[str] = RUN_MARKS) -> Path:
    """The output folder, unless another run has used it; made only when something is written.

    Args:
        resume: whether the user asked to continue the run that is there.
        marks: file names (or glob patterns) whose presence shows that a run was here.

    Raises:
        InputError: a mark is present and `resume` is off, or the path is a file.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--output {folder} is a file; give a folder")
    found = [str(hit) for mark in marks for hit in sorted(folder.glob(mark))]
    if found and not resume:
        raise InputError(f"{found[0]} is of another run; add --resume or give another --output")
    return folder
