#!/usr/bin/env python
"""Fine-tunes a detector or a segmenter from a checkpoint: weights in, trial_T/record.json out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pretrain.common.cli import make_parser, tool
from transfer.checkpoints.readers.trust import add_trust

EXAMPLE = (
    "python tools/train_det.py --config digits_voc.yaml --weights runs/mscn/checkpoint.pth "
    "--output runs/digits_voc SOLVER.MAX_ITER 300"
)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = make_parser(__doc__, EXAMPLE)
    add = parser.add_argument
    add("--config", required=True, help="a path, or a name below configs/")
    add("--weights", help="a checkpoint, a detector, or `random` (default: MODEL.WEIGHTS)")
    add("--output", default="runs/det", help="folder of the trials (default: runs/det)")
    add("--name", help="the row's name in a report (default: from the weights)")
    add("--engine", default="auto", help="auto, detectron2 or torchvision")
    add("--num-gpus", type=int, default=1, help="processes to start, one per GPU")
    add("--trials", type=int, default=1, help="trial t uses seed SEED + t")
    add("--first-trial", type=int, default=0, metavar="T", help="leaves out those before it (0)")
    add("--resume", action="store_true", help="continues; skips trials that have a record")
    add("--eval-only", action="store_true", help="scores the detector in --weights, no training")
    add_trust(parser)
    add("--show-data", type=int, metavar="N", help="writes N annotated training images and exits")
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Checks the input, then trains, evaluates or shows."""
    args = parse(argv)
    from pretrain.common.errors import InputError
    from transfer.detection.config import default_weights
    from transfer.trials.task import Request
    from transfer.trials.tasks import task_of

    task = task_of("det", args.config, args.opts)
    if args.show_data is None and not args.weights:
        args.weights = default_weights(args.config, args.opts)
        print(f"--weights {args.weights}, from MODEL.WEIGHTS of {args.config}")
    if args.show_data is not None and args.show_data < 1:
        raise InputError(f"--show-data {args.show_data}: give 1 or more")
    request = Request(
        config=args.config,
        weights=args.weights or "random",
        output=args.output,
        name=args.name,
        engine=args.engine,
        trials=args.trials,
        resume=args.resume,
        overrides=tuple(args.opts),
        first_trial=args.first_trial,
    )
    if args.show_data is not None:
        for path in task.show_data(request, args.show_data):
            print(path)
        return
    from transfer.trials.command import evaluate_command, run_command

    command = evaluate_command if args.eval_only else run_command
    for line in command(task, request, args.num_gpus):
        print(line)


if __name__ == "__main__":
    raise SystemExit(main())
