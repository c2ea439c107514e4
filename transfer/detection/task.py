"""Detection as a task: a detector is fine-tuned from weights and scored.

Trial t uses seed SEED + t: it orders the images, draws their augmentation and initialises the heads
(and the backbone if the weights are `random`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from fvcore.common.config import CfgNode

from pretrain.common.distributed import is_main, process_device, world_size
from pretrain.common.errors import InputError
from pretrain.common.loggers import DEFAULT as LOGGER
from transfer.checkpoints.weights import Weights
from transfer.datasets.checks_before_training import (
    check_one_file,
    check_scorable,
    describe,
    note_misfits,
    note_repeats,
)
from transfer.datasets.few_labels import is_drawn, split_part
from transfer.datasets.image_sizes import check_image_sizes
from transfer.datasets.import_shapely import import_shapely
from transfer.datasets.keypoint_checks import check_same_keypoints, check_scorable_keypoints
from transfer.datasets.registry import open_sets
from transfer.datasets.samples import DetectionSet, images_of
from transfer.detection import config as detection_config
from transfer.detection.config import load_merged
from transfer.detection.config_checks import check_train_named, oks_sigmas
from transfer.detection.data.cut_polygons import USE
from transfer.detection.draw import draw_detections
from transfer.detection.engine import Engine
from transfer.detection.evaluation.coco import choose_evaluator
from transfer.detection.evaluation.lvis_library import import_lvis
from transfer.detection.evaluation.pr_curves import FILE_NAME as CURVES_FILE
from transfer.detection.evaluation.predictions import Predictions
from transfer.detection.evaluation.score import RESULTS_FILE, Scores, score
from transfer.detection.find_engine import choose_engine, make_engine
from transfer.detection.fine_tuning import (
    FineTuning,
    classes_from_data,
    config_of_trial,
    training_curve,
)
from transfer.detection.gallery import write_gallery
from transfer.detection.lr_sweep import FILE_NAME as SWEEP_FILE
from transfer.detection.lr_sweep import check_sweep, choose_rate, iterations_of
from transfer.detection.scaling import for_processes, training_line
from transfer.detection.show import show_data
from transfer.detection.torchvision_engine.architectures import is_timm
from transfer.detection.torchvision_engine.meta_architectures import NUM_CLASSES
from transfer.detection.weights.scored_detector import classes_to_score, with_detector
from transfer.detection.weights.starting_weights import (
    read_starting_weights,
    with_backbone,
    with_init,
)
from transfer.results.replicates import FILE_NAME as REPLICATES_FILE
from transfer.training.files import MODEL_FILE, Fitted, finished_model, read_model
from transfer.trials.loop import format_metrics
from transfer.trials.task import Job, Outcome, Request, Scored, Trained, Trial

logger = logging.getLogger(__name__)

DetectionJob = Job[DetectionSet]


class DetectionTask(FineTuning[DetectionJob]):
    """Trains detectors, which predict boxes, masks if MODEL.MASK_ON, and keypoints if
    MODEL.KEYPOINT_ON.
    """

    name = "detection"

    def load_config(self, config: str, overrides: Sequence[str] = ()) -> CfgNode:
        """See `Task.load_config`."""
        cfg = detection_config.load_detection_config(config, overrides)
        check_sweep(cfg)
        return cfg

    def tf32_key(self, cfg: CfgNode) -> str:
        """Returns the key TRANSFER.TF32."""
        return "TRANSFER.TF32" if cfg.TRANSFER.TF32 else ""

    def backbone_name(self, cfg: CfgNode) -> str:
        """Returns the trunk's name in pretrain.backbones."""
        return detection_config.backbone_name(cfg)

    def describe_batch(self, cfg: CfgNode, config: str, processes: int) -> str:
        """See `Task.describe_batch`; also says whether the result can be compared with others."""
        name = self.protocol_name(cfg, config)
        return training_line(cfg, load_merged(config), name, processes)

    def open_data(self, request: Request, *, scan: bool = True) -> DetectionJob:
        """Returns the config, with the number of classes, and both data sets.

        `scan`: also compares the sizes of all image files with the annotations.
        """
        cfg = self.load_config(request.config, request.overrides)
        check_train_named(cfg)
        limit = cfg.TRANSFER.LIMIT_IMAGES
        first = {"voc_counts_from": cfg.TRANSFER.VOC_COUNTS_FROM}
        train_set = open_sets(
            cfg.DATASETS.TRAIN,
            cfg.TRANSFER.CLASSES,
            draw=cfg.SEED,
            keypoints=_keypoints(cfg),
            **first,
        ).limited(limit)
        kinds = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
        test_set = open_sets(cfg.DATASETS.TEST, like=train_set, scored=kinds, **first)
        test_set = test_set.limited(limit)
        cfg = detection_config.with_data(cfg, train_set)
        check_same_keypoints(train_set, test_set)
        check_scorable(test_set, cfg.TEST.DETECTIONS_PER_IMAGE)
        if cfg.TRANSFER.LR_SWEEP.RATES:
            check_one_file(train_set)
        if cfg.MODEL.MASK_ON and (cfg.TRANSFER.LSJ.SCALES or cfg.INPUT.CROP.ENABLED):
            import_shapely(USE)  # if it were missing, the run would fail only at the first image
        _check_sets(cfg, test_set, train_set, scan=scan)
        return Job(request, cfg, train_set, test_set, drawn_from=_whole(cfg, train_set))

    def prepare(self, request: Request, *, scan: bool = True) -> DetectionJob:
        """See `Task.prepare`; also checks the engine, and which kind of file the weights are in."""
        job = self.open_data(request, scan=scan)
        check_engine(job.cfg, choose_engine(request.engine))
        request.check()
        return replace(job, cfg=with_init(job.cfg, request.opened))

    def read_weights(self, job: DetectionJob, seed: int) -> Weights:
        """Returns a backbone's weights, or those of a complete detector."""
        source = job.request.opened
        return read_starting_weights(
            source, with_init(job.cfg, source), seed, job.train_set.classes
        )

    def describe(self, job: DetectionJob) -> list[str]:
        """Returns lines with the numbers of images, of objects, and of objects per class."""
        return [
            *classes_from_data(job, NUM_CLASSES[job.cfg.MODEL.META_ARCHITECTURE]),
            describe(job.train_set, "training"),
            describe(job.test_set, "test"),
        ]

    def run_trial(self, job: DetectionJob, trial: Trial) -> Outcome | None:
        """See `Task.run_trial`; the last iteration is scored, never the best one."""
        trial.log_to_folder()
        if is_drawn(job.cfg.DATASETS.TRAIN):
            job = replace(job, train_set=_drawn(job, trial.seed))
        engine = make_engine(choose_engine(job.request.engine))
        weights = self.weights_of_trial(job, trial)
        # The file is not scaled to the processes: it is the protocol, and is scaled again when it
        # is used.
        cfg = config_of_trial(with_backbone(job.cfg, weights), job.request, trial)
        trial.write_config(cfg, weights, job)
        logger.info("%s", self.describe_batch(job.cfg, job.request.config, world_size()))
        cfg = for_processes(cfg, world_size())
        fitted = _fit(job, engine, cfg, weights, trial.folder)
        begin_test = time.perf_counter()
        predictions = engine.predict(cfg, model_file=fitted.model_file, test_set=job.test_set)
        if not is_main():
            return None
        place, draws = trial.folder / "inference", cfg.TRANSFER.REPLICATES
        metrics, per_class = _score(cfg, job.test_set, predictions, place, draws)
        artifacts = _write_artifacts(job, predictions, trial.folder)
        return Outcome(
            weights=weights,
            engine=engine.name,
            engine_version=engine.version,
            metrics=metrics,
            per_class=per_class,
            artifacts=artifacts,
            curve=training_curve(trial.folder),
            seconds=fitted.seconds + time.perf_counter() - begin_test,
            on_gpu=process_device(cfg.MODEL.DEVICE).type == "cuda",
            views_seen=iterations_of(cfg) * cfg.SOLVER.IMS_PER_BATCH,
        )

    def open_trained(self, request: Request, *, scan: bool = True) -> Trained[DetectionSet]:
        """See `Task.open_trained`.

        The config is completed by the facts of the detector in `request.weights`, and the test set
        has its classes in its order. The training set is opened only if neither the file nor
        TRANSFER.CLASSES names the classes, and it is there.
        """
        cfg = detection_config.load_detection_config(request.config, request.overrides)
        kinds = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
        classes = classes_to_score(cfg, request.opened)
        test_set = open_sets(cfg.DATASETS.TEST, classes, scored=kinds, keypoints=_keypoints(cfg))
        test_set = test_set.limited(cfg.TRANSFER.LIMIT_IMAGES)
        cfg = detection_config.with_num_classes(cfg, len(classes), cfg.DATASETS.TEST)
        _check_sets(cfg, test_set, scan=scan)
        return with_detector(cfg, request.opened, request.config), test_set

    def evaluate(self, request: Request, trained: Trained[DetectionSet]) -> Scored | None:
        """See `Task.evaluate`."""
        cfg, test_set = trained
        logger.info("%s", describe(test_set, "test"))
        request.opened.close()  # the engine reads the file itself
        model_file = request.opened.file
        engine = make_engine(choose_engine(request.engine))
        predictions = engine.predict(cfg, model_file=model_file, test_set=test_set)
        if not is_main():
            return None
        scores = _score(cfg, test_set, predictions, Path(request.output) / "inference")
        return Scored(str(model_file), *scores)

    def show_data(self, request: Request, count: int) -> list[Path]:
        """See `Task.show_data`."""
        # Each image that is shown is checked as it is read.
        job = self.open_data(request, scan=False)
        return show_data(job.cfg, job.train_set, Path(request.output), count)


