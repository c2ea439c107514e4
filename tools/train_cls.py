#!/usr/bin/env python
"""Scores one checkpoint by one classification protocol: weights in, trial_T/record.json out."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from pretrain.common.cli import interrupt_says, make_parser, note_fresh_start, output_folder, tool
from pretrain.common.progress import keep_progress, progress_folder
from transfer.checkpoints.readers.trust import add_trust

SAVED = ("training.pth", "lr_*/training.pth")  # of a trial that trains on crops
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
def main(argv: Sequence[str] | None = None) -> int:
    """Checks the input, runs the trials, prints what their records hold."""
    args = parse(argv)
    from pretrain.common.config import find_config, load_config
    from transfer.classification.defaults import get_defaults
    from transfer.results.last_lines import last_lines, where_resume_continues
    from transfer.results.record import FILE_NAME, check_trials

    cfg = load_config(args.config, get_defaults(), args.opts, "classification")
    check_trials(args.first_trial, args.trials)
    output = output_folder(args.output, args.resume)

    from pretrain.common.distributed import check_gpus, launch
    from transfer.classification.run import Request, check, classify

    check_gpus(args.num_gpus)
    request = Request(
        protocol=find_config(args.config, "classification").stem,
        weights=args.weights,
        output=str(output),
        name=args.name,
        trials=args.trials,
        resume=args.resume,
        overrides=tuple(args.opts),
        first_trial=args.first_trial,
        config=args.config,
    )
    trials = range(args.first_trial, args.trials)
    with (
        keep_progress(progress_folder(output, args.first_trial)),
        interrupt_says(lambda: where_resume_continues(output, trials, SAVED)),
    ):
        if args.num_gpus > 1:
            check(cfg, request)
        if args.resume:
            note_fresh_start(output, [f"trial_*/{name}" for name in (FILE_NAME, *SAVED)])
        launch(classify, args.num_gpus, (cfg, request))
    if int(os.environ.get("RANK", 0)):  # under torchrun the first process prints
        return 0
    print("\n".join(last_lines([output / f"trial_{trial}" for trial in trials])))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
