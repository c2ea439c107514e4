"""Seconds per training iteration of the detection engines: a config in, a dict of builtins out.

Both engines read the same images with the same weights, seed and config. An iteration is that of
each engine's own loop: reading the batch, the learning rate, forward, backward, update, and
sometimes its log. There are no checkpoints, no evaluation and no precise batch norm.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode

from benchmarks import seconds
from benchmarks.pipeline import finisher
from benchmarks.timing import Sample, Work, interleaved, measure
from pretrain.common.distributed import process_device, seed_everything
from pretrain.digits.dataset import make_digits
from transfer.checkpoints.files import RANDOM
from transfer.checkpoints.read import read_weights
from transfer.checkpoints.weights import Weights
from transfer.datasets.registry import open_sets
from transfer.datasets.samples import DetectionSet
from transfer.detection.config import backbone_name, changed, with_data, with_preprocess

SCENES = (64, 0, 4)  # generated images for train, val, test, if no data set is given
NEVER = 10**6  # iterations: beyond any measurement


@dataclass(frozen=True)
class Options:
    """The options of a measurement.

    config: its name, for the result. batch_size: images, None for the config's. seconds: those of
    each of `repetitions` measurements. data: root of the data sets. None means the environment's,
    or generated ones if the config trains on digits.
    """

    config: str
    num_workers: int
    seconds: float
    repetitions: int
    batch_size: int | None = None
    data: Path | None = None


def run(cfg: CfgNode, options: Options) -> dict[str, Any]:
    """Measures the torchvision engine and, if it is importable, the detectron2 engine."""
    with tempfile.TemporaryDirectory(prefix="bench_") as scratch:
        use_data(cfg, options.data, Path(scratch))
        cfg, train_set = completed(cfg, options)
        weights = read_weights(RANDOM, backbone=backbone_name(cfg), seed=cfg.SEED)
        cfg = with_preprocess(cfg, weights.preprocess)
        device = process_device(cfg.MODEL.DEVICE)
        engines = {"torchvision": torchvision_step}
        if importlib.util.find_spec("detectron2") is not None:
            engines["detectron2"] = detectron2_step
        works = {}
        for name, make in engines.items():
            output = Path(scratch) / name
            output.mkdir()
            step = make(cfg, weights, train_set, output)
            works[name] = iterations(step, device, 2 * options.num_workers)
        samples = interleaved(works, options.seconds, options.repetitions)
    return seconds.result(
        samples,
        [("torchvision", "detectron2")],
        unit="iteration",
        options={**asdict(options), "data": str(options.data) if options.data else "default"},
        config=describe(cfg, options),
        device=device.type,
    )


def use_data(cfg: CfgNode, data: Path | None, scratch: Path) -> None:
    """Sets the root of the data sets to `data`, or to new digits if the config trains on them."""
    if data is not None:
        os.environ["DETECTRON2_DATASETS"] = str(data.absolute())
    elif all(
        name.split(":")[1:2] in (["digits_voc"], ["digits_coco"]) for name in cfg.DATASETS.TRAIN
    ):
        make_digits(scratch / "data", classification=(0, 0, 0), scenes=SCENES)
        os.environ["DETECTRON2_DATASETS"] = str(scratch / "data")


def completed(cfg: CfgNode, options: Options) -> tuple[CfgNode, DetectionSet]:
    """Returns the config with the options applied and without periodic work, and its training
    set.
    """
    train_set = open_sets(cfg.DATASETS.TRAIN, cfg.TRANSFER.CLASSES)
    facts = {
        "DATALOADER.NUM_WORKERS": options.num_workers,
        "SOLVER.IMS_PER_BATCH": options.batch_size or cfg.SOLVER.IMS_PER_BATCH,
        "SOLVER.MAX_ITER": NEVER,
        "SOLVER.CHECKPOINT_PERIOD": NEVER,
        "TEST.EVAL_PERIOD": 0,
        "TEST.PRECISE_BN.ENABLED": False,
    }
    return changed(with_data(cfg, train_set), facts), train_set


def iterations(step: Callable[[], int], device: torch.device, warmup: int) -> Work:
    """Repeats `step`. The first `warmup` steps are not measured: workers had prepared them."""

    def work(duration: float) -> Sample:
        for _ in range(warmup):
            step()
        return measure(step, duration, finisher(device))

    return work


def torchvision_step(
    cfg: CfgNode, weights: Weights, train_set: DetectionSet, output: Path
) -> Callable[[], int]:
    """One iteration of `transfer/training/loop.py`."""
    from transfer.detection.torchvision_engine import engine
    from transfer.detection.torchvision_engine.load import load_backbone
    from transfer.training import build, loop
    from transfer.training.metrics import open_metrics

    seed_everything(cfg.SEED)
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    detector = engine.make_detector(cfg, weights.preprocess)
    load_backbone(detector, weights)
    detector.to(process_device(cfg.MODEL.DEVICE))
    if cfg.TRANSFER.CHANNELS_LAST:
        detector.to(memory_format=torch.channels_last)
    optimizer, schedule = build.make_optimizer(cfg, detector), build.make_schedule(cfg)
    metrics = open_metrics(output, 0, cfg.TRANSFER.LOGGER)
    steps = loop.steps(
        detector,
        batches=([batch] for batch in engine.training_batches(cfg, train_set)),
        optimizer=optimizer,
        rate_at=schedule.factor,
        iterations=range(sys.maxsize),
    )

    def step() -> int:
        done = next(steps)
        if (done.iteration + 1) % cfg.TRANSFER.LOG_PERIOD == 0:
            metrics.write(done.iteration, total_loss=done.loss, **done.losses)
        return 1

    return step


def detectron2_step(
    cfg: CfgNode, weights: Weights, train_set: DetectionSet, output: Path
) -> Callable[[], int]:
    """One iteration of Detectron2's trainer with all of its hooks."""
    from detectron2.utils.env import seed_all_rng
    from detectron2.utils.events import EventStorage

    from transfer.checkpoints.writers import write_weights
    from transfer.detection import detectron2_engine as engine

    for name in (engine.TRAIN, engine.TEST):
        engine.register(name, train_set)
    path = output / engine.BACKBONE_FILE
    write_weights(weights, path)
    seed_all_rng(cfg.SEED)
    trainer = engine.Trainer(
        engine.to_detectron2(cfg, output, str(path)),
        weights.preprocess.highpass,
        lambda predictions, iteration: {},
    )
    trainer.resume_or_load(resume=False)
    trainer.iter, storage = 0, EventStorage(0)
    with storage:
        trainer.storage = storage
        trainer.before_train()

    def step() -> int:
        with storage:
            trainer.before_step()
            trainer.run_step()
            trainer.after_step()
            trainer.iter += 1
        return 1

    return step


def describe(cfg: CfgNode, options: Options) -> dict[str, Any]:
    """Returns the facts of the config that a reader of the numbers must know."""
    return {
        "config": options.config,
        "backbone": backbone_name(cfg),
        "head": cfg.MODEL.ROI_HEADS.NAME,
        "masks": cfg.MODEL.MASK_ON,
        "batch": cfg.SOLVER.IMS_PER_BATCH,
        "short edge": list(cfg.INPUT.MIN_SIZE_TRAIN),
        "workers": options.num_workers,
        "channels last (torchvision)": cfg.TRANSFER.CHANNELS_LAST,
    }
