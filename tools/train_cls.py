#!/usr/bin/env python
"""Scores one checkpoint by one classification protocol; writes trial_T/record.json."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pretrain.common.cli import make_parser, tool
from transfer.trials.options import add_options, request_of

EXAMPLE = (
    "python tools/train_cls.py --config knn_digits.yaml --weights runs/mscn/checkpoint.pth "
    "--output runs/knn"
)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = make_parser(__doc__, EXAMPLE)
    weights = "a checkpoint, or `random` together with the override BACKBONE.NAME"
    add_options(parser, weights=weights, needs_weights=True, output="runs/cls")
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Checks the input, runs the trials, prints what their records hold."""
    args = parse(argv)
    from pretrain.common.config import load_config
    from transfer.classification.defaults import get_defaults

    # A typo is reported at once, before torch is loaded.
    load_config(args.config, get_defaults(), args.opts, "classification")
    from transfer.trials.command import run_command
    from transfer.trials.tasks import task_of

    request = request_of(args)
    for line in run_command(task_of("cls", args.config), request, args.num_gpus):
        print(line)


if __name__ == "__main__":
    raise SystemExit(main())
