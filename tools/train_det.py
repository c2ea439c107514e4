#!/usr/bin/env python
"""Fine-tunes a detector or a segmenter from a checkpoint: weights in, trial_T/record.json out."""

from __future__ import annotations

import argparse
import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretrain.common.cli import interrupt_says, make_parser, note_fresh_start, tool
from pretrain.common.progress import keep_progress, progress_folder
from transfer.checkpoints.readers.trust import add_trust

SAVED = ("model_[0-9]*.pth", "model_final.pth")  # of a trial's training
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
    from transfer.detection.config import default_weights, task_package

    package = task_package(args.config, args.opts)
    if args.show_data is None and not args.weights:
        args.weights = default_weights(args.config, args.opts)
        print(f"--weights {args.weights}, from MODEL.WEIGHTS of {args.config}")
    if args.show_data is not None and args.show_data < 1:
        raise InputError(f"--show-data {args.show_data}: give 1 or more")
    run = importlib.import_module(f"{package}.run")
    request = run.Request(
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
        for path in importlib.import_module(f"{package}.show").show_data(request, args.show_data):
            print(path)
    elif args.eval_only:
        _evaluate(run, request, args.num_gpus)
    else:
        _train(run, request, args.num_gpus)


def _evaluate(run: Any, request: Any, num_gpus: int) -> None:
    """`run` is a task's module of that name."""
    from pretrain.common.distributed import check_gpus, launch
    from transfer.results.metrics import headline_texts

    check_gpus(num_gpus)
    with keep_progress(request.output):
        run.check_trained(request)
        launch(run.evaluate_model, num_gpus, (request,))
    if not int(os.environ.get("RANK", 0)):
        path = Path(request.output) / "evaluation.json"
        metrics = json.loads(path.read_text(encoding="utf-8"))["metrics"]
        print(f"{path}: {', '.join(headline_texts(run.TASK, metrics))}")


def _train(run: Any, request: Any, num_gpus: int) -> None:
    from pretrain.common.distributed import check_gpus, launch
    from transfer.detection.scaling import for_processes
    from transfer.results.last_lines import last_lines, where_resume_continues
    from transfer.results.record import FILE_NAME

    check_gpus(num_gpus)
    trials = range(request.first_trial, request.trials)
    with (
        keep_progress(progress_folder(request.output, request.first_trial)),
        interrupt_says(lambda: where_resume_continues(request.output, trials, SAVED)),
    ):
        job = run.prepare(request)
        for_processes(job.cfg, max(num_gpus, int(os.environ.get("WORLD_SIZE", 1))))
        run.check_weights(job)
        if request.resume:
            note_fresh_start(request.output, [f"trial_*/{name}" for name in (FILE_NAME, *SAVED)])
        launch(run.run_request, num_gpus, (request,))
    if int(os.environ.get("RANK", 0)):  # under torchrun the first process prints
        return
    print("\n".join(last_lines([Path(request.output) / f"trial_{trial}" for trial in trials])))


if __name__ == "__main__":
    raise SystemExit(main())
