"""Fine-tunes and scores a detector: config and weights in, trial_T/record.json out.

Reads the config; the engines, evaluators and readers take it from here. Trial t uses seed SEED + t:
it orders the images, draws their augmentation and initialises the heads (and the backbone where the
weights are `random`). The last iteration is scored, never the best one.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from pretrain.common.checkpoint import atomic_write_text
from pretrain.common.cli import output_folder
from pretrain.common.config import dump_yaml, load_config
from pretrain.common.distributed import (
    barrier,
    close_distributed,
    init_distributed,
    is_main,
    world_size,
)
from pretrain.common.errors import InputError
from pretrain.common.logs import setup_logging
from transfer.checkpoints.weights import Weights, default_name
from transfer.datasets.headers import check_image_sizes
from transfer.datasets.registry import open_sets
from transfer.datasets.samples import DetectionSet
from transfer.detection import config as detection_config
from transfer.detection import given_weights
from transfer.detection.data.jitter import import_shapely
from transfer.detection.defaults import make_defaults
from transfer.detection.draw import draw_detections
from transfer.detection.engine import MODEL_FILE, Engine, Fitted, choose_engine, make_engine
from transfer.detection.evaluation.coco import choose_evaluator
from transfer.detection.evaluation.predictions import Predictions
from transfer.detection.evaluation.score import RESULTS_FILE, Scores, score
from transfer.detection.lr_sweep import FILE_NAME as SWEEP_FILE
from transfer.detection.lr_sweep import check_sweep, choose_rate, iterations_of
from transfer.detection.metrics import read_metrics
from transfer.detection.model_files import read_model
from transfer.detection.scaling import for_processes, training_line
from transfer.results.artifacts import copy_pretrain_artifacts, draw_kernels, write_curves
from transfer.results.record import FILE_NAME, make_record, write_record

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    config: str
    weights: str  # a file, or "random"
    output: str
    name: str | None = None
    engine: str = "auto"
    trials: int = 1
    resume: bool = False
    overrides: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Job:
    """Everything that the trials share; `cfg` is without the weights' facts."""

    request: Request
    cfg: CfgNode
    train_set: DetectionSet
    test_set: DetectionSet
    engine: str


def prepare(request: Request, *, scan: bool = True) -> Job:
    """Checks config, data sets, weights and output folder, and opens the data sets.

    `scan`: also compares the sizes of all image files with the annotations, which takes longest.

    Raises InputError for whatever would stop the run later.
    """
    cfg, train_set, test_set = open_data(request, scan=scan)
    if request.trials < 1:
        raise InputError(f"--trials must be 1 or above, got {request.trials}")
    check_sweep(cfg)
    engine = choose_engine(request.engine)
    check_engine(cfg, engine)
    check_output(request)
    return Job(request, cfg, train_set, test_set, engine)


def open_data(request: Request, *, scan: bool = True) -> tuple[CfgNode, DetectionSet, DetectionSet]:
    """The config, with the number of classes, and both data sets; see `prepare` for `scan`."""
    cfg = detection_config.load_detection_config(request.config, request.overrides)
    limit = cfg.TRANSFER.LIMIT_IMAGES
    train_set = open_sets(cfg.DATASETS.TRAIN, cfg.TRANSFER.CLASSES).limited(limit)
    kinds = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
    test_set = open_sets(cfg.DATASETS.TEST, like=train_set, scored=kinds).limited(limit)
    cfg = detection_config.with_data(cfg, train_set)
    if cfg.TRANSFER.LSJ.SCALES and cfg.MODEL.MASK_ON:
        import_shapely()  # missing, it would only show at the first image
    if test_set.layout == "coco":
        choose_evaluator(cfg.TRANSFER.COCO_EVALUATOR)
    # Under a launcher one process looks, as in `check_output`.
    if scan and cfg.TRANSFER.CHECK_IMAGES and int(os.environ.get("RANK", 0)) == 0:
        check_image_sizes((*train_set.samples, *test_set.samples))
    return cfg, train_set, test_set


def check_engine(cfg: CfgNode, engine: str) -> None:
    """Raises InputError for what only the other engine does."""
    if engine != "detectron2":
        return
    if cfg.TRANSFER.ACCUMULATE > 1:
        raise InputError("TRANSFER.ACCUMULATE above 1 needs --engine torchvision")
    if cfg.SOLVER.AMP.ENABLED and cfg.TRANSFER.AMP_DTYPE != "fp16":
        # It rounds the boxes to the features' dtype before pooling: by pixels, with 8 bits.
        raise InputError(
            f"TRANSFER.AMP_DTYPE {cfg.TRANSFER.AMP_DTYPE} needs --engine torchvision; Detectron2's "
            "pooling would round boxes to it"
        )
    if cfg.SOLVER.AMP.ENABLED and not _on_gpu(cfg):
        raise InputError("SOLVER.AMP.ENABLED needs a GPU here; use --engine torchvision")


