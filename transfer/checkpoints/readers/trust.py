"""`--trust`: the user allows the weights files of a command to run code.

It is kept in the environment, so that the processes that a command starts have it, too.
"""

from __future__ import annotations

import os
from argparse import Action, ArgumentParser, Namespace

VARIABLE = "MSCN_TRUST"


class _Trust(Action):
    """Sets the option and the variable."""

    def __call__(self, parser: ArgumentParser, space: Namespace, *_: object) -> None:
        setattr(space, self.dest, True)
        os.environ[VARIABLE] = "1"


def add_trust(parser: ArgumentParser) -> None:
    """Adds `--trust` to a command that reads weights."""
    parser.add_argument(
        "--trust",
        action=_Trust,
        nargs=0,
        default=False,
        help="read weights files that can run code; use it only if you know who made the file",
    )


def trusts_files() -> bool:
    """Returns whether `--trust` was given, here or to the process that started this one."""
    return os.environ.get(VARIABLE) == "1"
