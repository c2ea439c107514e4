"""Baselines without training for a table of small runs: accuracies in percent of six numbers, of a
thumbnail and of an untrained network, each on images in colour and on grey ones.

A row of the table shows something only if it is above them. Legend: N images, S side in pixels.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

# The checkout, because `benchmarks` is not installed
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pretrain.common.cli import make_parser, tool  # noqa: E402

if TYPE_CHECKING:
    import torch
    from fvcore.common.config import CfgNode
    from torch import Tensor, nn

    from benchmarks.probe import ProbeSet, ProbeSets
    from pretrain.data.preprocess import Preprocess

EXAMPLE = """python -m benchmarks.floors --config masking_2_simclr_cpu.yaml --seeds 5 \\
    --output benchmarks/results/masking_floors.json"""
SIDE = 8  # side of the thumbnail


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLE)
    parser.add_argument("--config", required=True, help="config of data, size, network and filter")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of heads and networks (3)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    from benchmarks.probe import of_validation
    from pretrain.common.checkpoint import atomic_write_text
    from pretrain.common.config import load_config
    from pretrain.common.distributed import process_device
    from pretrain.common.environment import describe_environment
    from pretrain.defaults import get_defaults

    args = parse(argv)
    cfg = load_config(args.config, get_defaults(), args.opts, "pretrain")
    floors = measure_floors(cfg, of_validation(cfg), args.seeds, process_device())
    content = {
        "config": args.config,
        "overrides": args.opts,
        "floors": floors,
        "environment": describe_environment(),
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(args.output, json.dumps(content, indent=1) + "\n")
    for name, metrics in floors.items():
        means = {key: sum(values) / len(values) for key, values in metrics.items()}
        print(name, ", ".join(f"{key} {value:.1f}" for key, value in means.items()))


def measure_floors(
    cfg: CfgNode, sets: ProbeSets, seeds: int, device: torch.device
) -> dict[str, dict[str, list[float]]]:
    """Returns {floor: {measure (`linear`, `knn20_gray` ...): its value for each seed}}."""
    from benchmarks.probe import feature_scores, probe
    from pretrain.data.build import build_highpass
    from pretrain.data.preprocess import Preprocess

    filters = {"untrained": None, "untrained, filtered": build_highpass(cfg)}
    floors: dict[str, dict[str, list[float]]] = {}

    def add(name: str, colour: str, values: dict[str, float]) -> None:
        for key in ("linear", "knn20"):
            found = floors.setdefault(name, {}).setdefault(f"{key}{colour}", [])
            found.append(round(values[key], 4))

    for colour, images in sets.items():
        for seed in range(seeds):
            for name, features in pixel_features(images).items():
                add(name, colour, feature_scores(*features, images, device, seed))
            for name, highpass in filters.items():
                preprocess = replace(Preprocess(), highpass=highpass)
                trunk = untrained_trunk(cfg, images, preprocess, device, seed)
                add(name, colour, probe(trunk, preprocess, images, device, seed))
    return floors


def pixel_features(images: ProbeSet) -> dict[str, tuple[Tensor, Tensor]]:
    """Returns features of bank and queries without a network, in units of the bank's deviations:
    mean and standard deviation of each channel, and the mean of each of 8 x 8 parts.
    """
    import torch

    from transfer.classification.protocols.linear import standardize_

    found = {}
    for name, make in (("mean and std", channel_moments), (f"{SIDE}x{SIDE} thumbnail", thumbnail)):
        bank, queries = (
            torch.cat([make(chunk) for chunk in part.images.split(2048)])
            for part in (images.bank, images.queries)
        )
        standardize_(bank, queries)
        found[name] = (bank, queries)
    return found


def channel_moments(images: Tensor) -> Tensor:
    """Returns mean and standard deviation of each channel, (N, 6), of uint8 images (N, 3, S, S)."""
    import torch

    pixels = images.flatten(2).double()
    return torch.cat([pixels.mean(dim=2), pixels.std(dim=2, correction=0)], dim=1).float()


def thumbnail(images: Tensor) -> Tensor:
    """Returns the means of 8 x 8 parts of each channel, (N, 192), of uint8 images (N, 3, S, S)."""
    from torch.nn.functional import adaptive_avg_pool2d

    return adaptive_avg_pool2d(images.float(), SIDE).flatten(1)


def untrained_trunk(
    cfg: CfgNode, images: ProbeSet, preprocess: Preprocess, device: torch.device, seed: int
) -> nn.Module:
    """Yields the config's network, initialised with the seed. Its batch-norm statistics are those
    of the bank's images as the network gets them; those of a trained row are also re-estimated.
    """
    import torch

    from pretrain.common.distributed import seed_everything
    from pretrain.engine.precise_bn import import_fvcore
    from pretrain.methods.build import build_trunk

    seed_everything(seed)
    trunk = build_trunk(cfg).to(device, memory_format=torch.channels_last).train()
    size, count = cfg.PRECISE_BN.BATCH_SIZE, len(images.bank.images)
    total = max(1, min(cfg.PRECISE_BN.IMAGES, count) // size)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))

    def batches() -> Iterator[Tensor]:
        for index in order.split(size):
            yield preprocess.apply(images.bank.images[index].to(device)).contiguous(
                memory_format=torch.channels_last
            )

    precise_bn = import_fvcore()
    if precise_bn.get_bn_modules(trunk):
        with torch.no_grad():
            precise_bn.update_bn_stats(trunk, batches(), total)
    return trunk.eval().requires_grad_(False)


if __name__ == "__main__":
    sys.exit(main())
