"""Builds the measured parts from a pretraining config, measures them, and describes the result.

The inputs are a merged CfgNode and plain options. The outputs are one dict of builtins (the JSON
result) and its text.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode

from benchmarks.images import SIZE, RepeatedImages, write_photos
from benchmarks.peers import lightly_batches
from benchmarks.pipeline import (
    augment_work,
    compute_work,
    loader_work,
    simclr_views,
    step_work,
    views_work,
)
from benchmarks.timing import Sample, Work, interleaved, measure_stream, ratio, spread
from pretrain.common.environment import describe_environment, describe_hardware
from pretrain.common.errors import InputError
from pretrain.data.build import build_loader
from pretrain.data.datasets import FolderImages, ImageDataset
from pretrain.data.decoded_cache import decoded_in_memory
from pretrain.data.folders import scan_folder
from pretrain.engine.loop import Training
from pretrain.engine.run import build_training

PHOTOS = 512  # files to measure with, if none are given
LENGTH = 200_000  # images in an "epoch": longer than a measurement
PEER_SIZE = 224  # px of a view in the comparison with peers, for any config


@dataclass(frozen=True)
class Options:
    """kind: loader, augment or step. batch_size: images. seconds: duration of each of
    `repetitions` measurements of each part. data: a folder of images, None for generated ones."""

    kind: str
    batch_size: int
    num_workers: int
    seconds: float
    repetitions: int
    peer: str | None = None
    data: Path | None = None


def run(cfg: CfgNode, options: Options, device: torch.device) -> dict[str, Any]:
    """Measures all parts that `options` select. Raises InputError for a bad folder.

    `cfg` is not frozen: its data set, workers and batch size are replaced by those of `options`.
    """
    with tempfile.TemporaryDirectory(prefix="bench_") as scratch:
        small = cfg.VIEWS.SIZE < 128
        own = (cfg.VIEWS.SIZE,) * 2 if small else SIZE
        works = config_works(cfg, options, options.data or photos(scratch, "own", own), device)
        if options.peer:
            folder = options.data or photos(scratch, "peer", SIZE)
            works.update(peer_works(options, folder, device))
        samples = interleaved(works, options.seconds, options.repetitions)
    return {
        "options": {**asdict(options), "data": str(options.data) if options.data else "generated"},
        "config": {
            "backbone": cfg.BACKBONE.NAME,
            "method": cfg.METHOD.NAME,
            "size": cfg.VIEWS.SIZE,
        },
        "device": device.type,
        "hardware": describe_hardware(),
        "environment": {**describe_environment(), **peer_version(options.peer)},
        "parts": {name: summary(values) for name, values in samples.items()},
        **conclusions(samples),
    }


def photos(scratch: str, name: str, size: tuple[int, int]) -> Path:
    """A new folder of generated photographs."""
    folder = Path(scratch) / name
    write_photos(folder, PHOTOS, size)
    return folder


def config_works(
    cfg: CfgNode, options: Options, folder: Path, device: torch.device
) -> dict[str, Work]:
    """The parts of the config's own step that `options.kind` names."""
    training = bench_training(cfg, options, folder, device)
    warmup = 2 * options.num_workers
    if options.kind == "loader":
        return {"loader": loader_work(training.loader, warmup)}
    batch = next(iter(training.loader.steps(0, 1))).to(device)
    works = {"augment": augment_work(batch.crops, training.make_views)}
    if options.kind == "step":
        works = {
            "loader": loader_work(training.loader, warmup),
            **works,
            "compute": compute_work(training, batch),
            "step": step_work(training, warmup),
        }
    return works