def _keypoints(cfg: CfgNode) -> int:
    """Returns the number of keypoints of an object; 0 for a detector without keypoints."""
    return cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS if cfg.MODEL.KEYPOINT_ON else 0


def _check_sets(
    cfg: CfgNode, test_set: DetectionSet, train_set: DetectionSet | None = None, *, scan: bool
) -> None:
    """Raises InputError unless the test set can be scored and all images have their annotated
    sizes. Warns of objects and images that a set has twice, and of boxes that are not around their
    masks.
    """
    for data in (test_set,) if train_set is None else (train_set, test_set):
        note_repeats(data)
        note_misfits(data)
    if cfg.MODEL.KEYPOINT_ON:
        check_scorable_keypoints(test_set)
    if test_set.layout == "coco":
        choose_evaluator(cfg.TRANSFER.COCO_EVALUATOR)
    elif test_set.layout == "lvis":
        import_lvis()
    elif test_set.layout == "cityscapes" and not cfg.MODEL.MASK_ON:
        raise InputError(
            f"MODEL.MASK_ON False: {test_set.name} is scored by masks alone; set it True"
        )
    if scan and cfg.TRANSFER.CHECK_IMAGES:
        trained = () if train_set is None else images_of(train_set.samples)
        check_image_sizes(chain(trained, images_of(test_set.samples)))


