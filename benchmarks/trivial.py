"""How trivial each config's positive pairs are, without training: how often a trivial feature finds
a view's pair in the batch, and the edge response at mask borders. It prints a table and writes a
JSON file. The definitions are in benchmarks/trivial_features.py."""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.common.cli import make_parser, split_overrides, tool
from pretrain.common.errors import InputError

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode
    from torch import Tensor

EXAMPLE = """python -m benchmarks.trivial --config mscn_demo.yaml plain_mask_demo.yaml \\
    --images FOLDER --batch-size 256 --batches 8 --output runs/trivial.json"""
# The columns of the table: name in the result, heading.
RATES = {
    "mean_colour": "mean colour",
    "colour_histogram": "histogram",
    "edge_histogram": "edges",
    "mask_shape": "mask",
    "guessed_mask": "guessed mask",
}
EXTRAS = ("mask read", "absolute", "kernel", "signed")
BORDERS = ("absolute", "kernel", "signed", "signed_chance")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLE)
    parser.add_argument("--config", nargs="+", required=True, help="names below configs/, or paths")
    parser.add_argument("--images", help="folder, or a spec as folder:NAME:train (the config's)")
    parser.add_argument(
        "--batch-size", type=int, default=256, help="images; chance is 1 / it (256)"
    )
    parser.add_argument("--batches", type=int, default=8, help="batches of each config (8)")
    parser.add_argument("--workers", type=int, default=0, help="loader processes (0)")
    parser.add_argument("--output", type=Path, help="also write the result to this JSON file")
    args = parser.parse_args(argv)
    args.config, overrides = split_overrides(args.config)
    args.opts = [*overrides, *args.opts]
    return args


@tool
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    for name, least in (("batch_size", 2), ("batches", 2), ("workers", 0)):
        if getattr(args, name) < least:
            option = name.replace("_", "-")
            raise InputError(f"--{option} {getattr(args, name)} must be at least {least}")
    from pretrain.common.config import find_config, load_config
    from pretrain.defaults import get_defaults

    loaded: dict[str, CfgNode] = {}
    for given in args.config:
        name = find_config(given, "pretrain").stem
        if name in loaded:
            raise InputError(f"--config names {name} twice; give each name once")
        loaded[name] = load_config(given, get_defaults(), args.opts, "pretrain")
    from benchmarks.result_file import write_result

    start = time.perf_counter()
    found: dict[str, Any] = {}
    for name, cfg in loaded.items():
        found[name] = measure(name, with_options(cfg, args), args.batches)
        if len(found) == 1:
            print(heading())
        print(row(name, found[name]), flush=True)
    chance = 100 / args.batch_size
    print(f"chance: {chance:.2f} % of rates; 1 of absolute and kernel; of signed in brackets")
    if args.output:
        result = {
            "images": args.images or {name: cfg.DATASETS.TRAIN for name, cfg in loaded.items()},
            "batch_size": args.batch_size,
            "batches": args.batches,
            "overrides": args.opts,
            "chance_percent": chance,
            "configs": found,
            "seconds": round(time.perf_counter() - start, 1),
        }
        write_result(args.output, result)


def with_options(cfg: CfgNode, args: argparse.Namespace) -> CfgNode:
    """Returns the config with the command's images, batch size and workers."""
    from pretrain.data.datasets import OPENERS

    cfg = cfg.clone()
    cfg.defrost()
    if args.images:
        kind, colon, _ = args.images.partition(":")
        is_spec = colon and kind in OPENERS
        spec = args.images if is_spec else f"folder:{Path(args.images).absolute()}"
        cfg.DATASETS.TRAIN, cfg.DATASETS.LIMIT_PER_CLASS = spec, 0
    cfg.SOLVER.BATCH_SIZE = args.batch_size
    cfg.DATALOADER.NUM_WORKERS = args.workers
    cfg.DATALOADER.CACHE_DECODED = False  # each image is read a few times at most
    cfg.freeze()
    return cfg


def measure(name: str, cfg: CfgNode, batches: int) -> dict[str, Any]:
    """Returns one config's rates in percent and border responses, each as {"mean", "error"} over
    the batches, or None if nothing is masked.

    Raises InputError for a config without two branches, or images that cannot be read.
    """
    from pretrain.data.build import branches

    places = [[v for v, branch in enumerate(branches(cfg)) if branch == side] for side in (0, 1)]
    if not all(places):
        raise InputError(f"{name} has no pairs to measure: VIEWS.A.COUNT or VIEWS.B.COUNT is 0")
    values: dict[str, list[float]] = {}
    for views, masks in islice(drawn_views(cfg), batches):
        for key, value in measure_batch(views, masks, places, mask_cells(cfg)).items():
            values.setdefault(key, []).append(value)
    summary = {key: with_error(found) for key, found in values.items()}
    return {
        "size": cfg.VIEWS.SIZE,
        "cells": mask_cells(cfg),
        "retrieval": {key: summary[key] for key in RATES},
        "mask_read": summary.get("mask_read"),
        "border": {key: summary.get(key) for key in BORDERS},
    }


