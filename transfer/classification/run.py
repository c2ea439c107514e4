"""One classification protocol on one checkpoint: config and weights in, trial_T/record.json out.

The only module here that reads the config. Trials differ in their seed: SGD's order and the
held-out images of a linear probe, and the weights themselves where they are `random`. kNN on
given weights has no chance in it, so that its trials agree.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode

from pretrain.common.config import config_sha256, dump_yaml
from pretrain.common.distributed import (
    barrier,
    close_distributed,
    init_distributed,
    is_main,
    world_size,
)
from pretrain.common.errors import InputError
from pretrain.common.logs import setup_logging
from pretrain.common.lookup import find
from transfer.checkpoints.read import RANDOM, read_weights
from transfer.checkpoints.weights import Weights, default_name
from transfer.classification.artifacts import write_artifacts
from transfer.classification.data import (
    ImageTransform,
    Split,
    open_object_splits,
    open_splits,
)
from transfer.classification.defaults import not_in_identity
from transfer.classification.extract import Extracted, extract_splits
from transfer.classification.features import Features, choose_formats
from transfer.classification.knn import check_k, check_temperatures, evaluate_knn
from transfer.classification.kshot import check_shots, draw_shots, fit_and_predict
from transfer.classification.linear import Solver, choose_lr, standardize, train_heads
from transfer.classification.metrics import accuracy, hits, per_class_accuracies
from transfer.classification.replicates import Outcomes
from transfer.classification.score import Score
from transfer.classification.svm import (
    check_targets,
    evaluate_low_shot,
    evaluate_svm,
    sample_shots,
)
from transfer.results.record import FILE_NAME, make_record, read_record, write_record

logger = logging.getLogger(__name__)
ENGINE = "torch"


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    protocol: str  # the config file's stem names the protocol
    weights: str  # a file, or "random"
    output: str
    name: str | None = None
    trials: int = 1
    resume: bool = False
    overrides: tuple[str, ...] = ()
    first_trial: int = 0  # those before it are another command's


@dataclass(frozen=True)
class Job:
    """Everything that the trials share."""

    cfg: CfgNode
    request: Request
    train: Split
    test: Split
    transform: ImageTransform
    device: torch.device
    drawn: dict[int, np.ndarray] = field(default_factory=dict)  # kshot: seed -> rows of `train`


def classify(cfg: CfgNode, request: Request) -> list[Path]:
    """Runs the trials that have no record yet; returns the paths of all trials' records.

    Raises:
        InputError: what the data, the weights or the config lack.
    """
    device = init_distributed()
    try:
        setup_logging()
        return _run_trials(_prepare(cfg, request, device))
    finally:
        close_distributed()


def check(cfg: CfgNode, request: Request) -> Job:
    """Raises the InputErrors of `classify` that need no computing, before processes start."""
    job = _prepare(cfg, request, torch.device("cpu"))
    _read(cfg, request.weights, cfg.SEED)
    return job


def score_knn(job: Job, bank: Features, queries: Features, seed: int) -> Score:
    """Weighted kNN, every k and temperature from one search; the bank stays where it is mapped."""
    metrics, correct = evaluate_knn(
        bank.values,
        bank.labels,
        queries.values,
        queries.labels,
        k=job.cfg.PROTOCOL.K,
        temperature=job.cfg.PROTOCOL.TEMPERATURE,
        more_temperatures=job.cfg.KNN.MORE_TEMPERATURES,
        num_classes=len(job.train.classes),
        device=job.device,
    )
    first = {f"knn{size}_top1": correct[f"knn{size}_top1"] for size in job.cfg.PROTOCOL.K}
    outcomes = Outcomes({name: right.numpy() for name, right in correct.items()})
    return Score(
        metrics, per_class_accuracies(first, queries.labels, job.train.classes), outcomes=outcomes
    )


def score_linear(job: Job, bank: Features, queries: Features, seed: int) -> Score:
    """A linear head: learning rate chosen on held-out training images, retrained on all."""
    cfg, classes = job.cfg, job.train.classes
    solver = _solver(cfg)
    values, test_values = (split.values.to(job.device).float() for split in (bank, queries))
    labels, test_labels = (split.labels.to(job.device) for split in (bank, queries))
    if cfg.PROTOCOL.STANDARDIZE:
        values, test_values = standardize(values, test_values)
    generator = torch.Generator().manual_seed(seed)
    common = {"num_classes": len(classes), "generator": generator}
    lrs = [float(lr) for lr in cfg.SOLVER.LR_PER_256]
    lr, held_out = lrs[0], {}
    if len(lrs) > 1:
        lr, held_out = choose_lr(
            values, labels, lrs, solver, holdout=cfg.PROTOCOL.HOLDOUT, **common
        )
    heads = train_heads(values, labels, [lr], solver, desc=f"head, lr {lr:g}", **common)
    logits = heads.logits(test_values)[0]
    metrics = {"top1": accuracy(logits, test_labels)}
    if len(classes) > 5:
        metrics["top5"] = accuracy(logits, test_labels, 5)
    correct = {"top1": logits.argmax(dim=1) == test_labels}
    outcomes = Outcomes({m: hits(logits, test_labels, int(m[-1])).cpu().numpy() for m in metrics})
    notes = {"lr_per_256": lr, "held_out_top1": {f"{k:g}": v for k, v in held_out.items()}}
    per_class = per_class_accuracies(correct, queries.labels, classes)
    return Score(metrics, per_class, heads.curve, notes, outcomes)


def score_svm(job: Job, bank: Features, queries: Features, seed: int) -> Score:
    """One SVM per class, cost by cross-validation; mAP."""
    result = evaluate_svm(
        *_arrays(bank, queries),
        costs=[float(cost) for cost in job.cfg.SVM.COSTS],
        folds=job.cfg.SVM.FOLDS,
        max_iter=job.cfg.SVM.MAX_ITER,
    )
    names = job.train.classes
    notes = {"cost": dict(zip(names, result.costs.tolist()))}
    per_class = {"mAP": dict(zip(names, result.per_class.tolist()))}
    outcomes = Outcomes(ranked={"mAP": (result.scores, queries.labels.numpy())})
    return Score({"mAP": result.mean_ap}, per_class, notes=notes, outcomes=outcomes)


def score_svm_lowshot(job: Job, bank: Features, queries: Features, seed: int) -> Score:
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


def score_kshot(job: Job, bank: Features, queries: Features, seed: int) -> Score:
    """Logistic regression on k images per class; the trial is the draw."""
    values, labels, test_values, _ = _arrays(bank, queries)
    rows = job.drawn[seed].reshape(len(job.train.classes), -1)  # (classes, the most shots)
    metrics, notes, outcomes = {}, {}, Outcomes()
    for shots in job.cfg.KSHOT.SHOTS:
        chosen = rows[:, :shots].ravel()
        scores = fit_and_predict(values[chosen], labels[chosen], test_values, job.cfg.KSHOT.PENALTY)
        right = hits(torch.from_numpy(scores), queries.labels)
        metrics[f"shots{shots}_top1"] = 100.0 * int(right.sum()) / len(right)
        outcomes.correct[f"shots{shots}_top1"] = right.numpy()
        notes[f"shots{shots}"] = [job.train.images.name(int(row)) for row in chosen[:1000]]
    return Score(metrics, {}, notes=notes, outcomes=outcomes)


def _arrays(bank: Features, queries: Features) -> tuple[np.ndarray, ...]:
    splits = (bank, queries)
    return tuple(t.numpy() for split in splits for t in (split.values.float(), split.labels))


PROTOCOLS: dict[str, Callable[[Job, Features, Features, int], Score]] = {
    "knn": score_knn,
    "linear": score_linear,
    "svm": score_svm,
    "svm_lowshot": score_svm_lowshot,
    "kshot": score_kshot,
}


def _prepare(cfg: CfgNode, request: Request, device: torch.device) -> Job:
    """Checks the config against the data before anything is computed."""
    if cfg.REPLICATES < 0:
        raise InputError(f"REPLICATES must be 0 or above, got {cfg.REPLICATES}")
    protocol = cfg.PROTOCOL
    find(protocol.NAME, PROTOCOLS, "protocol", "PROTOCOL.NAME")
    cfg = _with_formats(cfg, device)
    svm = protocol.NAME.startswith("svm")
    sizes = (protocol.RESIZE, protocol.IMAGE_SIZE, protocol.INTERPOLATION)
    transform = ImageTransform(*sizes, squash=svm and cfg.SVM.SQUASH)
    if protocol.NAME == "linear":
        _solver(cfg)
    sets = cfg.DATASETS
    limits = (sets.LIMIT_PER_CLASS, sets.TEST_LIMIT_PER_CLASS)
    if svm:
        train, test = open_object_splits(sets.TRAIN, sets.TEST)
        _check_svm(cfg, train, test)
    else:
        train, test = open_splits(sets.TRAIN, sets.TEST, *limits)
    if protocol.NAME == "knn":
        check_k(protocol.K, len(train), train.name)
        check_temperatures(protocol.TEMPERATURE, cfg.KNN.MORE_TEMPERATURES)
    if cfg.QUALITY.IMAGES < 0:
        raise InputError(f"QUALITY.IMAGES {cfg.QUALITY.IMAGES} must be 0 (no features/*) or more")
    drawn: dict[int, np.ndarray] = {}
    if protocol.NAME == "kshot":
        train, drawn = _draw(cfg, request.trials, train)
    return Job(cfg, request, train, test, transform, device, drawn)


def _with_formats(cfg: CfgNode, device: torch.device) -> CfgNode:
    """A copy in which FEATURES says what is used here: recorded, and part of the identity."""
    cfg = cfg.clone()
    cfg.defrost()
    node = cfg.FEATURES
    node.PRECISION, node.STORAGE = choose_formats(node.PRECISION, node.STORAGE, device)
    cfg.freeze()
    return cfg


def _draw(cfg: CfgNode, trials: int, train: Split) -> tuple[Split, dict[int, np.ndarray]]:
    """The images that some trial draws, and each trial's rows of them: no others are read."""
    check_shots(cfg.KSHOT.SHOTS, cfg.KSHOT.PENALTY)
    labels, most = train.labels.numpy(), max(cfg.KSHOT.SHOTS)
    seeds = [cfg.SEED + trial for trial in range(trials)]
    drawn = {seed: draw_shots(labels, most, seed) for seed in seeds}
    union = np.unique(np.concatenate(list(drawn.values())))
    rows = {seed: np.searchsorted(union, indices) for seed, indices in drawn.items()}
    return train.subset(union.tolist()), rows


