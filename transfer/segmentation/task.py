"""Semantic segmentation as a task: trains an FCN, UPerNet or a linear probe, and scores it.

The config and the files are the same as for detection. Trial t uses seed SEED + t.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torchvision
from fvcore.common.config import CfgNode

from pretrain.common.checkpoint import atomic_write_text
from pretrain.common.distributed import is_main, process_device
from pretrain.common.errors import InputError
from pretrain.data.refused_kinds import check_kinds
from transfer.checkpoints.read import read_weights
from transfer.checkpoints.weights import Weights
from transfer.detection.config import changed, with_preprocess
from transfer.detection.fine_tuning import (
    FineTuning,
    classes_from_data,
    config_of_trial,
    training_curve,
)
from transfer.detection.roles import is_linear_probe
from transfer.detection.scaling import for_processes
from transfer.results.replicates import Replicates
from transfer.segmentation import config as segmentation_config
from transfer.segmentation.cityscapes import draw_cityscapes, summarize_cityscapes
from transfer.segmentation.data import SemanticSet, check_listed_classes, open_sets
from transfer.segmentation.draw import draw_predictions, drawn_images
from transfer.segmentation.evaluation import draw_metrics, summarize
from transfer.segmentation.mask_checks import check_masks_of
from transfer.segmentation.show import show_data
from transfer.segmentation.training import (
    Predicted,
    fit,
    load_segmenter,
    predict,
    read_segmenter,
)
from transfer.training.files import MODEL_FILE, Fitted, finished_model
from transfer.trials.loop import format_metrics
from transfer.trials.task import Job, Outcome, Request, Scored, Trained, Trial

logger = logging.getLogger(__name__)

ENGINE = "torchvision"
DRAWN = "detections.png"  # the report shows this artifact's picture of a test image

SegmentationJob = Job[SemanticSet]


class SegmentationTask(FineTuning[SegmentationJob]):
    """Predicts class maps of complete images."""

    name = "semantic"
    untrained = ("MODEL.BACKBONE.NAME",)

    def load_config(self, config: str, overrides: Sequence[str] = ()) -> CfgNode:
        """See `Task.load_config`."""
        return segmentation_config.load_segmentation_config(config, overrides)

    def tf32_key(self, cfg: CfgNode) -> str:
        """Returns TRANSFER.TF32."""
        return "TRANSFER.TF32" if cfg.TRANSFER.TF32 else ""

    def backbone_name(self, cfg: CfgNode) -> str | None:
        """Returns the trunk's name; None: a linear probe takes the network of the weights."""
        return segmentation_config.backbone_name(cfg)

    def open_data(self, request: Request, *, scan: bool = True) -> SegmentationJob:
        """Opens both data sets; returns them with the config, which has the number of classes.

        `scan`: also judges all masks, and their sizes.
        """
        cfg = self.load_config(request.config, request.overrides)
        limit = cfg.TRANSFER.LIMIT_IMAGES
        train_set = open_sets(cfg.DATASETS.TRAIN, cfg.TRANSFER.CLASSES).limited(limit)
        test_set = open_sets(cfg.DATASETS.TEST, like=train_set).limited(limit)
        if not cfg.TRANSFER.CLASSES:
            owner = f"the training set {train_set.name}"
            check_listed_classes(cfg.DATASETS.TEST, train_set.classes, owner)
        _check_images(cfg, train_set, test_set, scan=scan)
        return Job(request, segmentation_config.with_data(cfg, train_set), train_set, test_set)

    def prepare(self, request: Request, *, scan: bool = True) -> SegmentationJob:
        """See `Task.prepare`; also checks the engine."""
        if request.engine not in ("auto", ENGINE):
            raise InputError(
                f"--engine {request.engine}: semantic segmentation only runs on {ENGINE}; leave "
                "the option out"
            )
        return super().prepare(request, scan=scan)

    def check_processes(self, cfg: CfgNode, processes: int) -> None:
        """Checks also that each process's batch norms have enough images."""
        super().check_processes(cfg, processes)
        segmentation_config.check_norm_batch(for_processes(cfg, processes), processes)

    def read_weights(self, job: SegmentationJob, seed: int) -> Weights:
        """Reads the weights of the config's backbone, or of any one for a linear probe.

        Raises InputError for weights of a different backbone, and for `random` without one.
        """
        name, opened = self.backbone_name(job.cfg), job.request.opened
        if opened.is_random and name is None:
            raise InputError(
                "weights 'random' need a backbone: add MODEL.BACKBONE.NAME and a name, such as "
                "resnet50 or vit_small_patch16_224"
            )
        weights = read_weights(opened, backbone=name, seed=seed)
        segmentation_config.check_backbone(job.cfg, weights.backbone)
        return weights

    def describe(self, job: SegmentationJob) -> list[str]:
        """Returns a line with the number of classes if the data decides it."""
        return classes_from_data(job, "TRANSFER.SEMANTIC.NUM_CLASSES")

    def run_trial(self, job: SegmentationJob, trial: Trial) -> Outcome | None:
        """See `Task.run_trial`; the last iteration is scored, never the best one."""
        trial.log_to_folder()
        weights = self.weights_of_trial(job, trial)
        segmentation_config.warn_about(weights.architecture)
        # `warn_about` above has this task's warning about the architecture's padding.
        strides = {k: v for k, v in weights.architecture.items() if k != "padding"}
        cfg = with_preprocess(job.cfg, weights.preprocess, strides)
        if is_linear_probe(cfg):
            cfg = changed(cfg, {"MODEL.BACKBONE.NAME": weights.backbone})
        cfg = config_of_trial(cfg, job.request, trial)
        trial.write_config(cfg, weights, job)
        fitted = _fit(job, cfg, weights, trial.folder)
        begin_test = time.perf_counter()
        keep = drawn_images(len(job.test_set), cfg.TRANSFER.DRAW_DETECTIONS)
        model = load_segmenter(cfg, fitted.model_file)
        predicted = predict(model, cfg, job.test_set, frozenset(keep))
        if not is_main():
            return None
        seconds = fitted.seconds + time.perf_counter() - begin_test
        metrics, per_class = _scores(predicted, job.test_set)
        return Outcome(
            weights=weights,
            engine=ENGINE,
            engine_version=torchvision.__version__,
            metrics=metrics,
            per_class=per_class,
            artifacts=_write_artifacts(job, predicted, trial.folder),
            curve=training_curve(trial.folder),
            seconds=seconds,
            on_gpu=process_device(cfg.MODEL.DEVICE).type == "cuda",
            views_seen=cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH,
        )

    def open_trained(self, request: Request, *, scan: bool = True) -> Trained[SemanticSet]:
        """See `Task.open_trained`.

        The classes are those of the segmenter in `request.weights`. The training set is opened only
        if neither the file nor TRANSFER.CLASSES names the classes.
        """
        cfg = segmentation_config.load_segmentation_config(request.config, request.overrides)
        named = read_segmenter(request.opened).classes or tuple(cfg.TRANSFER.CLASSES)
        classes = named or open_sets(cfg.DATASETS.TRAIN).classes
        test_set = open_sets(cfg.DATASETS.TEST, classes).limited(cfg.TRANSFER.LIMIT_IMAGES)
        if not cfg.TRANSFER.CLASSES:
            check_listed_classes(cfg.DATASETS.TEST, classes, str(request.weights))
        _check_images(cfg, test_set, scan=scan)
        return segmentation_config.with_data(cfg, test_set), test_set

    def evaluate(self, request: Request, trained: Trained[SemanticSet]) -> Scored | None:
        """See `Task.evaluate`."""
        cfg, test_set = trained
        predicted = predict(load_segmenter(cfg, request.opened), cfg, test_set)
        if not is_main():
            return None
        return Scored(request.weights, *_scores(predicted, test_set))

    def show_data(self, request: Request, count: int) -> list[Path]:
        """See `Task.show_data`."""
        job = self.open_data(request, scan=False)
        return show_data(job.cfg, job.train_set, Path(request.output), count)


