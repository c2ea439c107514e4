"""Fine-tunes and scores a detector: config and weights in, trial_T/record.json out.

Reads the config; the engines, evaluators and readers take it from here. Trial t uses seed SEED + t:
it orders the images, draws their augmentation and initialises the heads (and the backbone where the
weights are `random`). The last iteration is scored, never the best one.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from fvcore.common.config import CfgNode

from pretrain.common.distributed import (
    close_distributed,
    init_distributed,
    is_main,
    process_device,
    world_size,
)
from pretrain.common.errors import InputError
from pretrain.common.logs import setup_logging
from transfer.checkpoints.sources import resolve
from transfer.checkpoints.weights import Weights
from transfer.datasets.checks_before_training import check_one_file, check_scorable, describe
from transfer.datasets.few_labels import is_drawn
from transfer.datasets.image_sizes import check_image_sizes
from transfer.datasets.registry import open_sets
from transfer.datasets.samples import DetectionSet
from transfer.detection import config as detection_config
from transfer.detection.config_checks import check_train_named
from transfer.detection.data.jitter import import_shapely
from transfer.detection.draw import draw_detections
from transfer.detection.earlier import check_trials_there
from transfer.detection.engine import Engine
from transfer.detection.engines import choose_engine, make_engine
from transfer.detection.evaluation.coco import choose_evaluator
from transfer.detection.evaluation.pr_curves import FILE_NAME as CURVES_FILE
from transfer.detection.evaluation.predictions import Predictions
from transfer.detection.evaluation.score import RESULTS_FILE, Scores, score
from transfer.detection.gallery import write_gallery
from transfer.detection.lr_sweep import FILE_NAME as SWEEP_FILE
from transfer.detection.lr_sweep import check_sweep, choose_rate, iterations_of
from transfer.detection.scaling import for_processes, training_line
from transfer.detection.trials import (
    Request,
    Trial,
    check_request,
    each_trial,
    format_metrics,
    shipped,
    trial_config,
    trial_folders,
    write_artifacts,
    write_evaluation,
    write_trial,
)
from transfer.detection.weights import given as given_weights
from transfer.detection.weights.classes_to_score import classes_to_score
from transfer.detection.weights.start import read_start, with_init
from transfer.results.replicates import FILE_NAME as REPLICATES_FILE
from transfer.training.files import MODEL_FILE, Fitted, read_model

logger = logging.getLogger(__name__)

TASK = "detection"


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
    check_sweep(cfg)
    engine = choose_engine(request.engine)
    check_engine(cfg, engine)
    check_request(request)
    return Job(request, with_init(cfg, request.weights), train_set, test_set, engine)


def open_data(request: Request, *, scan: bool = True) -> tuple[CfgNode, DetectionSet, DetectionSet]:
    """The config, with the number of classes, and both data sets; see `prepare` for `scan`."""
    cfg = detection_config.load_detection_config(request.config, request.overrides)
    check_train_named(cfg)
    limit = cfg.TRANSFER.LIMIT_IMAGES
    first = {"voc_counts_from": cfg.TRANSFER.VOC_COUNTS_FROM}
    train_set = open_sets(cfg.DATASETS.TRAIN, cfg.TRANSFER.CLASSES, draw=cfg.SEED, **first)
    train_set = train_set.limited(limit)
    kinds = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
    test_set = open_sets(cfg.DATASETS.TEST, like=train_set, scored=kinds, **first).limited(limit)
    cfg = detection_config.with_data(cfg, train_set)
    check_scorable(test_set, cfg.TEST.DETECTIONS_PER_IMAGE)
    if cfg.TRANSFER.LR_SWEEP.RATES:
        check_one_file(train_set)
    if cfg.TRANSFER.LSJ.SCALES and cfg.MODEL.MASK_ON:
        import_shapely()  # missing, it would only show at the first image
    _check_sets(cfg, test_set, train_set, scan=scan)
    return cfg, train_set, test_set


def open_trained(request: Request, *, scan: bool = True) -> tuple[CfgNode, DetectionSet]:
    """What --eval-only scores: the config, completed by the facts of the whole detector in
    `request.weights`, and the test set in the order of the detector's classes. The training set is
    opened only if neither the file nor TRANSFER.CLASSES names the classes, and it is there.

    Raises InputError if they do not fit each other.
    """
    cfg = detection_config.load_detection_config(request.config, request.overrides)
    kinds = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
    classes = classes_to_score(cfg, request.weights)
    test_set = open_sets(cfg.DATASETS.TEST, classes, scored=kinds)
    test_set = test_set.limited(cfg.TRANSFER.LIMIT_IMAGES)
    cfg = detection_config.with_num_classes(cfg, len(classes), cfg.DATASETS.TEST)
    _check_sets(cfg, test_set, scan=scan)
    return given_weights.with_detector(cfg, request.weights, request.config), test_set


def _check_sets(
    cfg: CfgNode, test_set: DetectionSet, train_set: DetectionSet | None = None, *, scan: bool
) -> None:
    """Whether the test set can be scored, and the images of both sets are of the annotated size."""
    if test_set.layout == "coco":
        choose_evaluator(cfg.TRANSFER.COCO_EVALUATOR)
    # Under a launcher one process looks, as in `check_output`.
    if scan and cfg.TRANSFER.CHECK_IMAGES and int(os.environ.get("RANK", 0)) == 0:
        trained = () if train_set is None else train_set.samples
        check_image_sizes((*trained, *test_set.samples))


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
    if cfg.SOLVER.AMP.ENABLED and process_device(cfg.MODEL.DEVICE).type == "cpu":
        raise InputError("SOLVER.AMP.ENABLED needs a GPU here; use --engine torchvision")


def check_trained(request: Request) -> None:
    """Raises InputError unless data and the whole detector in `request.weights` fit the config."""
    open_trained(request)


def check_weights(job: Job) -> None:
    """Raises InputError unless `request.weights` can start the config's detector, and what lies in
    the trials' folders is of them and of this config."""
    source = job.request.weights
    read = lambda seed: read_start(source, job.cfg, seed, job.train_set.classes)
    check_trials_there(job.cfg, source, trial_folders(job.request), read)