def _check_svm(cfg: CfgNode, train: Split, test: Split) -> None:
    """Raises InputError, before any feature is made, for what no SVM can be trained on."""
    node, targets = cfg.SVM, train.labels.numpy()
    if not node.COSTS or min(node.COSTS) <= 0:
        raise InputError(f"SVM.COSTS {tuple(node.COSTS)} must list numbers above 0")
    check_targets(targets, test.labels.numpy(), node.FOLDS, train.classes)
    for shots in node.SHOTS if cfg.PROTOCOL.NAME == "svm_lowshot" else ():
        sample_shots(targets, shots, cfg.SEED)


def _solver(cfg: CfgNode) -> Solver:
    solver = cfg.SOLVER
    if not solver.LR_PER_256 or not all(lr > 0 for lr in solver.LR_PER_256):
        raise InputError(f"SOLVER.LR_PER_256 {solver.LR_PER_256} must list rates above 0")
    return Solver(solver.EPOCHS, solver.BATCH_SIZE, solver.MOMENTUM, solver.WEIGHT_DECAY)


def _run_trials(job: Job) -> list[Path]:
    request = job.request
    extracted: Extracted | None = None  # of the weights before
    records = []
    for trial in range(request.first_trial, request.trials):
        started, start = datetime.now(timezone.utc).isoformat(timespec="seconds"), time.time()
        seed = job.cfg.SEED + trial
        weights = _read(job.cfg, request.weights, seed)
        folder = Path(request.output) / f"trial_{trial}"
        records.append(folder / FILE_NAME)
        if records[-1].exists():
            _check_same_run(records[-1], job, weights)
            logger.info("%s is there already: skipped", records[-1])
            continue
        if extracted is None or extracted.sha256 != weights.sha256:
            begun = time.time()
            extracted = _extract(job, weights)
            start += time.time() - begun
        if is_main():
            score = PROTOCOLS[job.cfg.PROTOCOL.NAME](job, extracted.bank, extracted.queries, seed)
            score = replace(score, metrics={**score.metrics, **extracted.quality})
            # A trial's cost is that of running it alone, also where the features are at hand
            seconds = time.time() - start + extracted.seconds
            _write_trial(job, weights, score, extracted.queries.values, trial, started, seconds)
        barrier()
    return records


