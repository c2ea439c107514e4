"""Fine-tunes and scores an FCN: config and weights in, trial_T/record.json out.

Reads the config; the parts it calls take plain arguments or read it beside it (`training.py`).
Offers what `transfer/detection/run.py` offers, under the same names, so that one command serves
both. Trial t uses seed SEED + t. The last iteration is scored, never the best one.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torchvision
from fvcore.common.config import CfgNode

from pretrain.common.checkpoint import atomic_write_text
from pretrain.common.distributed import close_distributed, init_distributed, is_main
from pretrain.common.errors import InputError
from pretrain.common.logs import setup_logging
from pretrain.data.kinds import check_kinds
from transfer.checkpoints.read import read_weights
from transfer.checkpoints.weights import Weights
from transfer.detection.earlier import check_trials_there
from transfer.detection.trials import (
    Request,
    Trial,
    check_request,
    each_trial,
    format_metrics,
    trial_config,
    trial_folders,
    write_artifacts,
    write_evaluation,
    write_trial,
)
from transfer.results.replicates import Replicates
from transfer.segmentation import config as segmentation_config
from transfer.segmentation.data import SemanticSet, open_sets
from transfer.segmentation.draw import draw_predictions, drawn_images
from transfer.segmentation.evaluation import draw_metrics, summarize
from transfer.segmentation.training import fit, load_segmenter, predict, read_segmenter
from transfer.training.files import MODEL_FILE, Fitted

logger = logging.getLogger(__name__)

TASK = "semantic"
ENGINE = "torchvision"
DRAWN = "detections.png"  # the report shows this artifact's picture of a test image


@dataclass(frozen=True)
class Job:
    """Everything that the trials share; `cfg` is without the weights' facts."""

    request: Request
    cfg: CfgNode
    train_set: SemanticSet
    test_set: SemanticSet


def prepare(request: Request) -> Job:
    """Checks config, data sets, weights and output folder, and opens the data sets.

    Raises InputError for whatever would stop the run later.
    """
    cfg, train_set, test_set = open_data(request)
    if request.engine not in ("auto", ENGINE):
        raise InputError(
            f"--engine {request.engine}: semantic segmentation runs on the {ENGINE} engine only"
        )
    check_request(request)
    return Job(request, cfg, train_set, test_set)


def open_data(request: Request) -> tuple[CfgNode, SemanticSet, SemanticSet]:
    """The config, with the number of classes, and both data sets."""
    cfg = segmentation_config.load_segmentation_config(request.config, request.overrides)
    limit = cfg.TRANSFER.LIMIT_IMAGES
    train_set = open_sets(cfg.DATASETS.TRAIN, cfg.TRANSFER.CLASSES).limited(limit)
    test_set = open_sets(cfg.DATASETS.TEST, like=train_set).limited(limit)
    for data in (train_set, test_set):
        check_kinds(data.name, [sample.file_name for sample in data.samples])
    return segmentation_config.with_data(cfg, train_set), train_set, test_set


def read_backbone(request: Request, cfg: CfgNode, seed: int) -> Weights:
    """The weights, checked to be those of the config's backbone."""
    name = segmentation_config.backbone_name(cfg)
    return read_weights(request.weights, backbone=name, seed=seed)


def check_trained(request: Request) -> None:
    """Raises InputError unless the data fits and `request.weights` is a whole segmenter."""
    open_data(request)
    read_segmenter(Path(request.weights))


def check_weights(job: Job) -> None:
    """Raises InputError unless `request.weights` is the config's backbone, and what lies in the
    trials' folders is of it and of this config."""
    read = lambda seed: read_backbone(job.request, job.cfg, seed)
    check_trials_there(job.cfg, job.request.weights, trial_folders(job.request), read)


def run_request(request: Request) -> None:
    """Joins the processes, prepares and runs all trials: what a launched process calls."""
    init_distributed()
    try:
        setup_logging()
        run_trials(prepare(request))
    finally:
        close_distributed()


