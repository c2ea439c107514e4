"""The protocols `linear_crops` and `finetune`: a network is trained on random crops of the images.

`linear_crops` trains a linear head on a frozen backbone; `finetune` trains the full network. If
SOLVER.LR_PER_256 lists several rates, each is tried on a part of the training images and tested on
the rest of them; then the best one is used to train on all of them. The training itself is in
`transfer.classification.training`, which does not read the config.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch.nn.modules.batchnorm import _BatchNorm

from pretrain.common.distributed import from_main, world_size
from pretrain.common.errors import InputError
from pretrain.common.loggers import check_loggers
from pretrain.common.sync_batchnorm import convert_sync_batchnorm
from pretrain.data.crops import CropSpec
from transfer.checkpoints.weights import Weights
from transfer.classification.crops import check_readable
from transfer.classification.defaults import reads
from transfer.classification.metrics import per_class_accuracies
from transfer.classification.protocols.protocol import (
    ClassificationJob,
    Data,
    Training,
    open_labelled,
)
from transfer.classification.rates import check_rates, selection_notes, split_holdout
from transfer.classification.score import Outcomes, Score
from transfer.classification.splits import Split
from transfer.classification.training.choose_rate import FILE as RATES_FILE
from transfer.classification.training.choose_rate import choose_rate
from transfer.classification.training.fit import (
    STATE_FILE,
    Progress,
    fit,
    metric_name,
    percentages,
)
from transfer.classification.training.heads import check_kinds
from transfer.classification.training.image_list import list_sha256, part_of, read_list
from transfer.classification.training.images import TrainImages, check_batch
from transfer.classification.training.loop import Trainer
from transfer.classification.training.model import (
    Classifier,
    build_classifier,
    trained_head,
)
from transfer.classification.training.optimizer_and_schedule import (
    Recipe,
    make_optimizer,
    make_schedule,
)
from transfer.trials.task import Trial

logger = logging.getLogger(__name__)
PRINTED = ("", "top1", "top1_best", "both")


@dataclass(frozen=True)
class Shared:
    """Holds what a trial's training runs share: those that try a rate, and the final run."""

    job: ClassificationJob
    trial: Trial
    weights: Weights


def check(cfg: CfgNode, trials: int) -> Data:
    """Checks the settings, then opens the data; TRAIN.SPLIT_LIST selects images if it is set."""
    check_config(cfg)
    data = listed_part(open_labelled(cfg))
    check_batches(cfg, data.train)
    return data


def check_config(cfg: CfgNode) -> None:
    """Raises InputError for settings with which training is not possible."""
    _recipe(cfg)
    _crop(cfg)
    train = cfg.TRAIN
    check_kinds(train.HEAD, train.HEAD_INIT, train.VIT_POOL)
    check_batch(cfg.SOLVER.BATCH_SIZE, world_size())
    check_loggers(cfg.LOGGER)
    if not 0 <= train.FLIP_PROB <= 1:
        raise InputError(f"TRAIN.FLIP_PROB {train.FLIP_PROB} is not a probability; give 0 to 1")
    if not 0 <= train.GAMMA < float("inf"):
        raise InputError(f"TRAIN.GAMMA {train.GAMMA} must be 0 or more")
    if train.SYNC_BN and train.NORM_BATCH:
        raise InputError(
            "TRAIN.SYNC_BN and TRAIN.NORM_BATCH exclude each other; set SYNC_BN False or "
            "NORM_BATCH 0"
        )
    if train.SOURCE_PRINTS not in PRINTED:
        raise InputError(
            f"TRAIN.SOURCE_PRINTS {train.SOURCE_PRINTS!r} is unknown; known: {PRINTED[1:]} or ''"
        )
    if min(train.NORM_BATCH, train.EVAL_PERIOD) < 0 or train.NORM_BATCH == 1:
        raise InputError("TRAIN.NORM_BATCH must be 0, or 2 or more; TRAIN.EVAL_PERIOD 0 or more")


