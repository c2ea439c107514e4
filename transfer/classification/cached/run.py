"""The protocols on cached features: a job and the features of its splits in, a Score out.

Reads the config, as every run module.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch
from fvcore.common.config import CfgNode

from pretrain.common.errors import InputError
from transfer.checkpoints.weights import Weights
from transfer.classification.data import Split
from transfer.classification.extract import Extracted, extract_splits
from transfer.classification.features import Features, choose_formats
from transfer.classification.job import ClassificationJob
from transfer.classification.knn import check_k, check_temperatures, evaluate_knn
from transfer.classification.kshot import check_shots, draw_shots, fit_and_predict
from transfer.classification.linear import (
    Solver,
    check_holdout,
    choose_lr,
    standardize_,
    train_heads,
)
from transfer.classification.metrics import hits, per_class_accuracies
from transfer.classification.rates import check_rates, selection_notes
from transfer.classification.replicates import Outcomes
from transfer.classification.score import Score
from transfer.classification.svm import (
    check_targets,
    evaluate_low_shot,
    evaluate_svm,
    sample_shots,
)

logger = logging.getLogger(__name__)


def score_knn(job: ClassificationJob, bank: Features, queries: Features, seed: int) -> Score:
    """Weighted kNN, every k and temperature from one search; the bank stays where it is mapped."""
    metrics, correct = evaluate_knn(
        bank.values,
        bank.labels,
        queries.values,
        queries.labels,
        k=job.cfg.PROTOCOL.K,
        temperature=job.cfg.PROTOCOL.TEMPERATURE,
        more_temperatures=job.cfg.KNN.MORE_TEMPERATURES,
        num_classes=len(job.train_set.classes),
        device=job.device,
    )
    first = {f"knn{size}_top1": correct[f"knn{size}_top1"] for size in job.cfg.PROTOCOL.K}
    outcomes = Outcomes({name: right.numpy() for name, right in correct.items()})
    return Score(
        metrics,
        per_class_accuracies(first, queries.labels, job.train_set.classes),
        outcomes=outcomes,
    )


def score_linear(job: ClassificationJob, bank: Features, queries: Features, seed: int) -> Score:
    """A linear head: learning rate chosen on held-out training images, retrained on all."""
    cfg, classes = job.cfg, job.train_set.classes
    solver = _solver(cfg)
    values, test_values = (  # copies: the features may be mapped from a file
        split.values.to(job.device, torch.float32, copy=True) for split in (bank, queries)
    )
    labels, test_labels = (split.labels.to(job.device) for split in (bank, queries))
    if cfg.PROTOCOL.STANDARDIZE:
        standardize_(values, test_values)
    generator = torch.Generator().manual_seed(seed)
    common = {"num_classes": len(classes), "generator": generator}
    lrs = [float(lr) for lr in cfg.SOLVER.LR_PER_256]
    lr, held_out = lrs[0], {}
    if len(lrs) > 1:
        lr, held_out = choose_lr(
            values, labels, lrs, solver, holdout=cfg.PROTOCOL.HOLDOUT, **common
        )
    heads = train_heads(values, labels, [lr], solver, desc=f"head, lr {lr:g}", **common)
    tops = (1, 5) if len(classes) > 5 else (1,)
    rows = torch.arange(len(test_labels), device=job.device)
    found = heads.hits(test_values, test_labels, rows, tops)[:, 0]
    right = {f"top{top}": one for top, one in zip(tops, found)}
    metrics = {name: 100.0 * int(one.sum()) / len(rows) for name, one in right.items()}
    outcomes = Outcomes({name: one.cpu().numpy() for name, one in right.items()})
    notes = selection_notes(lr, held_out, lrs)
    per_class = per_class_accuracies({"top1": right["top1"]}, queries.labels, classes)
    return Score(metrics, per_class, heads.curve, notes, outcomes)


def score_svm(job: ClassificationJob, bank: Features, queries: Features, seed: int) -> Score:
    """One SVM per class, cost by cross-validation; mAP."""
    result = evaluate_svm(
        *_arrays(bank, queries),
        costs=[float(cost) for cost in job.cfg.SVM.COSTS],
        folds=job.cfg.SVM.FOLDS,
        max_iter=job.cfg.SVM.MAX_ITER,
    )
    names = job.train_set.classes
    notes = {"cost": dict(zip(names, result.costs.tolist()))}
    per_class = {"mAP": dict(zip(names, result.per_class.tolist()))}
    outcomes = Outcomes(ranked={"mAP": (result.scores, queries.labels.numpy())})
    return Score({"mAP": result.mean_ap}, per_class, notes=notes, outcomes=outcomes)


def score_svm_lowshot(
    job: ClassificationJob, bank: Features, queries: Features, seed: int
) -> Score:
    """mAP by the number of positive images per class; the trial is the draw."""
    values, targets, test_values, test_targets = _arrays(bank, queries)
    costs = [float(cost) for cost in job.cfg.SVM.COSTS]
    metrics, notes, outcomes = {}, {}, Outcomes()
    for shots in job.cfg.SVM.SHOTS:
        found, scores = evaluate_low_shot(
            values,
            sample_shots(targets, shots, seed),
            test_values,
            test_targets,
            costs=costs,
            max_iter=job.cfg.SVM.MAX_ITER,
        )
        metrics[f"shots{shots}_mAP"] = float(found.max())
        outcomes.ranked[f"shots{shots}_mAP"] = (scores[found.argmax()], test_targets)
        notes[f"shots{shots}_mAP_by_cost"] = dict(zip(map(str, costs), found.tolist()))
    return Score(metrics, {}, notes=notes, outcomes=outcomes)


def score_kshot(job: ClassificationJob, bank: Features, queries: Features, seed: int) -> Score:
    """Logistic regression on k images per class; the trial is the draw."""
    values, labels, test_values, _ = _arrays(bank, queries)
    rows = job.drawn[seed].reshape(len(job.train_set.classes), -1)  # (classes, the most shots)
    metrics, notes, outcomes = {}, {}, Outcomes()
    for shots in job.cfg.KSHOT.SHOTS:
        chosen = rows[:, :shots].ravel()
        scores = fit_and_predict(values[chosen], labels[chosen], test_values, job.cfg.KSHOT.PENALTY)
        right = hits(torch.from_numpy(scores), queries.labels)
        metrics[f"shots{shots}_top1"] = 100.0 * int(right.sum()) / len(right)
        outcomes.correct[f"shots{shots}_top1"] = right.numpy()
        notes[f"shots{shots}"] = [job.train_set.images.name(int(row)) for row in chosen[:1000]]
    return Score(metrics, {}, notes=notes, outcomes=outcomes)


def _arrays(bank: Features, queries: Features) -> tuple[np.ndarray, ...]:
    splits = (bank, queries)
    return tuple(t.numpy() for split in splits for t in (split.values.float(), split.labels))


PROTOCOLS: dict[str, Callable[[ClassificationJob, Features, Features, int], Score]] = {
    "knn": score_knn,
    "linear": score_linear,
    "svm": score_svm,
    "svm_lowshot": score_svm_lowshot,
    "kshot": score_kshot,
}


def check_config(cfg: CfgNode, train: Split, test: Split) -> None:
    """Raises InputError, before any feature is made, for what a protocol cannot work with."""
    protocol = cfg.PROTOCOL
    if protocol.NAME == "linear":
        _solver(cfg)
        if len(cfg.SOLVER.LR_PER_256) > 1:
            check_holdout(train.labels, protocol.HOLDOUT, train.classes)
    if protocol.NAME.startswith("svm"):
        _check_svm(cfg, train, test)
    if protocol.NAME == "knn":
        check_k(protocol.K, len(train), train.name)
        check_temperatures(protocol.TEMPERATURE, cfg.KNN.MORE_TEMPERATURES)
    if cfg.QUALITY.IMAGES < 0:
        raise InputError(f"QUALITY.IMAGES {cfg.QUALITY.IMAGES} must be 0 (no features/*) or more")


def draw(cfg: CfgNode, trials: int, train: Split) -> tuple[Split, dict[int, np.ndarray]]:
    """The images that some trial draws, and each trial's rows of them: no others are read."""
    check_shots(cfg.KSHOT.SHOTS, cfg.KSHOT.PENALTY)
    labels, most = train.labels.numpy(), max(cfg.KSHOT.SHOTS)
    seeds = [cfg.SEED + trial for trial in range(trials)]
    drawn = {seed: draw_shots(labels, most, seed, train.classes) for seed in seeds}
    union = np.unique(np.concatenate(list(drawn.values())))
    rows = {seed: np.searchsorted(union, indices) for seed, indices in drawn.items()}
    return train.subset(union.tolist()), rows