def check_engine(cfg: CfgNode, engine: str) -> None:
    """Raises InputError for what only the torchvision engine does."""
    if engine != "detectron2":
        return
    if is_timm(cfg):
        raise InputError(
            f"MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME} is a network of timm, which needs "
            "--engine torchvision"
        )
    if cfg.TRANSFER.ACCUMULATE > 1:
        raise InputError("TRANSFER.ACCUMULATE above 1 needs --engine torchvision")
    if cfg.TRANSFER.LOGGER != LOGGER:
        raise InputError(
            f"TRANSFER.LOGGER {cfg.TRANSFER.LOGGER!r} needs --engine torchvision; Detectron2 has "
            "writers of its own"
        )
    if cfg.SOLVER.AMP.ENABLED and cfg.TRANSFER.AMP_DTYPE != "fp16":
        # It rounds the boxes to the dtype of the features before pooling: with 8 bits, by pixels.
        raise InputError(
            f"TRANSFER.AMP_DTYPE {cfg.TRANSFER.AMP_DTYPE} needs --engine torchvision; Detectron2's "
            "pooling would round boxes to it"
        )
    if cfg.SOLVER.AMP.ENABLED and process_device(cfg.MODEL.DEVICE).type == "cpu":
        raise InputError("SOLVER.AMP.ENABLED needs a GPU here; use --engine torchvision")


def _whole(cfg: CfgNode, train_set: DetectionSet) -> Callable[[], DetectionSet] | None:
    """Returns a function for the training set from which trials draw objects (@Kshot), or None."""
    names, first = cfg.DATASETS.TRAIN, cfg.TRANSFER.VOC_COUNTS_FROM
    if not is_drawn(names):
        return None
    whole = [split_part(name)[0] if is_drawn([name]) else name for name in names]
    return lambda: open_sets(whole, like=train_set, voc_counts_from=first)


def _drawn(job: DetectionJob, seed: int) -> DetectionSet:
    """Returns the training set of a trial whose objects are drawn (@Kshot)."""
    names, node = job.cfg.DATASETS.TRAIN, job.cfg.TRANSFER
    first = node.VOC_COUNTS_FROM
    found = open_sets(names, like=job.train_set, draw=seed, voc_counts_from=first)
    found = found.limited(node.LIMIT_IMAGES)
    count = len(found.objects.image)
    logger.info("draw %d: %d objects in %d images", seed, count, len(found))
    return found


def _fit(job: DetectionJob, engine: Engine, cfg: CfgNode, weights: Weights, folder: Path) -> Fitted:
    """Trains, unless a resumed run had finished training already."""
    model_file = folder / MODEL_FILE
    if job.request.resume and (done := finished_model(folder, read_model)) is not None:
        return Fitted(model_file, done.seconds or 0.0)
    begin = time.perf_counter()
    if cfg.TRANSFER.LR_SWEEP.RATES:
        rate = choose_rate(
            engine,
            cfg,
            weights=weights,
            train_set=job.train_set,
            folder=folder,
            score=lambda data, found, place: _score(cfg, data, list(found), place)[0],
            resume=job.request.resume,
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
        oks_sigmas=oks_sigmas(cfg),
        draws=draws,
    )


def _write_artifacts(
    job: DetectionJob, predictions: list[Predictions], folder: Path
) -> dict[str, str]:
    """Writes what a report shows next to the numbers; returns {name: path below the folder}."""
    artifacts = {
        "predictions": f"inference/{RESULTS_FILE}",
        "pr_curves": f"inference/{CURVES_FILE}",
    }
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