def check_output(request: Request) -> None:
    """Refuses the folder of another run; under a launcher only the first process looks."""
    if int(os.environ.get("RANK", 0)) == 0:
        output_folder(request.output, request.resume)


def read_backbone(request: Request, cfg: CfgNode, seed: int) -> Weights:
    """The weights, checked to be those of the config's backbone."""
    return given_weights.read_backbone(request.weights, cfg, seed)


def check_trained(request: Request) -> None:
    """Raises InputError unless data and the whole detector in `request.weights` fit the config."""
    cfg, _, _ = open_data(request)
    given_weights.with_detector(cfg, request.weights, request.config)


def run_request(request: Request) -> None:
    """Joins the processes, prepares and runs all trials: what a launched process calls."""
    init_distributed()
    try:
        setup_logging()
        run_trials(prepare(request, scan=False))  # the command has looked before it launched us
    finally:
        close_distributed()


def run_trials(job: Job) -> list[Path]:
    """Runs the trials that have no record yet; returns the records' paths."""
    barrier()
    engine = make_engine(job.engine)
    paths = []
    for trial in range(job.request.trials):
        folder = Path(job.request.output) / f"trial_{trial}"
        paths.append(folder / FILE_NAME)
        if paths[-1].exists():
            logger.info("%s exists: trial %d is skipped", paths[-1], trial)
            continue
        _run_trial(job, engine, trial, folder)
    return paths


def evaluate_model(request: Request) -> dict[str, float]:
    """Scores the whole detector in `request.weights`; writes evaluation.json into the output."""
    init_distributed()
    try:
        setup_logging()
        cfg, _, test_set = open_data(request, scan=False)
        cfg = given_weights.with_detector(cfg, request.weights, request.config)
        model_file = Path(request.weights)
        engine = make_engine(choose_engine(request.engine))
        predictions = engine.predict(cfg, model_file=model_file, test_set=test_set)
        if not is_main():
            return {}
        metrics, per_class = _score(cfg, test_set, predictions, Path(request.output) / "inference")
        content = {"model": str(model_file), "metrics": metrics, "per_class": per_class}
        atomic_write_text(Path(request.output) / "evaluation.json", json.dumps(content, indent=1))
        return metrics
    finally:
        close_distributed()


def _run_trial(job: Job, engine: Engine, trial: int, folder: Path) -> None:
    started, begin = datetime.now(timezone.utc).isoformat(timespec="seconds"), time.perf_counter()
    seed = job.cfg.SEED + trial
    weights = read_backbone(job.request, job.cfg, seed)
    for warning in weights.warnings:
        logger.warning("%s: %s", job.request.weights, warning)
    facts = {"SEED": seed, "OUTPUT_DIR": str(folder), "MODEL.WEIGHTS": job.request.weights}
    cfg = given_weights.with_backbone(job.cfg, weights)
    cfg = detection_config.changed(cfg, facts)
    if is_main():
        folder.mkdir(parents=True, exist_ok=True)
        setup_logging(folder)
        # Not scaled to the processes: the file is the protocol, and scales again where it is used.
        atomic_write_text(folder / "config.yaml", dump_yaml(cfg))
    logger.info("%s", training_line(job.cfg, _shipped(job.request), _name(job), world_size()))
    cfg = for_processes(cfg, world_size())
    fitted = _fit(job, engine, cfg, weights, folder)
    begin_test = time.perf_counter()
    predictions = engine.predict(cfg, model_file=fitted.model_file, test_set=job.test_set)
    if is_main():
        scores = _score(cfg, job.test_set, predictions, folder / "inference")
        seconds = fitted.seconds + time.perf_counter() - begin_test
        artifacts = _write_artifacts(job, weights, predictions, folder)
        record = _record(job, engine, weights, scores, artifacts, (trial, started, seconds))
        write_record(folder, record)
        logger.info("trial %d: %s", trial, format_metrics(scores[0]))
        logger.info("%.0f s in all", time.perf_counter() - begin)
    barrier()


def _fit(job: Job, engine: Engine, cfg: CfgNode, weights: Weights, folder: Path) -> Fitted:
    """Trains, unless a resumed run had finished training already."""
    model_file = folder / MODEL_FILE
    if job.request.resume and model_file.is_file():
        return Fitted(model_file, read_model(model_file).seconds or 0.0)
    begin = time.perf_counter()
    if cfg.TRANSFER.LR_SWEEP.RATES:
        rate = choose_rate(
            engine,
            cfg,
            weights=weights,
            train_set=job.train_set,
            folder=folder,
            score=lambda data, found, place: _score(cfg, data, found, place)[0],
        )
        cfg = detection_config.changed(cfg, {"SOLVER.BASE_LR": rate})
    swept = time.perf_counter() - begin
    fitted = engine.fit(
        cfg,
        weights=weights,
        train_set=job.train_set,
        test_set=job.test_set,
        output=folder,
        resume=job.request.resume,
        evaluate=_evaluator(cfg, job.test_set, folder),
    )
    return replace(fitted, seconds=fitted.seconds + swept)