def _check_svm(cfg: CfgNode, train: Split, test: Split) -> None:
    """Raises InputError for what no SVM can be trained on."""
    node, targets = cfg.SVM, train.labels.numpy()
    if not node.COSTS or min(node.COSTS) <= 0:
        raise InputError(f"SVM.COSTS {tuple(node.COSTS)} must list numbers above 0")
    check_targets(targets, test.labels.numpy(), node.FOLDS, train.classes)
    for shots in node.SHOTS if cfg.PROTOCOL.NAME == "svm_lowshot" else ():
        sample_shots(targets, shots, cfg.SEED, train.classes)


def _solver(cfg: CfgNode) -> Solver:
    solver = cfg.SOLVER
    check_rates(solver.LR_PER_256)
    return Solver(solver.EPOCHS, solver.BATCH_SIZE, solver.MOMENTUM, solver.WEIGHT_DECAY)


def with_formats(cfg: CfgNode, device: torch.device) -> CfgNode:
    """A copy in which FEATURES says what is used here: recorded, and part of the identity."""
    cfg = cfg.clone()
    cfg.defrost()
    node = cfg.FEATURES
    node.PRECISION, node.STORAGE = choose_formats(node.PRECISION, node.STORAGE, device)
    cfg.freeze()
    return cfg


def extract(job: ClassificationJob, weights: Weights) -> Extracted:
    """Features of both splits and their quality."""
    cfg = job.cfg
    if not cfg.CACHE_DIR:
        logger.info("no CACHE_DIR: the features are kept in memory, and made anew after a kill")
    return extract_splits(
        weights,
        job.train_set,
        job.test_set,
        job.transform,
        quality_images=cfg.QUALITY.IMAGES,
        device=job.device,
        batch_size=cfg.DATALOADER.BATCH_SIZE,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        cache_dir=cfg.CACHE_DIR,
        window=cfg.SVM.WINDOW if cfg.PROTOCOL.NAME.startswith("svm") else 0,
        precision=cfg.FEATURES.PRECISION,
        storage=cfg.FEATURES.STORAGE,
    )
