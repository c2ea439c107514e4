"""A linear probe or fine-tuning on random crops: config, weights and splits in, a Score out.

The only module here that reads the config. Several rates in SOLVER.LR_PER_256: each is tried on a
part of the training images and tested on the rest of them, then the best trains on all of them.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch.nn.modules.batchnorm import _BatchNorm

from pretrain.common.checkpoint import atomic_write_text
from pretrain.common.config import dump_yaml
from pretrain.common.distributed import is_main, world_size
from pretrain.common.errors import InputError
from pretrain.common.sync_batchnorm import convert_sync_batchnorm
from pretrain.data.crops import CropSpec
from transfer.checkpoints.weights import Weights
from transfer.classification.data import ImageTransform, Split
from transfer.classification.linear import split_holdout
from transfer.classification.metrics import per_class_accuracies
from transfer.classification.rates import check_rates, selection_notes
from transfer.classification.readable import check_readable
from transfer.classification.replicates import Outcomes
from transfer.classification.score import Score
from transfer.classification.splits import list_sha256, part_of, read_list
from transfer.classification.training.choice import FILE as RATES_FILE
from transfer.classification.training.choice import choose_rate
from transfer.classification.training.fit import (
    STATE_FILE,
    Progress,
    fit,
    metric_name,
    percentages,
)
from transfer.classification.training.heads import check_kinds
from transfer.classification.training.images import TrainImages, check_batch
from transfer.classification.training.loop import Trainer
from transfer.classification.training.model import Classifier, build_classifier
from transfer.classification.training.recipe import Recipe, make_optimizer, make_schedule

logger = logging.getLogger(__name__)
NAMES = ("linear_crops", "finetune")
PRINTED = ("", "top1", "top1_best", "both")


@dataclass(frozen=True)
class Task:
    """What all runs of a trial share."""

    cfg: CfgNode
    identity: str  # sha256 of the config
    weights: Weights
    train: Split
    test: Split
    transform: ImageTransform
    device: torch.device
    seed: int
    folder: Path
    resume: bool


def check_config(cfg: CfgNode) -> None:
    """Raises InputError for settings that cannot be trained with."""
    _recipe(cfg)
    _crop(cfg)
    train = cfg.TRAIN
    check_kinds(train.HEAD, train.HEAD_INIT, train.VIT_POOL)
    check_batch(cfg.SOLVER.BATCH_SIZE, world_size())
    if not 0 <= train.FLIP_PROB <= 1:
        raise InputError(f"TRAIN.FLIP_PROB {train.FLIP_PROB} is no probability; give 0 to 1")
    if train.SYNC_BN and train.NORM_BATCH:
        raise InputError("TRAIN.SYNC_BN and TRAIN.NORM_BATCH exclude each other: set one to 0")
    if train.SOURCE_PRINTS not in PRINTED:
        raise InputError(
            f"TRAIN.SOURCE_PRINTS {train.SOURCE_PRINTS!r} is unknown; known: {PRINTED[1:]} or ''"
        )
    if min(train.NORM_BATCH, train.EVAL_PERIOD) < 0 or train.NORM_BATCH == 1:
        raise InputError("TRAIN.NORM_BATCH must be 0 or 2 and more, TRAIN.EVAL_PERIOD 0 or more")


def check_data(cfg: CfgNode, train: Split) -> None:
    """Raises InputError for training images that do not fill a batch, or that the learning rate
    cannot be chosen on."""
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
    """Steps of the optimizer in a trial on `images` training images, those of the rates that are
    tried included (an extended grid not); 0 for protocols that train nothing here."""
    if cfg.PROTOCOL.NAME not in NAMES:
        return 0
    rates = len(cfg.SOLVER.LR_PER_256)
    tried = round(images * (1 - cfg.PROTOCOL.HOLDOUT)) * rates if rates > 1 else 0
    return math.ceil((images + tried) * cfg.SOLVER.EPOCHS / cfg.SOLVER.BATCH_SIZE)


def evaluations(cfg: CfgNode) -> int:
    """Passes over the test images in a trial."""
    period = cfg.TRAIN.EVAL_PERIOD if cfg.PROTOCOL.NAME in NAMES else 0
    return math.ceil(cfg.SOLVER.EPOCHS / period) if period else 1


def listed_part(cfg: CfgNode, train: Split) -> tuple[Split, CfgNode]:
    """The images that TRAIN.SPLIT_LIST names (all without one), and the config whose sha256 is the
    protocol's identity: in it the list is named by its content, not by its path.

    Raises InputError as `read_list` and `part_of`, and for a list that leaves a class out.
    """
    source = cfg.TRAIN.SPLIT_LIST
    if not source:
        return train, cfg
    names = read_list(source, cfg.TRAIN.SPLIT_LINES)
    identity = cfg.clone()
    identity.defrost()
    identity.TRAIN.SPLIT_LIST = list_sha256(names)
    identity.freeze()
    part = part_of(train, names, source)
    left_out = (part.labels.bincount(minlength=len(part.classes)) == 0).nonzero()
    if len(left_out):
        raise InputError(
            f"{source} names no image of {len(left_out)} of the {len(part.classes)} classes, such "
            f"as {part.classes[int(left_out[0])]!r}: no test image of theirs could be right"
        )
    return part, identity


def train_and_score(task: Task) -> Score:
    """Runs one trial; every process takes part and gets the same Score.

    Raises:
        InputError: an unreadable image, or a `training.pth` of another run.
        FloatingPointError: the loss is not finite.
    """
    cfg, loader = task.cfg, task.cfg.DATALOADER
    # What the backbone lacks for these heads, or the batch, is said before anything is written
    _least_share(cfg, _model(task))
    logger.info("%s takes random crops: no cached features are used", cfg.PROTOCOL.NAME)
    marks = (STATE_FILE, f"lr_*/{STATE_FILE}", RATES_FILE)
    started = any(any(task.folder.glob(mark)) for mark in marks)
    if loader.CHECK_IMAGES and not (task.resume and started):
        check_readable([task.train, task.test], loader.NUM_WORKERS)
    if is_main():  # marks the folder as this run's from here on
        atomic_write_text(task.folder / "config.yaml", dump_yaml(cfg))
    lrs, notes = [float(lr) for lr in cfg.SOLVER.LR_PER_256], {}
    lr, tried = lrs[0], list[Progress]()
    if len(lrs) > 1:
        lr, scores, tried = _choose(task, lrs)
        notes = selection_notes(lr, scores, lrs)
    done, hits, heads = _run(task, lr, task.train, task.test, task.folder, cfg.TRAIN.EVAL_PERIOD)
    metrics = _metrics(heads, hits, done, len(task.train.classes), bool(cfg.TRAIN.EVAL_PERIOD))
    protocol = {}
    if cfg.TRAIN.EVAL_PERIOD:
        notes |= {"best_epoch": {metric_name(h, "top1"): b["epoch"] for h, b in done.best.items()}}
        protocol = {"source_prints": cfg.TRAIN.SOURCE_PRINTS or None}
    first = {metric_name(head, "top1"): hits[:, n, 0] for n, head in enumerate(heads)}
    among = {metric_name(head, "top5"): hits[:, n, 1] for n, head in enumerate(heads)}
    runs = [*tried, done]
    return Score(
        metrics,
        per_class_accuracies(first, task.test.labels, task.train.classes),
        _curve(done.rows, len(task.train.classes)),
        notes,
        Outcomes({k: v.numpy() for k, v in {**first, **among}.items() if k in metrics}),
        views=sum(run.views for run in runs),
        seconds_before=sum(run.before for run in runs),
        protocol=protocol,
    )


def _metrics(
    heads: list[str], hits: torch.Tensor, done: Progress, classes: int, best: bool
) -> dict[str, float]:
    """Of the last epoch, and *_best of the epoch with the highest top-1 on the test images."""
    metrics: dict[str, float] = {}
    for head, top1, top5 in zip(heads, *percentages(hits)):
        found = {"top1": top1, "top5": top5}
        if best:
            found |= {"top1_best": done.best[head]["top1"], "top5_best": done.best[head]["top5"]}
        kept = {name: value for name, value in found.items() if classes > 5 or "5" not in name}
        metrics |= {metric_name(head, name): value for name, value in kept.items()}
    return metrics


def _curve(rows: list[dict[str, float]], classes: int) -> list[dict[str, float]]:
    """The rows for curves.json: top-5 of five classes or fewer says nothing, as in the metrics."""
    return [{k: v for k, v in row.items() if classes > 5 or not k.endswith("top5")} for row in rows]


def _choose(task: Task, lrs: list[float]) -> tuple[float, dict[float, float], list[Progress]]:
    """The best learning rate on held-out training images (see `choose_rate`)."""
    generator = torch.Generator().manual_seed(task.seed)
    kept, held = split_holdout(task.train.labels, task.cfg.PROTOCOL.HOLDOUT, generator)
    part, rest = (task.train.subset(sorted(rows.tolist())) for rows in (kept, held))
    return choose_rate(
        lrs,
        lambda lr, folder: _run(task, lr, part, rest, folder, 0)[:2],
        task.folder,
        identity=f"{task.identity} {task.weights.sha256} {task.seed}",
        resume=task.resume,
    )


def _run(
    task: Task, lr: float, train: Split, test: Split, folder: Path, eval_period: int
) -> tuple[Progress, torch.Tensor, list[str]]:
    """One training run; what was done, hits of its last test (M, H, 2), the heads' names."""
    cfg, loader = task.cfg, task.cfg.DATALOADER
    model = _model(task)
    images = TrainImages(
        train,
        crop=_crop(cfg),
        flip_prob=cfg.TRAIN.FLIP_PROB,
        batch_size=cfg.SOLVER.BATCH_SIZE,
        drop_last=cfg.TRAIN.DROP_LAST,
        min_share=_least_share(cfg, model),
        num_workers=loader.NUM_WORKERS,
        seed=task.seed,
        device=task.device,
    )
    recipe = _recipe(cfg)
    trainer = Trainer(
        model,
        task.weights.preprocess,
        make_optimizer(recipe, model),
        make_schedule(recipe, lr, images.steps_per_epoch),
        norm_batch=cfg.TRAIN.NORM_BATCH,
        chunk=loader.BATCH_SIZE,
        amp=cfg.TRAIN.AMP,
    )
    done, hits = fit(
        trainer,
        images,
        epochs=recipe.epochs,
        test=lambda: trainer.evaluate(test, task.transform, loader.BATCH_SIZE, loader.NUM_WORKERS),
        eval_period=eval_period,
        state=folder,
        facts={
            "config": task.identity,
            "weights": task.weights.sha256,
            "seed": task.seed,
            "lr_per_256": lr,
        },
        resume=task.resume,
        frozen_state=task.weights.state,
        desc=f"{cfg.PROTOCOL.NAME}, lr {lr:g}",
    )
    return done, hits, model.names


