"""The options that all commands for trials have, and the request that is made from them.

The task's modules are imported only when a request is made, so `--help` is quick.
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
    """Adds the options of a command that runs trials.

    Args:
        weights: help text of --weights, which says what it may be.
        needs_weights: whether --weights is required.
        output: default output folder of the trials.
    """
    add = parser.add_argument
    add("--config", required=True, help="a path, or a name below configs/")
    add("--weights", required=needs_weights, help=weights)
    add("--output", default=output, help=f"output folder of the trials (default: {output})")
    add("--name", help="name of the row in a report (default: from the weights)")
    add(
        "--num-gpus",
        type=int,
        default=1,
        help="number of processes to start, one per GPU (default: 1)",
    )
    add(
        "--trials",
        type=int,
        default=1,
        help="number of trials; trial t uses seed SEED + t (default: 1)",
    )
    add(
        "--first-trial",
        type=int,
        default=0,
        metavar="T",
        help="skip the trials before T (default: 0)",
    )
    add(
        "--resume",
        action="store_true",
        help="continue an earlier run; trials that have a record are skipped",
    )
    add_trust(parser)


def request_of(args: argparse.Namespace, engine: str = "auto") -> Request:
    """Returns the request that the parsed options describe; see `Request`."""
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