def bench_training(cfg: CfgNode, options: Options, folder: Path, device: torch.device) -> Training:
    """The config's training on a folder of images that never ends."""
    images: ImageDataset = FolderImages(scan_folder(folder.absolute()))
    if cfg.DATALOADER.CACHE_DECODED:
        images = decoded_in_memory(images)
    cfg.DATALOADER.CACHE_DECODED = False  # done above, once for all repetitions
    cfg.DATALOADER.NUM_WORKERS = options.num_workers
    cfg.DATASETS.TRAIN = f"folder:{folder.absolute()}"
    cfg.DATASETS.LIMIT_PER_CLASS = 0
    cfg.SOLVER.BATCH_SIZE = options.batch_size
    if len(images) < options.batch_size:
        raise InputError(
            f"{folder} has {len(images)} images, less than one batch; lower --batch-size"
        )
    training = build_training(cfg, device)
    return replace(training, loader=build_loader(cfg, RepeatedImages(images, LENGTH)))


def peer_works(options: Options, folder: Path, device: torch.device) -> dict[str, Work]:
    """Files to two SimCLR views of 224 px: ours, and the peer's."""
    shape = {"batch_size": options.batch_size, "num_workers": options.num_workers}
    warmup = 2 * options.num_workers
    images = RepeatedImages(FolderImages(scan_folder(folder.absolute())), LENGTH)
    loader, make_views = simclr_views(images, size=PEER_SIZE, **shape)

    def lightly(seconds: float) -> Sample:
        batches = lightly_batches(folder, size=PEER_SIZE, length=LENGTH, seed=0, **shape)
        return measure_stream(batches, int, seconds, lambda: None, warmup)

    return {"views": views_work(loader, make_views, device, warmup), "views (lightly)": lightly}


def peer_version(peer: str | None) -> dict[str, str]:
    """{"lightly": version}, or nothing without a peer."""
    if peer is None:
        return {}
    from importlib.metadata import version

    return {peer: version(peer)}


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Spread of a part's rates, and processor time per image."""
    return {
        "images_per_second": spread([sample.images_per_second for sample in samples]),
        "cpu_ms_per_image": spread([sample.cpu_ms for sample in samples]),
    }


def conclusions(samples: dict[str, list[Sample]]) -> dict[str, Any]:
    """What the rates say: the slowest part, step over compute, ours over the peer's."""
    rates = {name: [s.images_per_second for s in values] for name, values in samples.items()}
    found: dict[str, Any] = {"ratios": {}}
    if "step" in rates:
        alone = {name: spread(rates[name])["median"] for name in ("loader", "augment", "compute")}
        found["bottleneck"] = min(alone, key=alone.__getitem__)
        found["ratios"]["step / compute"] = ratio(rates["step"], rates["compute"])
    if "views" in rates:
        found["ratios"]["views / lightly"] = ratio(rates["views"], rates["views (lightly)"])
        # Below 1 is better: the same work needs less processor time.
        found["ratios"]["views / lightly, CPU time"] = ratio(
            [s.cpu_ms for s in samples["views"]], [s.cpu_ms for s in samples["views (lightly)"]]
        )
    return found


def report(result: dict[str, Any]) -> str:
    """The result as a few lines of text."""
    options, config = result["options"], result["config"]
    lines = [
        f"{config['method']} {config['backbone']} at {config['size']} px, batch "
        f"{options['batch_size']}, {options['num_workers']} workers, {result['device']}",
        f"{'part':<16} {'images/s':>9}  {'(low to high)':<20} CPU ms/image",
    ]
    for name, part in result["parts"].items():
        speed, cost = part["images_per_second"], part["cpu_ms_per_image"]
        between = f"({speed['low']:.1f} to {speed['high']:.1f})"
        lines.append(f"{name:<16} {speed['median']:9.1f}  {between:<20} {cost['median']:.2f}")
    for name, value in result["ratios"].items():
        lines.append(f"{name}: {value['median']:.2f} ({value['low']:.2f} to {value['high']:.2f})")
    if "bottleneck" in result:
        lines.append(f"bottleneck: {result['bottleneck']} (the slowest part alone)")
    return "\n".join(lines)