def check_batches(cfg: CfgNode, train: Split) -> None:
    """Raises InputError if the images do not fill a batch, or if no rate can be chosen on them."""
    count = len(train)
    if len(cfg.SOLVER.LR_PER_256) > 1:
        generator = torch.Generator().manual_seed(cfg.SEED)
        held_out = (cfg.PROTOCOL.HOLDOUT, generator, train.classes)
        count = len(split_holdout(train.labels, *held_out)[0])
    batch = cfg.SOLVER.BATCH_SIZE
    if count < (batch if cfg.TRAIN.DROP_LAST else min(batch, 2 * world_size())):
        raise InputError(
            f"{count} training images do not fill a batch of SOLVER.BATCH_SIZE {batch}; lower it, "
            "or set TRAIN.DROP_LAST False"
        )


def iterations(cfg: CfgNode, images: int) -> int:
    """Returns the number of optimizer steps in a trial on this number of training images.

    It includes the steps for the listed rates that are tried, but not those for rates that extend
    the grid. It is 0 for protocols that do not train on crops.
    """
    if not reads(cfg, "TRAIN"):
        return 0
    rates = len(cfg.SOLVER.LR_PER_256)
    tried = round(images * (1 - cfg.PROTOCOL.HOLDOUT)) * rates if rates > 1 else 0
    return math.ceil((images + tried) * cfg.SOLVER.EPOCHS / cfg.SOLVER.BATCH_SIZE)


def evaluations(cfg: CfgNode) -> int:
    """Returns the number of passes over the test images in a trial."""
    period = cfg.TRAIN.EVAL_PERIOD if reads(cfg, "TRAIN") else 0
    return math.ceil(cfg.SOLVER.EPOCHS / period) if period else 1


def listed_part(data: Data) -> Data:
    """Returns the data with the training images that TRAIN.SPLIT_LIST names; without it, with all.

    The protocol's identity has the content of the list, so the list file may be at any path.

    Raises:
        InputError: as `read_list` and `part_of` do, and if the list leaves a class out.
    """
    source, train = data.identity.TRAIN.SPLIT_LIST, data.train
    if not source:
        return data
    names = read_list(source, data.identity.TRAIN.SPLIT_LINES)
    identity = data.identity.clone()
    identity.defrost()
    identity.TRAIN.SPLIT_LIST = list_sha256(names)
    identity.freeze()
    part = part_of(train, names, source)
    left_out = (part.labels.bincount(minlength=len(part.classes)) == 0).nonzero()
    if len(left_out):
        raise InputError(
            f"{source} names no image of {len(left_out)} of the {len(part.classes)} classes, such "
            f"as {part.classes[int(left_out[0])]!r}, so their test images could never be correct; "
            "give a list that has images of all classes"
        )
    return replace(data, train=part, identity=identity)


def score(job: ClassificationJob, trial: Trial, weights: Weights) -> Score:
    """Trains and tests the network; every process takes part and gets the same Score.

    Raises:
        InputError: an image is unreadable, or `training.pth` was written by a different run.
        FloatingPointError: the loss is not finite.
    """
    cfg, loader, shared = job.cfg, job.cfg.DATALOADER, Shared(job, trial, weights)
    # An error about a backbone or a batch that does not fit the heads comes before any writing.
    _least_share(cfg, _model(shared))
    logger.info("%s trains on random crops: it uses no cached features", cfg.PROTOCOL.NAME)
    marks = (STATE_FILE, f"lr_*/{STATE_FILE}", RATES_FILE)
    started = any(any(trial.folder.glob(mark)) for mark in marks)
    if loader.CHECK_IMAGES and not (job.request.resume and started):
        check_readable([job.train_set, job.test_set], loader.NUM_WORKERS)
    job.begin_folder(trial, weights)
    lrs, notes = [float(lr) for lr in cfg.SOLVER.LR_PER_256], {}
    lr, tried = lrs[0], list[Progress]()
    if len(lrs) > 1:
        lr, scores, tried = _choose(shared, lrs)
        notes = selection_notes(lr, scores, lrs)
    done, hits, model = _run(
        shared, lr, job.train_set, job.test_set, trial.folder, cfg.TRAIN.EVAL_PERIOD
    )
    heads = model.names
    metrics = _metrics(heads, hits, done, len(job.train_set.classes), bool(cfg.TRAIN.EVAL_PERIOD))
    protocol = {}
    if cfg.TRAIN.EVAL_PERIOD:
        notes |= {"best_epoch": {metric_name(h, "top1"): b["epoch"] for h, b in done.best.items()}}
        protocol = {"source_prints": cfg.TRAIN.SOURCE_PRINTS or None}
    first = {metric_name(head, "top1"): hits[:, n, 0] for n, head in enumerate(heads)}
    among = {metric_name(head, "top5"): hits[:, n, 1] for n, head in enumerate(heads)}
    runs = [*tried, done]
    return Score(
        metrics,
        per_class_accuracies(first, job.test_set.labels, job.train_set.classes),
        _curve(done.rows, len(job.train_set.classes)),
        notes,
        Outcomes({k: v.numpy() for k, v in {**first, **among}.items() if k in metrics}),
        views=sum(run.views for run in runs),
        seconds_before=sum(run.before for run in runs),
        protocol=protocol,
        head=trained_head(model, job.train_set.classes),
    )