def _check_images(cfg: CfgNode, *sets: SemanticSet, scan: bool) -> None:
    """Raises InputError for what is not an image; with `scan` also for masks that do not fit."""
    for data in sets:
        check_kinds(data.name, [sample.file_name for sample in data.samples])
        if scan and cfg.TRANSFER.CHECK_IMAGES:
            check_masks_of(data)


def _fit(job: SegmentationJob, cfg: CfgNode, weights: Weights, folder: Path) -> Fitted:
    """Trains, unless a resumed run had already finished its training."""
    model_file = folder / MODEL_FILE
    if job.request.resume and (done := finished_model(folder, read_segmenter)) is not None:
        return Fitted(model_file, done.seconds or 0.0)

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


def _scores(
    predicted: Predicted, test_set: SemanticSet
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Returns (metrics, per_class); for Cityscapes also those of its official script."""
    metrics, per_class = summarize(predicted.matrices.sum(axis=0), test_set.classes)
    if predicted.weighted is None:
        return metrics, per_class
    own, each = summarize_cityscapes(predicted.matrices, predicted.weighted)
    return {**metrics, **own}, {**per_class, **each}


def _write_artifacts(job: SegmentationJob, predicted: Predicted, folder: Path) -> dict[str, str]:
    """Writes the artifacts for the report; returns {name: path below the folder}."""
    matrices, maps, weighted = predicted
    total = {"classes": job.test_set.classes, "confusion": matrices.sum(axis=0).tolist()}
    (folder / "inference").mkdir(exist_ok=True)
    atomic_write_text(folder / "inference" / "confusion.json", json.dumps(total) + "\n")
    artifacts = {"confusion": "inference/confusion.json"}
    if job.cfg.TRANSFER.REPLICATES:
        ids = [sample.image_id for sample in job.test_set.samples]
        replicates = Replicates.draw(ids, job.cfg.TRANSFER.REPLICATES)
        order = np.argsort(ids, kind="stable")
        replicates.add(draw_metrics(matrices[order], replicates))
        if weighted is not None:
            replicates.add(draw_cityscapes(matrices[order], weighted[order], replicates))
        artifacts["replicates"] = replicates.write(folder).name
    if maps:
        draw_predictions(job.test_set, maps, folder / DRAWN)
        artifacts["detections"] = DRAWN
    return artifacts
