"""Pretrains a network, MSCN or a method it is compared with: config in, checkpoint.pth out."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from pretrain.common.cli import interrupt_says, make_parser, note_fresh_start, output_folder, tool
from pretrain.common.progress import keep_progress

CHECKPOINT, PREVIOUS = "checkpoint.pth", "checkpoint.prev.pth"
EXAMPLE = """python tools/train_ssl.py --config mscn_demo.yaml --output runs/mscn SEED 1
  python tools/train_ssl.py --config mscn_r50.yaml --num-gpus 8 SOLVER.EPOCHS 200"""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLE)
    parser.add_argument("--config", required=True, help="a path, or a name below configs/")
    parser.add_argument("--output", help="run directory (runs/<the config's name>)")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes to start (1)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --output")
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    from pretrain.common.config import dump_yaml
    from pretrain.engine.checks import load_checked

    processes = int(os.environ.get("WORLD_SIZE", args.num_gpus))
    cfg = load_checked(args.config, args.opts, processes)
    from pretrain.common.distributed import check_gpus, is_first_of_launcher, launch, under_torchrun
    from pretrain.common.locks import one_writer
    from pretrain.engine.run import check_inputs, pretrain  # torch from here on

    if not under_torchrun():
        check_gpus(args.num_gpus)
    output = Path(args.output or cfg.OUTPUT_DIR or f"runs/{Path(args.config).stem}")
    data = None  # the other processes of torchrun have it from the first one
    first = is_first_of_launcher()
    with (
        one_writer(*[output] if first else []),
        keep_progress(output, [output / CHECKPOINT]),
        interrupt_says(lambda: saved(output / CHECKPOINT)),
    ):
        if first:
            data = check_inputs(cfg)
            output_folder(output, args.resume)
            if args.resume:
                note_fresh_start(output, [CHECKPOINT, PREVIOUS])
        launch(pretrain, processes, (dump_yaml(cfg), str(output), args.resume, data))
    if first:
        print(f"pretrained weights: {output / CHECKPOINT}")


def saved(checkpoint: Path) -> str:
    """Where --resume will go on."""
    newest = next((f for f in (checkpoint, checkpoint.with_name(PREVIOUS)) if f.is_file()), None)
    if newest is None:
        return "nothing was saved yet: --resume starts at step 0"
    from pretrain.common.checkpoint import load_checkpoint
    from pretrain.common.errors import InputError

    try:
        return f"--resume continues at step {load_checkpoint(newest)['step']} of {newest}"
    except InputError as error:
        return str(error)


if __name__ == "__main__":
    raise SystemExit(main())