def run_request(request: Request) -> None:
    """Joins the processes, prepares and runs all trials: what a launched process calls."""
    init_distributed()
    try:
        setup_logging()
        job = prepare(request, scan=False)  # the command has looked before it launched us
        for role, data in (("training", job.train_set), ("test", job.test_set)):
            logger.info("%s", describe(data, role))
        run_trials(job)
    finally:
        close_distributed()


def run_trials(job: Job) -> list[Path]:
    """Runs the trials that have no record yet; returns the records' paths."""
    engine = make_engine(job.engine)
    return each_trial(job.request, job.cfg.SEED, lambda trial: _run_trial(job, engine, trial))


def evaluate_model(request: Request) -> dict[str, float]:
    """Scores the whole detector in `request.weights`; writes evaluation.json into the output."""
    init_distributed()
    try:
        setup_logging()
        cfg, test_set = open_trained(request, scan=False)
        logger.info("%s", describe(test_set, "test"))
        model_file = resolve(request.weights).file
        engine = make_engine(choose_engine(request.engine))
        predictions = engine.predict(cfg, model_file=model_file, test_set=test_set)
        if not is_main():
            return {}
        metrics, per_class = _score(cfg, test_set, predictions, Path(request.output) / "inference")
        write_evaluation(request, str(model_file), metrics, per_class)
        return metrics
    finally:
        close_distributed()


def _run_trial(job: Job, engine: Engine, trial: Trial) -> None:
    request, folder = job.request, trial.folder
    if is_drawn(job.cfg.DATASETS.TRAIN):
        job = replace(job, train_set=_drawn(job, trial.seed))
    weights = read_start(request.weights, job.cfg, trial.seed, job.train_set.classes)
    # Not scaled to the processes: the file is the protocol, and scales again where it is used.
    cfg = trial_config(job.cfg, request, trial, weights)
    name = detection_config.protocol_name(job.cfg, request.config)
    logger.info("%s", training_line(job.cfg, shipped(request), name, world_size()))
    cfg = for_processes(cfg, world_size())
    fitted = _fit(job, engine, cfg, weights, folder)
    begin_test = time.perf_counter()
    predictions = engine.predict(cfg, model_file=fitted.model_file, test_set=job.test_set)
    if not is_main():
        return
    place, draws = folder / "inference", cfg.TRANSFER.REPLICATES
    metrics, per_class = _score(cfg, job.test_set, predictions, place, draws)
    write_trial(
        request,
        job.cfg,
        trial,
        weights,
        task=TASK,
        engine=engine.name,
        engine_version=engine.version,
        metrics=metrics,
        per_class=per_class,
        artifacts=_write_artifacts(job, weights, predictions, folder),
        seconds=fitted.seconds + time.perf_counter() - begin_test,
        views_seen=iterations_of(cfg) * cfg.SOLVER.IMS_PER_BATCH,
    )


def _drawn(job: Job, seed: int) -> DetectionSet:
    """The training set of a trial whose objects are drawn (@Kshot)."""
    names, node = job.cfg.DATASETS.TRAIN, job.cfg.TRANSFER
    first = node.VOC_COUNTS_FROM
    found = open_sets(names, like=job.train_set, draw=seed, voc_counts_from=first)
    found = found.limited(node.LIMIT_IMAGES)
    count = sum(len(sample.instances) for sample in found.samples)
    logger.info("draw %d: %d objects in %d images", seed, count, len(found))
    return found


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
    cfg: CfgNode,
    test_set: DetectionSet,
    predictions: list[Predictions],
    folder: Path,
    draws: int = 0,
) -> Scores:
    return score(
        test_set,
        predictions,
        folder=folder,
        with_masks=cfg.MODEL.MASK_ON,
        voc_metric=cfg.TRANSFER.VOC_METRIC,
        voc_exact=cfg.TRANSFER.VOC_EXACT,
        coco_evaluator=cfg.TRANSFER.COCO_EVALUATOR,
        max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
        draws=draws,
    )


def _write_artifacts(
    job: Job, weights: Weights, predictions: list[Predictions], folder: Path
) -> dict[str, str]:
    """Writes what a report shows beside the numbers; returns {name: path below the folder}."""
    artifacts = write_artifacts(job.request, weights, folder)
    artifacts["predictions"] = f"inference/{RESULTS_FILE}"
    artifacts["pr_curves"] = f"inference/{CURVES_FILE}"
    if job.cfg.TRANSFER.REPLICATES:
        artifacts["replicates"] = f"inference/{REPLICATES_FILE}"
    if (folder / SWEEP_FILE).is_file():
        artifacts["lr_sweep"] = SWEEP_FILE
    count = job.cfg.TRANSFER.DRAW_DETECTIONS
    artifacts.update(write_gallery(job.test_set, predictions, folder, pictures=count > 0))
    if count > 0:
        draw_detections(job.test_set, predictions, count, folder / "detections.png")
        artifacts["detections"] = "detections.png"
    return artifacts
