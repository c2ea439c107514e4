"""The options that every command of trials has, and the request that they make.

Nothing is imported here before a request is made, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from transfer.checkpoints.files import RANDOM
from transfer.checkpoints.readers.trust import add_trust

if TYPE_CHECKING:
    from transfer.trials.task import Request


def add_options(
    parser: argparse.ArgumentParser, *, weights: str, needs_weights: bool, output: str
) -> None:
    """Adds the options of a command of trials.

    Args:
        weights: what --weights may be, for --help.
        needs_weights: whether --weights must be given.
        output: default folder of the trials.
    """
    add = parser.add_argument
    add("--config", required=True, help="a path, or a name below configs/")
    add("--weights", required=needs_weights, help=weights)
    add("--output", default=output, help=f"folder of the trials (default: {output})")
    add("--name", help="the row's name in a report (default: from the weights)")
    add("--num-gpus", type=int, default=1, help="processes to start, one per GPU")
    add("--trials", type=int, default=1, help="trial t uses seed SEED + t")
    add("--first-trial", type=int, default=0, metavar="T", help="leaves out those before it (0)")
    add("--resume", action="store_true", help="continues; skips trials that have a record")
    add_trust(parser)


def request_of(args: argparse.Namespace, engine: str = "auto") -> Request:
    """What the parsed options ask for; see `Request`."""
    from transfer.trials.task import Request

    return Request(
        config=args.config,
        weights=args.weights or RANDOM,
        output=args.output,
        name=args.name,
        engine=engine,
        trials=args.trials,
        resume=args.resume,
        overrides=tuple(args.opts),
        first_trial=args.first_trial,
    )
