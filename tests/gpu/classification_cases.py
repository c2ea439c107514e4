"""The protocols of classification as cases of the rehearsal: features, their scores, training.

`features/` extracts two batches. `score/` is what a protocol does with cached features (few of
them, but with values, since the search for neighbours depends on them). `train/` is an epoch of one
step with random crops, and `test/` a pass over one batch of test images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.nn.functional import one_hot

from pretrain.common.config import load_config
from pretrain.common.distributed import process_device
from pretrain.data.datasets import ArrayImages
from tests.gpu.counting import Action, count
from transfer.checkpoints.read import random_weights
from transfer.classification.crops import ImageTransform
from transfer.classification.defaults import get_defaults, reads
from transfer.classification.features.extract import Features, extract_features
from transfer.classification.features.formats import with_formats
from transfer.classification.protocols.all_protocols import PROTOCOLS
from transfer.classification.protocols.kshot import draw_shots
from transfer.classification.protocols.protocol import ClassificationJob, OnFeatures
from transfer.classification.protocols.train_on_crops import Shared, make_training
from transfer.classification.splits import Split
from transfer.classification.training import loop
from transfer.trials.task import Request, Trial

IMAGES = 32  # of a process in a step
ROWS, QUERIES = 5000, 1500  # of features: more than kNN takes at once
DIMENSIONS, CLASSES = 64, 10
ON_HOST = 80  # rows for what scikit-learn computes
SIDE = 64  # px of the stored images
# Less of the same.
SHORT = {
    "linear_imagenet": ("SOLVER.EPOCHS", "2", "SOLVER.LR_PER_256", "[0.1, 0.3]"),
    "svm_voc07": ("SVM.COSTS", "[1.0]"),
}
TRAINED = ("linear_imagenet_moco", "linear_imagenet_mae", "linear_imagenet_vissl")
TUNED = ("semi_imagenet_1pct",)
CASES = [
    *("features/knn_imagenet@1", "features/knn_imagenet@8", "features/svm_voc07@1"),
    *("score/knn_imagenet@1", "score/linear_imagenet@1", "score/svm_voc07@1"),
    "score/kshot_imagenet@1",
    *(f"train/{name}@{world}" for name in (*TRAINED, *TUNED) for world in (1, 8)),
    *(f"test/{name}@1" for name in (*TRAINED, *TUNED)),
]


def measure(case: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The numbers of a case."""
    action, name = case.split("/")
    name, world = name.split("@")
    prepare = {
        "features": extraction,
        "score": scoring,
        "train": partial(training, testing=False),
        "test": partial(training, testing=True),
    }[action]
    # DistributedDataParallel's constructor needs answers from other processes.
    alone = mock.patch.object(loop, "distribute", lambda module: module)
    with tempfile.TemporaryDirectory(prefix="rehearsal_") as folder, alone:
        job = partial(make_job, name, int(world), Path(folder), action, overrides)
        rank = 0 if action == "features" else None  # the first process keeps the features
        values = action == "score"
        return count(lambda: prepare(job()), int(world), values=values, rank=rank)


def make_job(
    name: str, world: int, folder: Path, action: str, overrides: Sequence[str]
) -> ClassificationJob:
    """The job of a config on made-up images, on pretended CUDA."""
    words = ["DATALOADER.NUM_WORKERS", "0", "DATALOADER.BATCH_SIZE", str(IMAGES)]
    if action in ("train", "test"):
        words += ["SOLVER.BATCH_SIZE", str(IMAGES * world), "TRAIN.SPLIT_LIST", ""]
    words += [*SHORT.get(name, ()), *overrides]
    cfg = load_config(f"{name}.yaml", get_defaults(), words, "classification")
    device = process_device()
    split = made_up_split(max(2 * IMAGES * world, ON_HOST))
    node = cfg.PROTOCOL
    sizes = (node.RESIZE, node.IMAGE_SIZE, node.INTERPOLATION)
    squash = reads(cfg, "SVM") and cfg.SVM.SQUASH
    request = Request(f"{name}.yaml", "random", str(folder))
    return ClassificationJob(
        request,
        with_formats(cfg, device),
        split,
        split,
        ImageTransform(*sizes, squash=squash),
        device,
        "made up",
    )


def made_up_split(count: int) -> Split:
    """Noise of ten classes, in memory."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    labels = np.arange(count) % CLASSES
    classes = [str(number) for number in range(CLASSES)]
    images = ArrayImages(pixels, labels, classes, [f"image {index}" for index in range(count)])
    return Split("made-up", images, torch.from_numpy(labels), tuple(classes))


def extraction(job: ClassificationJob) -> Action:
    """Features of two batches of each process."""
    cfg = job.cfg
    weights = random_weights(cfg.BACKBONE.NAME or "resnet50", 0)
    run = partial(
        extract_features,
        weights,
        job.train_set,
        job.transform,
        device=job.device,
        batch_size=cfg.DATALOADER.BATCH_SIZE,
        window=cfg.SVM.WINDOW if reads(cfg, "SVM") else 0,
        precision=cfg.FEATURES.PRECISION,
        storage=cfg.FEATURES.STORAGE,
    )
    return Action(run, 2 * IMAGES)


def scoring(job: ClassificationJob) -> Action:
    """The score of features that are on the host, as the cache gives them."""
    cfg, drawn = job.cfg, {}
    protocol = PROTOCOLS[cfg.PROTOCOL.NAME]
    assert isinstance(protocol, OnFeatures)
    on_host = reads(cfg, "SVM") or reads(cfg, "KSHOT")
    counts = (ON_HOST, ON_HOST) if on_host else (ROWS, QUERIES)
    bank, queries = (made_up_features(seed, count) for seed, count in enumerate(counts))
    if reads(cfg, "KSHOT"):
        drawn = {0: draw_shots(bank.labels.numpy(), max(cfg.KSHOT.SHOTS), 0)}
    if reads(cfg, "SVM"):
        bank, queries = (replace(part, labels=one_hot(part.labels)) for part in (bank, queries))
    splits = [replace(job.train_set, labels=part.labels) for part in (bank, queries)]
    job = replace(job, train_set=splits[0], test_set=splits[1], drawn=drawn)
    return Action(lambda: protocol.score(job, bank, queries, 0), len(queries))


def made_up_features(seed: int, count: int) -> Features:
    """Rows around the centres of ten classes, shuffled."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.randperm(count, generator=draws) % CLASSES
    noise = torch.randn(count, DIMENSIONS, generator=draws)
    return Features(noise + 3 * torch.eye(CLASSES, DIMENSIONS)[labels], labels, 0.0)


def training(job: ClassificationJob, testing: bool) -> Action:
    """The second epoch, of one step; or a pass over one batch of test images."""
    folder = Path(job.request.output)
    weights = random_weights(job.cfg.BACKBONE.NAME, 0)
    shared = Shared(job, Trial(0, folder, 0), weights)
    batch = range(job.cfg.SOLVER.BATCH_SIZE)
    train, test = job.train_set.subset(batch), job.test_set.subset(batch[:IMAGES])
    trainer, images = make_training(shared, job.cfg.SOLVER.LR_PER_256[0], train)
    if testing:
        return Action(lambda: trainer.evaluate(test, job.transform, IMAGES, 0), IMAGES)
    epochs = iter(range(2))
    return Action(lambda: trainer.epoch(images, next(epochs), 2), IMAGES, repeated=True)