def _read(cfg: CfgNode, weights: str, seed: int) -> Weights:
    """The weights; a file's backbone is its own, whatever BACKBONE.NAME says for `random`."""
    backbone = (cfg.BACKBONE.NAME or None) if weights == RANDOM else None
    return read_weights(weights, backbone=backbone, seed=seed)


def _extract(job: Job, weights: Weights) -> Extracted:
    cfg = job.cfg
    return extract_splits(
        weights,
        job.train,
        job.test,
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


def _write_trial(
    job: Job,
    weights: Weights,
    score: Score,
    features: torch.Tensor,
    trial: int,
    started: str,
    seconds: float,
) -> None:
    """Writes artifacts first and the record last: a record means that the trial is complete."""
    folder = Path(job.request.output) / f"trial_{trial}"
    svm = job.cfg.PROTOCOL.NAME.startswith("svm")  # windows of a map make 4 x the dimensions
    artifacts = write_artifacts(
        folder,
        config=dump_yaml(job.cfg),
        weights=weights,
        source=job.request.weights,
        score=score,
        names=[job.test.images.name(index) for index in range(len(job.test))],
        features=None if svm else features,
        draws=job.cfg.REPLICATES,
    )
    record = make_record(
        weights=weights,
        name=job.request.name or default_name(weights, job.request.weights),
        task=job.cfg.PROTOCOL.NAME,
        dataset=job.test.name,
        protocol=_protocol(job),
        trial=trial,
        seed=job.cfg.SEED + trial,
        metrics=score.metrics,
        per_class=score.per_class,
        artifacts=artifacts,
        started=started,
        seconds=seconds,
        gpu_seconds=seconds * world_size() if job.device.type == "cuda" else 0.0,
        views_seen=len(job.train) + len(job.test) + 2 * min(job.cfg.QUALITY.IMAGES, len(job.test)),
    )
    write_record(folder, record)


def _protocol(job: Job) -> dict[str, Any]:
    return {
        "name": job.request.protocol,
        "config_sha256": config_sha256(job.cfg, not_in_identity(job.cfg)),
        "engine": ENGINE,
        "engine_version": torch.__version__,
        "overrides": list(job.request.overrides),
    }


def _check_same_run(path: Path, job: Job, weights: Weights) -> None:
    """Raises InputError unless the record in `path` is of this protocol and these weights."""
    record = read_record(path)
    if record["checkpoint"]["sha256"] != weights.sha256:
        raise InputError(f"{path} is of other weights; give another --output")
    if record["protocol"]["config_sha256"] != config_sha256(job.cfg, not_in_identity(job.cfg)):
        raise InputError(f"{path} is of another config; give another --output")
