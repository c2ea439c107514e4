"""The protocol `logistic`: logistic regression on frozen features, which chooses its penalty.

It is the linear protocol of SimCLR's and BYOL's tables of many data sets (SimCLR, B.8; BYOL, D):
multinomial logistic regression with an L2 penalty by L-BFGS, without augmentation; the best of 45
penalties on validation images; a new fit on training and validation images together. VOC2007 has
several labels per image: one binary classifier per class, with one penalty for all of them.
Every trial has the same validation images, so that only the weights decide the result.
Legend: N training images, M test images, D features, C classes.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from pretrain.common.errors import InputError
from pretrain.common.logs import progress
from pretrain.common.lookup import find
from transfer.classification.features.extract import Features
from transfer.classification.logistic_regression import Classifier, fit_logistic, rotate
from transfer.classification.metrics import hits, mean_per_class, per_class_accuracy
from transfer.classification.protocols.protocol import (
    ClassificationJob,
    Data,
    OnFeatures,
    open_labelled,
    open_objects,
)
from transfer.classification.rates import OF_PENALTY, split_holdout
from transfer.classification.replicates import average_precisions
from transfer.classification.score import Outcomes, Score
from transfer.classification.splits import Split, open_object_splits, open_split

logger = logging.getLogger(__name__)

TOP1, MEAN_PER_CLASS, ELEVEN_POINT_MAP = "top1", "mean_per_class", "mAP_11point"
METRICS = {name: name for name in (TOP1, MEAN_PER_CLASS, ELEVEN_POINT_MAP)}
HOLDOUT_SEED = 0  # it draws the images that are held out if there is no validation set


def check(cfg: CfgNode, trials: int) -> Data:
    """Opens the data and chooses the validation images; raises InputError if there are none."""
    node = cfg.LOGISTIC
    find(node.METRIC, METRICS, "metric", "LOGISTIC.METRIC")
    if not 0 < node.LEAST <= node.MOST < float("inf"):
        raise InputError(
            f"LOGISTIC.LEAST {node.LEAST} and LOGISTIC.MOST {node.MOST} must be penalties above 0, "
            "the smaller one first"
        )
    if node.STEPS < 1 or node.MAX_ITER < 1:
        raise InputError(
            f"LOGISTIC.STEPS {node.STEPS} and LOGISTIC.MAX_ITER {node.MAX_ITER} must be 1 or more"
        )
    if not 0 < node.TOLERANCE < 1:
        raise InputError(f"LOGISTIC.TOLERANCE {node.TOLERANCE} must be above 0 and below 1")
    several = node.METRIC == ELEVEN_POINT_MAP
    if several and not node.VAL:
        raise InputError(
            f"LOGISTIC.METRIC {ELEVEN_POINT_MAP} needs a validation set: set LOGISTIC.VAL, such as "
            "voc:VOC2007:val"
        )
    data = open_objects(cfg) if several else open_labelled(cfg)
    held = _held_out(data.train, cfg)
    return replace(data, drawn={cfg.SEED + trial: held for trial in range(trials)})


def score(job: ClassificationJob, bank: Features, queries: Features, seed: int) -> Score:
    """Chooses the penalty on the validation images, and fits again on all training images."""
    node, device, names = job.cfg.LOGISTIC, job.device, job.train_set.classes
    values, test_values = (part.values.to(device, torch.float64) for part in (bank, queries))
    labels, test_labels = (part.labels.to(device) for part in (bank, queries))
    held = torch.from_numpy(job.drawn[seed]).to(device)
    kept = torch.ones(len(labels), dtype=torch.bool, device=device)
    kept[held] = False
    options = {"classes": len(names), "tolerance": node.TOLERANCE, "most": node.MAX_ITER}
    part, fits = rotate(values[kept]), dict[float, Classifier]()
    judged: dict[float, float] = {}
    penalties = np.geomspace(node.LEAST, node.MOST, node.STEPS).tolist()
    for penalty in progress(penalties, desc="choosing from the penalties", leave=False):
        fits[penalty] = fit_logistic(part, labels[kept], penalty=penalty, **options)
        judged[penalty] = judge(fits[penalty].scores(values[held]), labels[held], node.METRIC)
    best = max(judged, key=lambda penalty: (judged[penalty], penalty))
    final = fit_logistic(rotate(values), labels, penalty=best, **options)
    _warn(best, penalties, {**fits, best: final}, node.MAX_ITER)
    scores = final.scores(test_values).cpu()
    notes = {
        "penalty": best,
        f"validation_{node.METRIC}": {f"{penalty:g}": value for penalty, value in judged.items()},
        "evaluations": {f"{penalty:g}": fit.evaluations for penalty, fit in fits.items()},
        "not_converged": [f"{penalty:g}" for penalty, fit in fits.items() if not fit.converged],
        "final_fit": {"evaluations": final.evaluations, "converged": final.converged},
    }
    return _scored(scores, queries.labels, names, node.METRIC, notes)


PROTOCOL = OnFeatures(names=("logistic",), check=check, score=score)


def judge(scores: Tensor, labels: Tensor, metric: str) -> float:
    """Returns a metric, in percent, of scores (M, C)."""
    if metric == ELEVEN_POINT_MAP:
        return _mean(average_precisions(scores.cpu().numpy(), labels.cpu().numpy()))
    right = hits(scores, labels)
    if metric == MEAN_PER_CLASS:
        return mean_per_class(right, labels)
    return 100.0 * int(right.sum()) / len(right)


def _scored(
    scores: Tensor, labels: Tensor, names: tuple[str, ...], metric: str, notes: dict[str, object]
) -> Score:
    """Returns the score of the test images; `labels` are as `fit_logistic` takes them."""
    outcomes = Outcomes()
    if metric == ELEVEN_POINT_MAP:
        found = average_precisions(scores.numpy(), labels.numpy())
        outcomes.ranked_11point[metric] = (scores.numpy(), labels.numpy())
        per_class: dict[str, float | None] = dict(zip(names, found.tolist()))
        return Score({metric: _mean(found)}, {metric: per_class}, notes=notes, outcomes=outcomes)
    right = hits(scores, labels)
    value = judge(scores, labels, metric)
    if metric == MEAN_PER_CLASS:
        outcomes.by_class[metric] = (right.numpy(), labels.numpy())
    else:
        outcomes.correct[metric] = right.numpy()
    per_class = per_class_accuracy(right, labels, names)
    return Score({metric: value}, {metric: per_class}, notes=notes, outcomes=outcomes)


def _mean(found: np.ndarray) -> float:
    return float(np.nanmean(found))


def _held_out(train: Split, cfg: CfgNode) -> np.ndarray:
    """Returns the rows of the validation images: those of LOGISTIC.VAL, or a share of each class.

    Raises:
        InputError: LOGISTIC.VAL is not a part of DATASETS.TRAIN, or leaves nothing to train on.
    """
    node, sets = cfg.LOGISTIC, cfg.DATASETS
    if not node.VAL:
        generator = torch.Generator().manual_seed(HOLDOUT_SEED)
        _, held = split_holdout(train.labels, node.HOLDOUT, generator, train.classes, OF_PENALTY)
        return np.sort(held.numpy())
    if node.METRIC == ELEVEN_POINT_MAP:
        val = open_object_splits(sets.TRAIN, node.VAL)[1]
    else:
        val = open_split(node.VAL, sets.LIMIT_PER_CLASS)
    places = {train.images.name(row): row for row in range(len(train))}
    names = [val.images.name(row) for row in range(len(val))]
    missing = [name for name in names if name not in places]
    if missing or len(names) == len(train):
        said = f"{missing[0]} is not in it" if missing else "all of its images are in it"
        if missing and sets.LIMIT_PER_CLASS:
            said += (
                f", since DATASETS.LIMIT_PER_CLASS {sets.LIMIT_PER_CLASS} takes the first images "
                "of each class; set it to 0, or LOGISTIC.VAL to '' to hold out a share of them"
            )
        raise InputError(
            f"LOGISTIC.VAL {node.VAL} must be a part of DATASETS.TRAIN {sets.TRAIN}, such as val "
            f"of trainval: {said}"
        )
    return np.sort(np.array([places[name] for name in names]))


def _warn(best: float, penalties: list[float], fits: dict[float, Classifier], most: int) -> None:
    """Warns of a penalty at the edge, and of fits that have not converged."""
    if len(penalties) > 1 and best in (penalties[0], penalties[-1]):
        logger.warning("the chosen penalty %g is at the edge of the grid", best)
    late = [penalty for penalty, fit in fits.items() if not fit.converged]
    if late:
        logger.warning(
            "%d of %d fits have not converged after LOGISTIC.MAX_ITER %d evaluations (penalties "
            "%s%s); raise it",
            len(late),
            len(fits),
            most,
            ", ".join(f"{penalty:g}" for penalty in late[:3]),
            ", ..." if len(late) > 3 else "",
        )
    if not fits[best].converged:
        logger.warning("the fit that is scored, at the penalty %g, is one of them", best)