def _least_share(cfg: CfgNode, model: Classifier) -> int:
    """Images that each process must have in a batch: two for a batch norm that sees its own alone.

    Raises InputError for a batch that gives a batch norm a single image.
    """
    if not any(isinstance(module, _BatchNorm) for module in model.trained().modules()):
        return 1
    batch, processes = cfg.SOLVER.BATCH_SIZE, world_size()
    alone = processes == 1 or not cfg.TRAIN.SYNC_BN
    if (batch // processes if alone else batch) < 2:
        raise InputError(
            f"SOLVER.BATCH_SIZE {batch} over {processes} gives the batch norms of a process one "
            "image, whose statistics say nothing; give it 2 images or more for each process"
        )
    return 2 if alone else 1


def _model(task: Task) -> Classifier:
    train, frozen = task.cfg.TRAIN, task.cfg.PROTOCOL.NAME == "linear_crops"
    model = build_classifier(
        task.weights,
        head=train.HEAD,
        num_classes=len(task.train.classes),
        image_size=task.cfg.PROTOCOL.IMAGE_SIZE,
        frozen=frozen,
        init=train.HEAD_INIT,
        vit_pool=train.VIT_POOL,
        seed=task.seed,
    ).to(task.device)
    model.to(memory_format=torch.channels_last)
    if train.SYNC_BN and world_size() > 1:
        model.heads = convert_sync_batchnorm(model.heads, task.device)
        if not frozen:
            model.trunk = convert_sync_batchnorm(model.trunk, task.device)
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
    scale, protocol = cfg.TRAIN.CROP_SCALE, cfg.PROTOCOL
    return CropSpec(protocol.IMAGE_SIZE, tuple(scale), interpolation=protocol.INTERPOLATION)
