"""The torchvision engine: a config in, a trained detector and its predictions out.

Builds the detector, its input and its optimiser from the config with Detectron2's semantics, trains
on one or several processes (DDP; batch norm's buffers are not broadcast), resumes exactly, and
predicts. The parts it builds take plain arguments; the loop is `transfer/training/loop.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from fvcore.common.config import CfgNode
from torch import nn

from pretrain.common.distributed import distribute, gather_objects, rank, world_size
from pretrain.common.errors import InputError
from pretrain.common.logs import progress
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.weights import Weights
from transfer.datasets.samples import DetectionSet
from transfer.detection.config_spec import detector_arguments
from transfer.detection.data.jitter import JitterSpec
from transfer.detection.data.mapper import InferenceMapper, TrainMapper
from transfer.detection.data.transforms import GeometrySpec
from transfer.detection.engine import Evaluate, Fitted
from transfer.detection.evaluation.predictions import Predictions, encode_masks
from transfer.detection.torchvision_engine.build import build_detector
from transfer.detection.torchvision_engine.detector import Detector
from transfer.detection.torchvision_engine.load import load_model, load_starting_weights
from transfer.detection.torchvision_engine.precise_bn import update_bn_stats
from transfer.training import files as model_files
from transfer.training.loader import load
from transfer.training.loop import Periodic, micro_batches, train
from transfer.training.metrics import open_metrics
from transfer.training.precision import DTYPES, Precision
from transfer.training.sampler import GroupedBatches, rank_share
from transfer.training.schedule import (
    Schedule,
    build_optimizer,
    check_steps,
    param_groups,
    vit_layer_factor,
)
from transfer.training.state import TrainingState

logger = logging.getLogger(__name__)


class TorchvisionEngine:
    """See `transfer.detection.engine.Engine`."""

    name = "torchvision"
    version = torchvision.__version__

    def fit(
        self,
        cfg: CfgNode,
        *,
        weights: Weights,
        train_set: DetectionSet,
        test_set: DetectionSet,
        output: Path,
        resume: bool,
        evaluate: Evaluate,
    ) -> Fitted:
        """Trains, with checkpoints and evaluations in between; see `Engine.fit`."""
        run = _Training(cfg, weights, output, resume, train_set.classes)
        train_to_end(
            cfg,
            run,
            run.wrapped,
            training_batches(cfg, train_set, start_batch=run.start_iter),
            lambda iteration: evaluate(predict(run.model, cfg, test_set), iteration),
        )
        if cfg.TEST.PRECISE_BN.ENABLED:
            run.model.train()
            # As many images whatever ACCUMULATE is, in parts that fit the memory.
            count = cfg.TRANSFER.ACCUMULATE
            whole = training_batches(cfg, train_set)
            batches = (part for batch in whole for part in micro_batches(batch, count))
            update_bn_stats(run.model, batches, cfg.TEST.PRECISE_BN.NUM_ITER * count)
        model_file = run.finish()
        return Fitted(model_file, run.seconds())

    def predict(
        self, cfg: CfgNode, *, model_file: Path, test_set: DetectionSet
    ) -> list[Predictions]:
        """Loads a whole detector and predicts; see `Engine.predict`."""
        content = model_files.read_model(model_file)
        detector = make_detector(cfg, content.preprocess or Preprocess())
        load_model(detector, content.state)
        return predict(detector.to(device_of(cfg)), cfg, test_set)


class _Training(TrainingState):
    """A detector in training."""

    def __init__(
        self,
        cfg: CfgNode,
        weights: Weights,
        output: Path,
        resume: bool,
        classes: Sequence[str] | None = None,
    ) -> None:
        seed_everything(cfg.SEED + rank())
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
        detector = make_detector(cfg, weights.preprocess)
        loaded = load_starting_weights(detector, weights)
        for line in loaded.lines():
            logger.info("weights: %s", line)
        for line in loaded.names():
            logger.debug("weights, %s", line)
        detector.to(device_of(cfg))
        if cfg.TRANSFER.CHANNELS_LAST:
            detector.to(memory_format=torch.channels_last)
        super().__init__(
            detector,
            make_optimizer(cfg, detector),
            output,
            weights=weights,
            max_iter=cfg.SOLVER.MAX_ITER,
            precision=make_precision(cfg),
            classes=classes,
        )
        if resume:
            self.restore(lambda state: load_model(detector, state))
        self.wrapped = distribute(detector)


def train_to_end(
    cfg: CfgNode,
    run: TrainingState,
    model: nn.Module,
    batches: Iterator[list[dict[str, Any]]],
    evaluate: Callable[[int], dict[str, float]],
) -> None:
    """Trains from `run.start_iter` on, with metrics.json, checkpoints and evaluations in between.

    Args:
        model: of the run, as `distribute` gives it.
        evaluate: iteration -> metrics of the model as it is then.
    """
    with open_metrics(run.output, run.start_iter) as metrics:
        train(
            model,
            batches=batches,
            optimizer=run.optimizer,
            schedule=make_schedule(cfg),
            start_iter=run.start_iter,
            metrics=metrics,
            log_period=cfg.TRANSFER.LOG_PERIOD,
            precision=run.precision,
            accumulate=cfg.TRANSFER.ACCUMULATE,
            # Evaluated first: a run that is killed in between evaluates again, not never.
            callbacks=[
                Periodic(
                    cfg.TEST.EVAL_PERIOD,
                    lambda iteration: metrics.write(iteration, **evaluate(iteration)),
                ),
                Periodic(cfg.SOLVER.CHECKPOINT_PERIOD, run.save),
            ],
        )


def make_detector(cfg: CfgNode, preprocess: Preprocess) -> Detector:
    """The detector of a config, untrained; `preprocess` gives the high-pass filter, if any."""
    return build_detector(**detector_arguments(cfg), highpass=preprocess.highpass)


def make_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """SGD with Detectron2's parameter groups, or AdamW with the same groups and ViTDet's rates."""
    solver = cfg.SOLVER
    groups = param_groups(
        model,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        base_lr=solver.BASE_LR,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_pos_embed=cfg.TRANSFER.WEIGHT_DECAY_POS_EMBED,
        layer_factor=partial(
            vit_layer_factor, decay=cfg.TRANSFER.LR_LAYER_DECAY, depth=cfg.TRANSFER.VIT.DEPTH
        ),
    )
    return build_optimizer(
        groups,
        name=cfg.TRANSFER.OPTIMIZER,
        base_lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
    )


def make_precision(cfg: CfgNode) -> Precision:
    """float32, or the dtype of SOLVER.AMP."""
    dtype = DTYPES[cfg.TRANSFER.AMP_DTYPE] if cfg.SOLVER.AMP.ENABLED else None
    return Precision(dtype, device_of(cfg).type)


def make_schedule(cfg: CfgNode) -> Schedule:
    """The learning rate's factor over iterations."""
    solver = cfg.SOLVER
    return Schedule(
        name=solver.LR_SCHEDULER_NAME,
        max_iter=solver.MAX_ITER,
        steps=check_steps(solver.STEPS, solver.MAX_ITER),
        gamma=solver.GAMMA,
        warmup_iters=solver.WARMUP_ITERS,
        warmup_factor=solver.WARMUP_FACTOR,
        warmup_method=solver.WARMUP_METHOD,
        end_factor=solver.BASE_LR_END / solver.BASE_LR,
    )