def _evaluator(
    cfg: CfgNode, test_set: DetectionSet, folder: Path
) -> Callable[[list[Predictions], int], dict[str, float]]:
    def evaluate(predictions: list[Predictions], iteration: int) -> dict[str, float]:
        if not is_main():
            return {}
        metrics, _ = _score(cfg, test_set, predictions, folder / "inference")
        logger.info("iteration %d: %s", iteration, format_metrics(metrics))
        return metrics

    return evaluate


def _score(
    cfg: CfgNode, test_set: DetectionSet, predictions: list[Predictions], folder: Path
) -> Scores:
    return score(
        test_set,
        predictions,
        folder=folder,
        with_masks=cfg.MODEL.MASK_ON,
        voc_metric=cfg.TRANSFER.VOC_METRIC,
        voc_exact=cfg.TRANSFER.VOC_EXACT,
        coco_evaluator=cfg.TRANSFER.COCO_EVALUATOR,
    )


def _write_artifacts(
    job: Job, weights: Weights, predictions: list[Predictions], folder: Path
) -> dict[str, str]:
    """Writes what a report shows beside the numbers; returns {name: path below the folder}."""
    rows = [{"step": row.pop("iteration"), **row} for row in read_metrics(folder)]
    write_curves(folder / "curves.json", rows)
    draw_kernels(weights, folder / "kernels.png")
    artifacts = {
        "curves": "curves.json",
        "kernels": "kernels.png",
        "predictions": f"inference/{RESULTS_FILE}",
        **copy_pretrain_artifacts(job.request.weights, folder),
    }
    if (folder / SWEEP_FILE).is_file():
        artifacts["lr_sweep"] = SWEEP_FILE
    count = job.cfg.TRANSFER.DRAW_DETECTIONS
    if count > 0:
        draw_detections(job.test_set, predictions, count, folder / "detections.png")
        artifacts["detections"] = "detections.png"
    return artifacts


def _record(
    job: Job,
    engine: Engine,
    weights: Weights,
    scores: Scores,
    artifacts: dict[str, str],
    trial: tuple[int, str, float],
) -> dict[str, object]:
    number, started, seconds = trial
    request, cfg = job.request, job.cfg
    scaled = for_processes(cfg, world_size())
    pairs = zip(request.overrides[::2], request.overrides[1::2])
    return make_record(
        weights=weights,
        name=request.name or default_name(weights, request.weights),
        task="detection",
        dataset=cfg.DATASETS.TEST[0],
        protocol={
            "name": _name(job),
            "config_sha256": detection_config.protocol_sha256(cfg),
            "engine": engine.name,
            "engine_version": engine.version,
            "overrides": [f"{key} {value}" for key, value in pairs],
        },
        trial=number,
        seed=cfg.SEED + number,
        metrics=scores[0],
        per_class=scores[1],
        artifacts=artifacts,
        started=started,
        seconds=seconds,
        gpu_seconds=seconds * world_size() if _on_gpu(cfg) else 0.0,
        views_seen=iterations_of(scaled) * scaled.SOLVER.IMS_PER_BATCH,
        status="shortened" if shortened(request, cfg) else "done",
    )


def _name(job: Job) -> str:
    return Path(job.request.config).stem


def _shipped(request: Request) -> CfgNode:
    """The config file alone, without the command's overrides."""
    return load_config(request.config, make_defaults(), (), folder="detection")


def _on_gpu(cfg: CfgNode) -> bool:
    return torch.cuda.is_available() and cfg.MODEL.DEVICE != "cpu"


def shortened(request: Request, cfg: CfgNode) -> bool:
    """Whether the overrides train for less than the config file says, or on fewer images."""
    full = _shipped(request)
    limit, full_limit = cfg.TRANSFER.LIMIT_IMAGES, full.TRANSFER.LIMIT_IMAGES
    fewer_images = 0 < limit and (full_limit == 0 or limit < full_limit)
    return fewer_images or cfg.SOLVER.MAX_ITER < full.SOLVER.MAX_ITER


def format_metrics(metrics: Mapping[str, float | None]) -> str:
    """ "bbox/AP 12.34, bbox/AP50 ..."; "n/a" for the AP of sizes that no object has."""
    known = {name: value for name, value in metrics.items() if value is not None}
    texts = {name: f"{value:.2f}" for name, value in known.items() if not math.isnan(value)}
    return ", ".join(f"{name} {texts.get(name, 'n/a')}" for name in metrics)
