"""Measures speed. Pretraining, in images per second: from files to crops (loader), from crops to
views (augment), and a complete step with its parts (step); it names the bottleneck. Detection, in
seconds: an iteration of both engines (detect), and scoring by all installed evaluators (evaluate).
Exact kNN search, in seconds and memory, compared with faiss-cpu and scikit-learn (knn)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.common.cli import make_parser, tool
from pretrain.common.errors import InputError
from pretrain.common.resources import cores

if TYPE_CHECKING:
    import torch
    from fvcore.common.config import CfgNode

EXAMPLE = """python tools/bench.py step --config simclr_r50.yaml --batch-size 256
  python tools/bench.py loader --peer lightly --workers 2 --seconds 10
  python tools/bench.py detect --config digits_coco.yaml --repetitions 5
  python tools/bench.py evaluate --images 500
  python tools/bench.py knn --bank 100000 --dim 512 --queries 2000"""
# Reading in the training process itself compares the engines without their workers' read-ahead.
MAY_BE_0 = (("workers", "detect"),)
KINDS = ("loader", "augment", "step", "detect", "evaluate", "knn")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLE, overrides=False)
    parser.add_argument("kind", choices=KINDS, help="what to measure")
    parser.add_argument(
        "--peer",
        choices=("lightly",),
        help="also measure how fast lightly makes two views of a file",
    )
    parser.add_argument(
        "--data",
        type=Path,
        help="folder of images (default: generated photographs); for detect: the folder of the "
        "data sets (default: $DETECTRON2_DATASETS, or generated digits for digits_*.yaml)",
    )
    parser.add_argument(
        "--config",
        help="default: simclr_r50.yaml on a GPU, simclr_demo.yaml without one; for detect: "
        "digits_coco.yaml",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        help="number of images (default: 256 on a GPU, 32 without one, the config's for detect)",
    )
    parser.add_argument(
        "--images", type=int, default=500, help="for evaluate: number of test images (500)"
    )
    parser.add_argument(
        "--bank",
        type=int,
        default=100_000,
        help="for knn: number of features that are searched (100000)",
    )
    parser.add_argument(
        "--queries",
        type=int,
        default=2000,
        help="for knn: number of features whose neighbours are searched (2000)",
    )
    parser.add_argument("--dim", type=int, default=512, help="for knn: size of a feature (512)")
    parser.add_argument(
        "--workers",
        type=int,
        default=cores(),
        help="number of loader processes (default: all cores)",
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one measurement (5)")
    parser.add_argument(
        "--repetitions", type=int, default=3, help="number of measurements of each part (3)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--output", type=Path, help="folder in which to write bench_KIND.json")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    # Intermixed: the overrides may come after the options, apart from the first positional.
    return parser.parse_intermixed_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    counts = ("batch_size", "workers", "seconds", "repetitions", "images", "bank", "queries", "dim")
    for name in counts:
        value = getattr(args, name)
        if value is not None and (value < 0 or value == 0 and (name, args.kind) not in MAY_BE_0):
            raise InputError(f"--{name.replace('_', '-')} {value} must be above 0")
    _refuse_unused(args)
    # benchmarks/ is part of the checkout but not of the installed packages.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    run = {"detect": _detect, "evaluate": _evaluate, "knn": _knn}.get(args.kind, _pretraining)
    result, text = run(args)
    print(json.dumps(result, indent=1) if args.json else text)
    if args.output:
        from pretrain.common.checkpoint import atomic_write_text

        text = json.dumps(result, indent=1) + "\n"
        atomic_write_text(args.output / f"bench_{args.kind}.json", text)


def _refuse_unused(args: argparse.Namespace) -> None:
    """Options that a kind would ignore are mistakes."""
    own = ("peer", "data", "config", "batch_size", "opts")
    unused = {"detect": ("peer",), "evaluate": own, "knn": own}
    for name in unused.get(args.kind, ()):
        if getattr(args, name):
            shown = "KEY VALUE" if name == "opts" else f"--{name.replace('_', '-')}"
            raise InputError(f"bench.py {args.kind} does not accept {shown}; leave it out")


def _detect(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from transfer.detection.config import load_detection_config

    name = args.config or "digits_coco.yaml"
    cfg = load_detection_config(name, args.opts)  # errors before torch
    from benchmarks import detect, seconds

    options = detect.Options(
        config=name,
        num_workers=args.workers,
        seconds=args.seconds,
        repetitions=args.repetitions,
        batch_size=args.batch_size,
        data=args.data,
    )
    result = detect.run(cfg, options)
    return result, seconds.report(result)


def _evaluate(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from benchmarks import evaluate, seconds

    result = evaluate.run(evaluate.Options(images=args.images, repetitions=args.repetitions))
    return result, seconds.report(result)


def _knn(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from benchmarks import knn

    options = knn.Options(args.bank, args.queries, args.dim, args.repetitions)
    if options.bank < options.k:
        raise InputError(
            f"--bank {options.bank} must be {options.k} or more, the number of neighbours"
        )
    result = knn.run(options)
    return result, knn.report(result)


def _pretraining(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from benchmarks.peers import require_peer
    from pretrain.common.config import load_config
    from pretrain.defaults import get_defaults

    if args.peer:
        require_peer(args.peer)
    if args.config:
        load_config(args.config, get_defaults(), args.opts, "pretrain")  # errors before torch
    import torch

    cuda = torch.cuda.is_available()
    name = args.config or ("simclr_r50.yaml" if cuda else "simclr_demo.yaml")
    cfg = load_config(name, get_defaults(), args.opts, "pretrain").clone()
    cfg.defrost()
    result = _measure(cfg, args, torch.device("cuda" if cuda else "cpu"))
    return result, _report(result)


def _measure(cfg: CfgNode, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    import torch

    from benchmarks.run import Options, run

    torch.backends.cudnn.benchmark = True  # as in training
    options = Options(
        kind=args.kind,
        batch_size=args.batch_size or (256 if device.type == "cuda" else 32),
        num_workers=args.workers,
        seconds=args.seconds,
        repetitions=args.repetitions,
        peer=args.peer,
        data=args.data,
    )
    return run(cfg, options, device)


def _report(result: dict[str, Any]) -> str:
    from benchmarks.run import report

    return report(result)


if __name__ == "__main__":
    raise SystemExit(main())
