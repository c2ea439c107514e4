#!/usr/bin/env python
"""Checks a machine, a config, its data and weights before a run: what would fail, and how long."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from pretrain.common.cli import make_parser, tool
from pretrain.common.errors import InputError
from transfer.checkpoints.readers.trust import add_trust

EXAMPLE = """tools/doctor.py
  tools/doctor.py --config coco_mscn.yaml --weights moco_v2.pkl --num-gpus 8
  tools/doctor.py --config mscn_r50.yaml --num-gpus 8 --gpu a100-80
  tools/doctor.py --config digits_voc.yaml --weights random --probe SOLVER.IMS_PER_BATCH 4"""


def parse(argv: Sequence[str] | None) -> Namespace:
    """Returns the parsed options."""
    parser = make_parser(__doc__, EXAMPLE)
    add = parser.add_argument
    add("--config", help="a config of any kind: a path, or a name below configs/")
    add("--weights", help="a checkpoint of any kind, or `random`")
    add("--output", default="runs", help="the folder of the run, to check its disk (default: runs)")
    add("--num-gpus", type=int, default=1, help="number of processes that a run would have (1)")
    add(
        "--gpu",
        metavar="NAME",
        help="GPU that a run would use, such as a100-80 (default: this machine's)",
    )
    add("--engine", default="auto", help="engine of detection: auto, detectron2 or torchvision")
    add(
        "--probe",
        action="store_true",
        help="start the run for a short time to measure its time and memory",
    )
    add(
        "--probe-seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="length of the run of --probe (30)",
    )
    add_trust(parser)
    add("--json", action="store_true", help="print the findings as JSON")
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the findings; returns exit status 2 if a run would fail, 0 otherwise."""
    args = parse(argv)
    if args.num_gpus < 1:
        raise InputError(f"--num-gpus {args.num_gpus}: give 1 or more")
    if args.weights == "":  # such as an unset variable of a shell
        raise InputError("--weights is empty; give a checkpoint, or `random`")
    if args.opts and not args.config:
        raise InputError(f"overrides ({args.opts[0]} ...) need --config")
    if args.config:
        from pretrain.common.config import find_config

        find_config(args.config)  # a typo is reported at once, before torch is loaded
    from pretrain.common.gpus import find_gpu
    from pretrain.engine import before_a_run as pretraining
    from transfer.doctor.rows import as_json, as_text
    from transfer.doctor.run import Question, examine

    question = Question(
        config=args.config,
        weights=args.weights,
        output=Path(args.output),
        num_gpus=args.num_gpus,
        engine=args.engine,
        gpu=find_gpu(args.gpu) if args.gpu else None,
        probe_seconds=args.probe_seconds if args.probe else 0.0,
        overrides=tuple(args.opts),
    )
    say = lambda line: print(line, file=sys.stderr)
    rows = examine(question, pretraining, say)
    print(as_json(rows) if args.json else as_text(rows))
    for row in rows.failures():
        print(f"error: a run would fail: {row.name}: {row.detail}", file=sys.stderr)
    return 2 if rows.failures() else 0


if __name__ == "__main__":
    raise SystemExit(main())