def mask_cells(cfg: CfgNode) -> int:
    """Returns the number of parts along a side in which mask shapes are compared: the grid's
    cells.
    """
    return max(1, round(cfg.VIEWS.SIZE / cfg.MASK.GRID_SIZE))


def drawn_views(cfg: CfgNode) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Yields views and masks of each batch, as training with this config and seed draws them."""
    import torch

    from pretrain.data.build import build_loader, build_view_maker, train_images
    from pretrain.engine.loop import step_generator

    loader, maker = build_loader(cfg, train_images(cfg)), build_view_maker(cfg)
    batches = (batch for epoch in count() for batch in loader.epoch(epoch))
    for step, batch in enumerate(batches):
        views = maker(batch.crops, step_generator(cfg.SEED, step))
        drawn = maker.masks_of(batch.crops, step_generator(cfg.SEED, step))
        yield views, [
            torch.zeros_like(view, dtype=torch.bool) if params is None else params.mask
            for view, params in zip(views, drawn, strict=True)
        ]


def measure_batch(
    views: Sequence[Tensor], masks: Sequence[Tensor], places: Sequence[Sequence[int]], cells: int
) -> dict[str, float]:
    """Rates in percent over all pairs of a view of A with one of B, and border responses over all
    views. `places`: the views of A and those of B."""
    from benchmarks import trivial_features as trivial

    features: dict[str, Callable[[int], Tensor]] = {
        "mean_colour": lambda v: trivial.mean_colour(views[v]),
        "colour_histogram": lambda v: trivial.colour_histogram(views[v]),
        "edge_histogram": lambda v: trivial.edge_histogram(views[v]),
        "mask_shape": lambda v: trivial.mask_shape(masks[v], cells),
        "guessed_mask": lambda v: trivial.guessed_mask(views[v], cells),
    }
    of_views = {
        name: {v: made(v) for v in (*places[0], *places[1])} for name, made in features.items()
    }

    def rate(one: str, other: str, pairs: Iterable[tuple[int, int]]) -> float:
        rates = [trivial.retrieval_rate(of_views[one][a], of_views[other][b]) for a, b in pairs]
        return 100 * statistics.mean(rates)

    found = {name: rate(name, name, product(*places)) for name in features}
    # If the branches differ, B is the more masked one: compare its guess with its own mask.
    masked = [(v, v) for v in places[1] if masks[v].any()]
    if masked:
        found["mask_read"] = rate("guessed_mask", "mask_shape", masked)
    borders = [trivial.border_response(views[v], masks[v]) for v in of_views["mask_shape"]]
    for name in BORDERS:
        values = [getattr(border, name) for border in borders if border is not None]
        known = [value for value in values if not math.isnan(value)]
        if known:
            found[name] = statistics.mean(known)
    return found


def with_error(values: Sequence[float]) -> dict[str, float]:
    """Returns the mean over the batches, and its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {"mean": round(statistics.mean(values), 4), "error": round(error, 4)}


def heading() -> str:
    """Returns the table's first line."""
    cells = [f"{title:>14}" for title in (*RATES.values(), *EXTRAS)]
    return f"{'config':<32}" + "".join(cells)


def row(name: str, found: dict[str, Any]) -> str:
    """Returns one config's line: percent and standard error; then responses, the signed one's
    chance.
    """
    border = found["border"]
    rates = [_shown(found["retrieval"][feature], 1) for feature in RATES]
    signed = [_shown(border[key], 2).partition(" ")[0] for key in ("signed", "signed_chance")]
    edges = [_shown(border[key], 2) for key in ("absolute", "kernel")]
    cells = [*rates, _shown(found["mask_read"], 1), *edges, f"{signed[0]} ({signed[1]})"]
    return f"{name:<32}" + "".join(f"{cell:>14}" for cell in cells)


def _shown(value: dict[str, float] | None, digits: int) -> str:
    return "-" if value is None else f"{value['mean']:.{digits}f} ± {value['error']:.{digits}f}"


if __name__ == "__main__":
    raise SystemExit(main())
