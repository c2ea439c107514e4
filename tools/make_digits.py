"""Writes the embedded data set: handwritten digits on photographs, with boxes and masks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pretrain.common.cli import make_parser, tool

EXAMPLE = """python tools/make_digits.py --output datasets/digits
  export DETECTRON2_DATASETS=datasets/digits  # folder:digits_cls:train, voc:digits_voc:train"""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLE, overrides=False)
    parser.add_argument("--output", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--seed", type=int, default=0, help="seed of the set (0)")
    for option, help_ in (
        ("--classification", "numbers of training, validation and test crops (2000 500 500)"),
        ("--scenes", "numbers of training, validation and test scenes (600 150 150)"),
    ):
        names = ("TRAIN", "VAL", "TEST")
        parser.add_argument(option, type=int, nargs=3, metavar=names, help=help_)
    parser.add_argument(
        "--layouts",
        nargs="+",
        choices=("lvis", "cityscapes"),
        default=(),
        help="also write the scenes as LVIS or Cityscapes does, for digits_lvis.yaml and the like",
    )
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    from pretrain.digits.dataset import CLASSIFICATION_COUNTS, SCENE_COUNTS, make_digits

    written = make_digits(
        args.output,
        seed=args.seed,
        classification=args.classification or CLASSIFICATION_COUNTS,
        scenes=args.scenes or SCENE_COUNTS,
        layouts=args.layouts,
    )
    state = "wrote the digits to" if written else "nothing to do: the same digits are in"
    print(f"{state} {args.output}; use them with DETECTRON2_DATASETS={args.output}")


if __name__ == "__main__":
    raise SystemExit(main())
