#!/usr/bin/env python
"""Shows what the method sees: the views and masks of configs, the first-layer kernels of weights,
and how a run's features spread over its training."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pretrain.common import cli
from pretrain.common.errors import InputError
from pretrain.common.locks import one_writer
from transfer.checkpoints.readers.trust import add_trust

if TYPE_CHECKING:
    from pretrain.data.datasets import ImageDataset

COMMAND = "python tools/visualize.py"
VIEWS = f"""{COMMAND} views --config mscn_demo.yaml --images photos --rows 4 SEED 1
  {COMMAND} views --config step_{{0..9}}.yaml --images folder:flowers:train"""
KERNELS = f"{COMMAND} kernels --weights runs/mscn/checkpoint.pth runs/simclr/checkpoint.pth"
SPECTRUM = f"{COMMAND} spectrum --run runs/mscn runs/simclr --images photos"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = cli.make_parser(__doc__, f"{VIEWS}\n  {KERNELS}\n  {SPECTRUM}", overrides=False)
    commands = parser.add_subparsers(dest="command", required=True)
    views = cli.add_command(commands, "views", "views and masks", VIEWS, overrides=True)
    views.add_argument("--config", nargs="+", required=True, help="paths, or names below configs/")
    views.add_argument("--images", help="a folder, or folder:FOLDER[:SPLIT] (DATASETS.TRAIN)")
    views.add_argument("--rows", type=int, default=6, help="number of images (6)")
    views.set_defaults(draw=views_of_configs)
    kernels = cli.add_command(
        commands, "kernels", "first-layer kernels, with a count of the blank ones", KERNELS
    )
    kernels.add_argument("--weights", nargs="+", required=True, help="checkpoints of any format")
    below = "share of the norms' 90th percentile below which a kernel is blank (0.1)"
    kernels.add_argument("--blank-below", type=float, default=0.1, metavar="SHARE", help=below)
    add_trust(kernels)
    kernels.set_defaults(draw=kernels_of_weights)
    spectrum = cli.add_command(
        commands, "spectrum", "standard deviation and rank of the features over steps", SPECTRUM
    )
    spectrum.add_argument("--run", nargs="+", required=True, help="output folders of train_ssl.py")
    images = "a folder, or folder:FOLDER[:SPLIT]: adds the singular values of each checkpoint.pth"
    spectrum.add_argument("--images", help=images)
    spectrum.set_defaults(draw=spectrum_of_runs)
    for command in (views, kernels, spectrum):
        command.add_argument("--output", default="runs/visualize", help="folder (runs/visualize)")
    return parser.parse_args(argv)


@cli.tool
def main(argv: Sequence[str] | None = None) -> None:
    """Draws, and prints the paths of what it wrote."""
    args = parse(argv)
    with one_writer(args.output):
        written = args.draw(args, Path(args.output))
    for path in written:
        print(path)


def views_of_configs(args: argparse.Namespace, output: Path) -> list[Path]:
    """Draws views_CONFIG.png for each config, and views.png for several."""
    from pretrain.common.config import load_config
    from pretrain.defaults import get_defaults
    from pretrain.engine.checks import check_config
    from pretrain.methods.all_methods import METHODS

    paths, overrides = cli.split_overrides(args.config)
    if args.rows < 1:
        raise InputError(f"--rows {args.rows} must be at least 1")
    if not paths:
        raise InputError(f"--config must name a config before the override {overrides[0]}")
    configs = {
        name: load_config(path, get_defaults(), [*overrides, *args.opts], "pretrain")
        for name, path in zip(cli.short_names(paths), paths)
    }
    for name, cfg in configs.items():
        check_config(cfg, 1)
        if METHODS[cfg.METHOD.NAME].vit:
            print(f"note: {name} leaves out patches inside the network, so its masks are not drawn")
    from pretrain.visual.run import draw_views  # torch from here on

    return draw_views(configs, _images(args), args.rows, output)


def kernels_of_weights(args: argparse.Namespace, output: Path) -> list[Path]:
    """Draws kernels_FILE.png for each weights file, and writes kernels.json."""
    if not 0 <= args.blank_below < 1:
        raise InputError(f"--blank-below {args.blank_below:g} must be from 0 to below 1")
    names = cli.short_names(args.weights)
    from pretrain.backbones.first_layer_kernels import judge_kernels, kernel_sheet
    from pretrain.common.checkpoint import atomic_write_text
    from pretrain.data.views_picture import save_png
    from transfer.checkpoints.first_layer import read_first_layer

    layers = [read_first_layer(file, args.trust) for file in args.weights]
    written, content = [], []
    for file, name, layer in zip(args.weights, names, layers):
        facts = judge_kernels(layer.kernels, args.blank_below)
        print(f"{file}: {facts.summary()}")
        sheet = kernel_sheet(layer.kernels, facts, f"{name}: {layer.name}")
        written.append(save_png(sheet, output / f"kernels_{name}.png"))
        content.append({"file": file, "layer": layer.name, **facts.to_dict()})
    atomic_write_text(output / "kernels.json", json.dumps(content, indent=1) + "\n")
    return [*written, output / "kernels.json"]


def spectrum_of_runs(args: argparse.Namespace, output: Path) -> list[Path]:
    """Draws spectrum.png and writes spectrum.json for all runs."""
    names = cli.short_names(args.run)
    from pretrain.visual.curves import draw_curves, write_curves
    from pretrain.visual.run import describe_run

    images = _images(args)
    runs = [describe_run(Path(run), name, images) for run, name in zip(args.run, names)]
    for run in runs:
        print(run.last())
        if images and run.spectrum is None:
            print(
                f"note: {run.run} has no checkpoint.pth or no config.yaml, so there are no singular"
                " values"
            )
    return [
        draw_curves(runs, output / "spectrum.png"),
        write_curves(runs, output / "spectrum.json"),
    ]


def _images(args: argparse.Namespace) -> ImageDataset | None:
    """Returns what --images names; None without it."""
    from pretrain.data.pictures import open_pictures

    return open_pictures(args.images) if args.images else None


if __name__ == "__main__":
    raise SystemExit(main())