PROTOCOL = Training(names=("linear_crops", "finetune"), check=check, score=score)


def _metrics(
    heads: list[str], hits: torch.Tensor, done: Progress, classes: int, best: bool
) -> dict[str, float]:
    """Returns metrics of the last epoch, and *_best of the epoch with the best test top-1."""
    metrics: dict[str, float] = {}
    for head, top1, top5 in zip(heads, *percentages(hits)):
        found = {"top1": top1, "top5": top5}
        if best:
            found |= {"top1_best": done.best[head]["top1"], "top5_best": done.best[head]["top5"]}
        kept = {name: value for name, value in found.items() if classes > 5 or "5" not in name}
        metrics |= {metric_name(head, name): value for name, value in kept.items()}
    return metrics


def _curve(rows: list[dict[str, float]], classes: int) -> list[dict[str, float]]:
    """Returns the rows for curves.json, without top-5 if there are five classes or fewer."""
    return [{k: v for k, v in row.items() if classes > 5 or not k.endswith("top5")} for row in rows]


def _choose(shared: Shared, lrs: list[float]) -> tuple[float, dict[float, float], list[Progress]]:
    """Chooses the learning rate on held-out training images (see `choose_rate`)."""
    job, trial = shared.job, shared.trial
    generator = torch.Generator().manual_seed(trial.seed)
    kept, held = split_holdout(job.train_set.labels, job.cfg.PROTOCOL.HOLDOUT, generator)
    part, rest = (job.train_set.subset(sorted(rows.tolist())) for rows in (kept, held))
    return choose_rate(
        lrs,
        lambda lr, folder: _run(shared, lr, part, rest, folder, 0)[:2],
        trial.folder,
        identity=f"{job.identity} {shared.weights.sha256} {trial.seed}",
        resume=job.request.resume,
    )


def _run(
    shared: Shared, lr: float, train: Split, test: Split, folder: Path, eval_period: int
) -> tuple[Progress, torch.Tensor, Classifier]:
    """Trains once; returns the progress, hits of the last test (M, H, 2), and the trained network
    with H heads."""
    job, cfg, loader = shared.job, shared.job.cfg, shared.job.cfg.DATALOADER
    trainer, images = make_training(shared, lr, train)
    chosen = folder == shared.trial.folder  # not a run that tries a rate
    # The networks of earlier rates have drawn from it, if this process has built them.
    torch.manual_seed(shared.trial.seed)
    done, hits = fit(
        trainer,
        images,
        epochs=cfg.SOLVER.EPOCHS,
        test=lambda: trainer.evaluate(test, job.transform, loader.BATCH_SIZE, loader.NUM_WORKERS),
        eval_period=eval_period,
        state=folder,
        facts={
            "config": job.identity,
            "weights": shared.weights.sha256,
            "seed": shared.trial.seed,
            "lr_per_256": lr,
        },
        resume=job.request.resume,
        frozen_state=shared.weights.state,
        data=from_main(None, lambda: train.fingerprint),
        loggers=cfg.LOGGER if chosen else "",
        desc=f"{cfg.PROTOCOL.NAME}, lr {lr:g}",
    )
    return done, hits, trainer.model


