#!/usr/bin/env python
"""Fine-tunes a detector or a segmenter from a checkpoint; writes trial_T/record.json."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pretrain.common.cli import make_parser, tool
from transfer.trials.options import add_options, request_of

EXAMPLE = (
    "python tools/train_det.py --config digits_voc.yaml --weights runs/mscn/checkpoint.pth "
    "--output runs/digits_voc SOLVER.MAX_ITER 300"
)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = make_parser(__doc__, EXAMPLE)
    weights = "a checkpoint, a detector, or `random` (default: MODEL.WEIGHTS)"
    add_options(parser, weights=weights, needs_weights=False, output="runs/det")
    add = parser.add_argument
    add("--engine", default="auto", help="auto, detectron2 or torchvision")
    add("--eval-only", action="store_true", help="score the detector in --weights without training")
    add("--show-data", type=int, metavar="N", help="write N annotated training images and exit")
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Checks the input, then trains, evaluates or shows."""
    args = parse(argv)
    from pretrain.common.errors import InputError
    from transfer.detection.config import default_weights
    from transfer.trials.tasks import task_of

    task = task_of("det", args.config, args.opts)
    if args.show_data is None and not args.weights:
        args.weights = default_weights(args.config, args.opts)
        print(f"--weights {args.weights}, from MODEL.WEIGHTS of {args.config}")
    if args.show_data is not None and args.show_data < 1:
        raise InputError(f"--show-data {args.show_data}: give 1 or more")
    request = request_of(args, args.engine)
    from transfer.trials.command import evaluate_command, run_command, show_command

    if args.show_data is not None:
        print("\n".join(show_command(task, request, args.show_data)))
        return
    command = evaluate_command if args.eval_only else run_command
    for line in command(task, request, args.num_gpus):
        print(line)


if __name__ == "__main__":
    raise SystemExit(main())
