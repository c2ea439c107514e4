"""Pretrains a network by MSCN, or by a method that it is compared with; writes checkpoint.pth."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from pretrain.common.cli import make_parser, tool

EXAMPLE = """python tools/train_ssl.py --config mscn_demo.yaml --output runs/mscn SEED 1
  python tools/train_ssl.py --config mscn_r50.yaml --num-gpus 8 SOLVER.EPOCHS 200"""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLE)
    parser.add_argument("--config", required=True, help="a path, or a name below configs/")
    parser.add_argument("--output", help="folder of the run (default: runs/NAME of the config)")
    parser.add_argument("--num-gpus", type=int, default=1, help="number of processes to start (1)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --output")
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Pretrains, and prints the path of the checkpoint."""
    args = parse(argv)
    from pretrain.common.distributed import is_first_of_launcher  # torch from here on
    from pretrain.entry.training import run_pretraining

    checkpoint = run_pretraining(
        args.config,
        args.output,
        overrides=args.opts,
        num_gpus=args.num_gpus,
        resume=args.resume,
    )
    if is_first_of_launcher():
        print(f"pretrained weights: {checkpoint}")


if __name__ == "__main__":
    raise SystemExit(main())