def make_training(shared: Shared, lr: float, train: Split) -> tuple[Trainer, TrainImages]:
    """Returns the trainer at a learning rate per 256 images, and the batches that it trains on."""
    cfg, loader = shared.job.cfg, shared.job.cfg.DATALOADER
    model = _model(shared)
    images = TrainImages(
        train,
        crop=_crop(cfg),
        flip_prob=cfg.TRAIN.FLIP_PROB,
        batch_size=cfg.SOLVER.BATCH_SIZE,
        drop_last=cfg.TRAIN.DROP_LAST,
        min_share=_least_share(cfg, model),
        num_workers=loader.NUM_WORKERS,
        seed=shared.trial.seed,
        device=shared.job.device,
    )
    recipe = _recipe(cfg)
    trainer = Trainer(
        model,
        shared.weights.preprocess,
        make_optimizer(recipe, model),
        make_schedule(recipe, lr, images.steps_per_epoch),
        norm_batch=cfg.TRAIN.NORM_BATCH,
        chunk=loader.BATCH_SIZE,
        amp=cfg.TRAIN.AMP,
    )
    return trainer, images


def _least_share(cfg: CfgNode, model: Classifier) -> int:
    """Returns how many images each process needs in a batch: 2 if batch norms are not synchronised.

    Raises:
        InputError: the batch gives a batch norm a single image.
    """
    if not any(isinstance(module, _BatchNorm) for module in model.trained().modules()):
        return 1
    batch, processes = cfg.SOLVER.BATCH_SIZE, world_size()
    alone = processes == 1 or not cfg.TRAIN.SYNC_BN
    if (batch // processes if alone else batch) < 2:
        raise InputError(
            f"SOLVER.BATCH_SIZE {batch} on {processes} gives the batch norms of a process a single "
            "image, which has no useful statistics; set it to 2 or more images for each process"
        )
    return 2 if alone else 1


def _model(shared: Shared) -> Classifier:
    job, train = shared.job, shared.job.cfg.TRAIN
    frozen = job.cfg.PROTOCOL.NAME == "linear_crops"
    model = build_classifier(
        shared.weights,
        head=train.HEAD,
        num_classes=len(job.train_set.classes),
        image_size=job.cfg.PROTOCOL.IMAGE_SIZE,
        frozen=frozen,
        init=train.HEAD_INIT,
        vit_pool=train.VIT_POOL,
        seed=shared.trial.seed,
    ).to(job.device)
    model.to(memory_format=torch.channels_last)
    if train.SYNC_BN and world_size() > 1:
        model.heads = convert_sync_batchnorm(model.heads, job.device)
        if not frozen:
            model.trunk = convert_sync_batchnorm(model.trunk, job.device)
    return model


def _recipe(cfg: CfgNode) -> Recipe:
    solver, train = cfg.SOLVER, cfg.TRAIN
    check_rates(solver.LR_PER_256)
    return Recipe(
        epochs=solver.EPOCHS,
        batch_size=solver.BATCH_SIZE,
        optimizer=train.OPTIMIZER,
        lars=train.LARS,
        momentum=solver.MOMENTUM,
        nesterov=train.NESTEROV,
        weight_decay=solver.WEIGHT_DECAY,
        backbone_lr_ratio=train.BACKBONE_LR_RATIO,
        schedule=train.SCHEDULE,
        per_epoch=train.PER_EPOCH,
        warmup_epochs=train.WARMUP_EPOCHS,
        milestones=tuple(train.MILESTONES),
        gamma=train.GAMMA,
    )


def _crop(cfg: CfgNode) -> CropSpec:
    scale, protocol = tuple(cfg.TRAIN.CROP_SCALE), cfg.PROTOCOL
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise InputError(
            f"TRAIN.CROP_SCALE {scale} must be the smallest and the largest share of the area, "
            "above 0 and up to 1"
        )
    return CropSpec(protocol.IMAGE_SIZE, scale, interpolation=protocol.INTERPOLATION)
