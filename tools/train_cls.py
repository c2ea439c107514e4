#!/usr/bin/env python
"""Scores one checkpoint by one classification protocol: weights in, trial_T/record.json out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pretrain.common.cli import make_parser, tool
from transfer.checkpoints.readers.trust import add_trust

EXAMPLE = (
    "python tools/train_cls.py --config knn_digits.yaml --weights runs/mscn/checkpoint.pth "
    "--output runs/knn"
)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = make_parser(__doc__, EXAMPLE)
    parser.add_argument("--config", required=True, help="a path, or a name below configs/")
    parser.add_argument(
        "--weights", required=True, help="a checkpoint, or `random` with BACKBONE.NAME"
    )
    parser.add_argument("--output", default="runs/cls", help="folder of the trials' records")
    parser.add_argument("--name", help="the row's name in a report (default: from the weights)")
    parser.add_argument("--num-gpus", type=int, default=1)
    parser.add_argument("--trials", type=int, default=1, help="trial t uses seed SEED + t")
    parser.add_argument(
        "--first-trial", type=int, default=0, metavar="T", help="skips those before"
    )
    parser.add_argument("--resume", action="store_true", help="goes on where the output ends")
    add_trust(parser)
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Checks the input, runs the trials, prints what their records hold."""
    args = parse(argv)
    from transfer.trials.task import Request
    from transfer.trials.tasks import task_of

    task = task_of("cls", args.config, args.opts)
    request = Request(
        config=args.config,
        weights=args.weights,
        output=args.output,
        name=args.name,
        trials=args.trials,
        resume=args.resume,
        overrides=tuple(args.opts),
        first_trial=args.first_trial,
    )
    from transfer.trials.command import run_command

    for line in run_command(task, request, args.num_gpus):
        print(line)


if __name__ == "__main__":
    raise SystemExit(main())