def make_train_mapper(cfg: CfgNode) -> TrainMapper:
    """Reads, resizes and flips training images, or jitters their size."""
    flip, jitter = 0.5 if cfg.INPUT.RANDOM_FLIP == "horizontal" else 0.0, cfg.TRANSFER.LSJ
    geometry: GeometrySpec | JitterSpec
    if jitter.SCALES:
        geometry = JitterSpec(tuple(jitter.SCALES), jitter.CROP_SIZE, flip)
    else:
        geometry = GeometrySpec(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, flip)
    masks = cfg.INPUT.MASK_FORMAT if cfg.MODEL.MASK_ON else None
    return TrainMapper(geometry, cfg.INPUT.FORMAT, masks, cfg.SEED)


def training_batches(
    cfg: CfgNode, train_set: DetectionSet, start_batch: int = 0
) -> Iterator[list[dict[str, Any]]]:
    """This process's endless batches, from the given one on."""
    samples = train_set.samples
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        samples = tuple(sample for sample in samples if sample.trainable())
    if not samples:
        raise InputError(f"no image of {train_set.name} has an object to train on")
    wide = [sample.width > sample.height for sample in samples]
    batches = batch_indices(cfg, wide, cfg.DATALOADER.ASPECT_RATIO_GROUPING, start_batch)
    return load(samples, make_train_mapper(cfg), batches, cfg.DATALOADER.NUM_WORKERS)


def batch_indices(
    cfg: CfgNode, wide: Sequence[bool], grouping: bool, start_batch: int
) -> GroupedBatches:
    """This process's share of the endless batches; InputError where a batch does not divide."""
    total, processes = cfg.SOLVER.IMS_PER_BATCH, world_size()
    if total % processes:
        raise InputError(f"SOLVER.IMS_PER_BATCH {total} is not a multiple of {processes} processes")
    return GroupedBatches(
        wide,
        batch_size=total // processes,
        seed=cfg.SEED,
        rank=rank(),
        world_size=processes,
        grouping=grouping,
        start_batch=start_batch,
    )


def predict(detector: nn.Module, cfg: CfgNode, test_set: DetectionSet) -> list[Predictions]:
    """Predictions of all test images, in their order, on every process; each predicts a share."""
    share = rank_share(len(test_set), rank(), world_size())
    mapper = InferenceMapper(
        GeometrySpec((cfg.INPUT.MIN_SIZE_TEST,), cfg.INPUT.MAX_SIZE_TEST), cfg.INPUT.FORMAT
    )
    batches = [[(0, index)] for index in share]
    loader = load(test_set.samples, mapper, batches, cfg.DATALOADER.NUM_WORKERS)
    found = []
    training = detector.training
    detector.eval()
    with torch.no_grad():
        for batch in progress(loader, desc="predict", total=len(batches), leave=False):
            for item, detections in zip(batch, detector(batch)):
                found.append(_to_predictions(item["image_id"], detections))
    detector.train(training)
    return [prediction for part in gather_objects(found) for prediction in part]


def _to_predictions(image_id: int | str, detections: Any) -> Predictions:
    masks = detections.masks
    return Predictions(
        image_id=image_id,
        boxes=detections.boxes.cpu().numpy(),
        scores=detections.scores.cpu().numpy(),
        classes=detections.classes.cpu().numpy(),
        rles=None if masks is None else encode_masks(masks.cpu().numpy()),
    )


def device_of(cfg: CfgNode) -> torch.device:
    """This process's GPU, or the CPU where there is none or MODEL.DEVICE asks for it."""
    if cfg.MODEL.DEVICE != "cpu" and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def seed_everything(seed: int) -> None:
    """Seeds torch's and numpy's global generators."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