def run_trials(job: Job) -> list[Path]:
    """Runs the trials that have no record yet; returns the records' paths."""
    return each_trial(job.request, job.cfg.SEED, lambda trial: _run_trial(job, trial))


def evaluate_model(request: Request) -> dict[str, float]:
    """Scores the segmenter in `request.weights`; writes evaluation.json into the output."""
    init_distributed()
    try:
        setup_logging()
        cfg, _, test_set = open_data(request)
        matrices, _ = predict(load_segmenter(cfg, Path(request.weights)), cfg, test_set)
        metrics, per_class = summarize(matrices.sum(axis=0), test_set.classes)
        if is_main():
            write_evaluation(request, request.weights, metrics, per_class)
        return metrics
    finally:
        close_distributed()


def _run_trial(job: Job, trial: Trial) -> None:
    request, folder = job.request, trial.folder
    weights = read_backbone(request, job.cfg, trial.seed)
    segmentation_config.warn_about(weights.architecture)
    # The architecture's padding is warned about above, in this task's words.
    strides = {k: v for k, v in weights.architecture.items() if k != "padding"}
    cfg = trial_config(job.cfg, request, trial, weights, strides)
    fitted = _fit(job, cfg, weights, folder)
    begin_test = time.perf_counter()
    keep = drawn_images(len(job.test_set), cfg.TRANSFER.DRAW_DETECTIONS)
    matrices, maps = predict(
        load_segmenter(cfg, fitted.model_file), cfg, job.test_set, frozenset(keep)
    )
    if not is_main():
        return
    seconds = fitted.seconds + time.perf_counter() - begin_test
    metrics, per_class = summarize(matrices.sum(axis=0), job.test_set.classes)
    write_trial(
        request,
        job.cfg,
        trial,
        weights,
        task=TASK,
        engine=ENGINE,
        engine_version=torchvision.__version__,
        metrics=metrics,
        per_class=per_class,
        artifacts=_write_artifacts(job, weights, matrices, maps, folder),
        seconds=seconds,
        views_seen=cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH,
    )


def _fit(job: Job, cfg: CfgNode, weights: Weights, folder: Path) -> Fitted:
    """Trains, unless a resumed run had finished training already."""
    model_file = folder / MODEL_FILE
    if job.request.resume and model_file.is_file():
        return Fitted(model_file, read_segmenter(model_file).seconds or 0.0)

    def evaluate(matrices: np.ndarray, iteration: int) -> dict[str, float]:
        metrics, _ = summarize(matrices.sum(axis=0), job.test_set.classes)
        logger.info("iteration %d: %s", iteration, format_metrics(metrics))
        return metrics

    return fit(
        cfg,
        weights=weights,
        train_set=job.train_set,
        test_set=job.test_set,
        output=folder,
        resume=job.request.resume,
        evaluate=evaluate,
    )


def _write_artifacts(
    job: Job, weights: Weights, matrices: np.ndarray, maps: dict[int, np.ndarray], folder: Path
) -> dict[str, str]:
    """Writes what a report shows beside the numbers; returns {name: path below the folder}."""
    total = {"classes": job.test_set.classes, "confusion": matrices.sum(axis=0).tolist()}
    (folder / "inference").mkdir(exist_ok=True)
    atomic_write_text(folder / "inference" / "confusion.json", json.dumps(total) + "\n")
    artifacts = {
        **write_artifacts(job.request, weights, folder),
        "confusion": "inference/confusion.json",
    }
    if job.cfg.TRANSFER.REPLICATES:
        ids = [sample.image_id for sample in job.test_set.samples]
        replicates = Replicates.draw(ids, job.cfg.TRANSFER.REPLICATES)
        replicates.add(draw_metrics(matrices[np.argsort(ids, kind="stable")], replicates))
        artifacts["replicates"] = replicates.write(folder).name
    if maps:
        draw_predictions(job.test_set, maps, folder / DRAWN)
        artifacts["detections"] = DRAWN
    return artifacts
