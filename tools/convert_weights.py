#!/usr/bin/env python
"""Any checkpoint in, Detectron2 .pkl, torchvision .pth or .safetensors out, proven equal."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.common.cli import make_parser, tool
from pretrain.common.errors import InputError
from transfer.checkpoints.files import SUFFIXES
from transfer.checkpoints.readers.trust import add_trust
from transfer.checkpoints.sources import check_source

if TYPE_CHECKING:
    from transfer.checkpoints.convert import Report


def build_parser() -> ArgumentParser:
    """Returns the parser of the command line."""
    parser = make_parser(
        "Converts a checkpoint to the layout that OUTPUT's suffix names: .pkl Detectron2 (a ViT: "
        "ViTDet), .pth torchvision\n(a ViT: timm), .safetensors. Proves the result equal before "
        "writing it.",
        "tools/convert_weights.py runs/mscn/checkpoint.pth mscn_r50.pkl",
        overrides=False,
    )
    parser.add_argument(
        "input",
        metavar="INPUT",
        nargs="?",
        help="a file, a folder that save_pretrained wrote, https://..., hf-hub:org/name, "
        "torchvision:resnet50/IMAGENET1K_V2 or timm:resnet50.a1_in1k",
    )
    parser.add_argument(
        "target",
        metavar="OUTPUT",
        nargs="?",
        help="the file to write; hf-hub:USER/NAME writes a folder for the hub (hub/USER/NAME, or "
        "the folder of --output) with safetensors, config and model card",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="write DIR/NAME.pkl; takes the place of OUTPUT"
    )
    parser.add_argument(
        "--records",
        nargs="+",
        default=[],
        metavar="DIR",
        help="folders of results, which the model card then shows",
    )
    parser.add_argument(
        "--push", action="store_true", help="upload the folder to the hub with your own token"
    )
    parser.add_argument(
        "--source",
        default="auto",
        metavar="NAME",
        help="read the file as this format; --list-sources shows the names (default: auto)",
    )
    parser.add_argument(
        "--prefix",
        metavar="P",
        help=(
            "prefix of the backbone's names, such as state_dict.net: reads any file as format"
            " `generic`"
        ),
    )
    parser.add_argument(
        "--num-heads",
        type=int,
        metavar="N",
        help="number of a ViT's attention heads, if the file does not state it",
    )
    parser.add_argument(
        "--list-sources", action="store_true", help="print the names of the formats, and exit"
    )
    parser.add_argument(
        "--check", action="store_true", help="prove that the conversion is equal, but write nothing"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    add_trust(parser)
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    """Parses, converts, prints."""
    args = build_parser().parse_args(argv)
    if args.list_sources:
        return _list_sources()
    _check_arguments(args)
    from transfer.checkpoints.convert import ProofError

    try:
        report = _convert(args)
    except ProofError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report.to_dict(), indent=1) if args.json else report)
    if report.failures:
        worst = max(row.relative for row in report.failures)
        print(f"error: not equal ({worst:.1e} relative), nothing written", file=sys.stderr)
    return 1 if report.failures else 0


def _convert(args: Namespace) -> Report:
    from transfer.entry.conversion import named_in, prove_conversion, write_conversion

    if _for_hub(args):
        return _convert_for_hub(args)

    suffix = Path(args.target).suffix if args.target else ".pkl"
    suffixes = [suffix] if args.target or args.output else SUFFIXES
    report = prove_conversion(args.input, suffixes, *_how(args))
    if args.check or report.failures:
        return report
    return write_conversion(report, args.target or named_in(args.output, report, suffix))


def _how(args: Namespace) -> tuple[str, bool, str | None, int | None]:
    """Returns how the input is read: format, trust, prefix, number of heads."""
    return args.source, args.trust, args.prefix, args.num_heads


def _for_hub(args: Namespace) -> bool:
    return bool(args.target) and args.target.startswith("hf-hub:")


def _convert_for_hub(args: Namespace) -> Report:
    from transfer.entry.conversion import prove_conversion
    from transfer.entry.hub import push, repository, write_hub_folder

    repo = repository(args.target)
    report = prove_conversion(args.input, [".safetensors"], *_how(args))
    if args.check or report.failures:
        return report
    folder = Path(args.output or Path("hub") / repo)
    report = write_hub_folder(report, repo, folder, args.records)
    if args.push:
        print(f"uploaded to {push(folder, repo)}", file=sys.stderr)
    return report


def _list_sources() -> int:
    from transfer.checkpoints.formats.all_formats import FORMATS

    for entry in FORMATS.values():
        print(f"{entry.name:<30}{entry.title}{'' if not entry.forced else ' (only by --source)'}")
    return 0


def _check_arguments(args: Namespace) -> None:
    """Everything that can be said before torch is imported."""
    if not args.input:
        raise InputError("INPUT is missing; give a checkpoint")
    if not (args.target or args.output or args.check):
        raise InputError("give OUTPUT (.pkl, .pth or .safetensors), --output DIR, or --check")
    if (args.push or args.records) and not _for_hub(args):
        raise InputError("--push and --records need an OUTPUT hf-hub:USER/NAME")
    if _for_hub(args):
        check_source(args.input)
        return
    if args.target and args.output:
        raise InputError("give OUTPUT or --output DIR, not both")
    if args.target and Path(args.target).suffix not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise InputError(f"{args.target}: the suffix names the layout; give one of {known}")
    if args.target and Path(args.target).is_dir():
        raise InputError(f"{args.target} is a folder; give a file name, or --output DIR")
    check_source(args.input)


if __name__ == "__main__":
    sys.exit(main())
