"""`--quiet` and `--verbose`: how much a command says while it works.

They are kept in the environment, so that the processes that a command starts have them, too. What
goes to a run's log.txt does not become less: --quiet is about the terminal.
"""

from __future__ import annotations

import logging
import os
from argparse import SUPPRESS, Action, ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "MSCN_LOG"
QUIET, VERBOSE = "QUIET", "DEBUG"


class _SetVariable(Action):
    """Sets the variable to the option's constant; nothing is added to the parsed options."""

    def __call__(self, parser: ArgumentParser, space: Namespace, *_: object) -> None:
        os.environ[VARIABLE] = self.const


def add_verbosity(parser: ArgumentParser) -> None:
    """Adds `--quiet` and `--verbose`, of which one may be given."""
    group = parser.add_mutually_exclusive_group()
    for option, value, help_ in (
        ("--quiet", QUIET, "print only results, warnings and errors"),
        ("--verbose", VERBOSE, "print more, such as the name of every tensor that is not loaded"),
    ):
        group.add_argument(
            option, action=_SetVariable, nargs=0, const=value, default=SUPPRESS, help=help_
        )


def is_quiet() -> bool:
    """Returns whether results, warnings and errors are all that is said."""
    return os.environ.get(VARIABLE, "").upper() == QUIET


def is_verbose() -> bool:
    """Returns whether long lists and tracebacks are wanted."""
    return os.environ.get(VARIABLE, "").upper() == VERBOSE


@contextmanager
def quieted(name: str) -> Iterator[None]:
    """Silences a library's logger up to its warnings, inside the block."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
