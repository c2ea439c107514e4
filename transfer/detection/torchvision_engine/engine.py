"""The torchvision engine: a config in, a trained detector and its predictions out.

Builds the detector and its input from the config with Detectron2's semantics, trains on one or
several processes (DDP; batch norm's buffers are not broadcast), resumes exactly, and predicts. What
it builds takes plain arguments; optimiser, loop and files are those of `transfer/training`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from fvcore.common.config import CfgNode
from torch import nn

from pretrain.common.distributed import gather_items, process_device, rank, world_size
from pretrain.common.errors import InputError
from pretrain.common.logs import progress
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.weights import Weights
from transfer.datasets.keypoints import flip_order, rows_with_keypoints
from transfer.datasets.samples import DetectionSet, Sample
from transfer.detection.config_checks import make_crop
from transfer.detection.data.crop import CroppedSpec
from transfer.detection.data.jitter import JitterSpec
from transfer.detection.data.mapper import InferenceMapper, TrainMapper
from transfer.detection.data.transforms import GeometrySpec
from transfer.detection.engine import Evaluate
from transfer.detection.evaluation.predictions import Predictions, encode_masks
from transfer.detection.torchvision_engine.batchnorm import use_kernels
from transfer.detection.torchvision_engine.detector import BaseDetector
from transfer.detection.torchvision_engine.load import load_model, load_starting_weights
from transfer.detection.torchvision_engine.meta_architectures import find_spec
from transfer.detection.torchvision_engine.precise_bn import update_bn_stats
from transfer.training.build import batch_indices, begin_training, train_to_end
from transfer.training.files import Fitted, read_model
from transfer.training.loader import load
from transfer.training.loop import micro_batches
from transfer.training.sampler import REPEATING, rank_share, repeat_factors

logger = logging.getLogger(__name__)


class TorchvisionEngine:
    """Implements `transfer.detection.engine.Engine` with the detectors of this folder."""

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
        run = begin_training(
            cfg,
            lambda: make_started_detector(cfg, weights),
            output,
            weights=weights,
            classes=train_set.classes,
            data=lambda: train_set.fingerprint,
            resume=resume,
            load=load_model,
        )
        train_to_end(
            cfg,
            run,
            training_batches(cfg, train_set, start_batch=run.start_iter),
            lambda iteration: evaluate(predict(run.model, cfg, test_set), iteration),
        )
        if cfg.TEST.PRECISE_BN.ENABLED:
            if run.start_iter < cfg.SOLVER.MAX_ITER:
                run.save(cfg.SOLVER.MAX_ITER - 1)  # the next steps take minutes
            run.model.train()
            # As many images whatever ACCUMULATE is, in parts that fit the memory.
            count = cfg.TRANSFER.ACCUMULATE
            whole = training_batches(cfg, train_set)
            batches = (part for batch in whole for part in micro_batches(batch, count))
            update_bn_stats(run.model, batches, cfg.TEST.PRECISE_BN.NUM_ITER * count)
        return run.finish()

    def predict(
        self, cfg: CfgNode, *, model_file: Path, test_set: DetectionSet
    ) -> list[Predictions]:
        """Loads a complete detector and predicts; see `Engine.predict`."""
        content = read_model(model_file)
        detector = make_detector(cfg, content.preprocess or Preprocess())
        load_model(detector, content.state)
        return predict(detector.to(process_device(cfg.MODEL.DEVICE)), cfg, test_set)


def make_started_detector(cfg: CfgNode, weights: Weights) -> BaseDetector:
    """Returns the detector of a config with the weights that it starts from; logs what was
    loaded.
    """
    detector = make_detector(cfg, weights.preprocess)
    loaded = load_starting_weights(detector, weights)
    logger.info("weights: %s", loaded.line())
    for line in loaded.names():
        logger.debug("weights, %s", line)
    return detector


def make_detector(cfg: CfgNode, preprocess: Preprocess) -> BaseDetector:
    """Returns the detector of a config, untrained; `preprocess` gives the high-pass filter, if
    any.
    """
    spec = find_spec(cfg.MODEL.META_ARCHITECTURE).from_config(cfg, preprocess.highpass)
    detector = spec.build()
    use_kernels(detector, process_device(cfg.MODEL.DEVICE))
    return detector


def make_train_mapper(cfg: CfgNode, keypoint_names: Sequence[str] = ()) -> TrainMapper:
    """Returns the mapper that reads, resizes and flips training images; it may crop them before, or
    jitter their size.

    Args:
        keypoint_names: names of the data's keypoints, which are needed if images are flipped.
    """
    node, jitter = cfg.INPUT, cfg.TRANSFER.LSJ
    flip = 0.5 if node.RANDOM_FLIP == "horizontal" else 0.0
    between = node.MIN_SIZE_TRAIN_SAMPLING == "range"
    geometry: GeometrySpec | JitterSpec | CroppedSpec
    geometry = GeometrySpec(node.MIN_SIZE_TRAIN, node.MAX_SIZE_TRAIN, flip, between)
    if jitter.SCALES:
        geometry = JitterSpec(tuple(jitter.SCALES), jitter.CROP_SIZE, flip)
    elif (crop := make_crop(cfg)) is not None:
        geometry = CroppedSpec(crop, geometry)
    masks = node.MASK_FORMAT if cfg.MODEL.MASK_ON else None
    order = None
    if cfg.MODEL.KEYPOINT_ON:
        unmoved = tuple(range(cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS))
        order = flip_order(keypoint_names) if flip else unmoved
    return TrainMapper(geometry, node.FORMAT, masks, cfg.SEED, order)


def training_images(cfg: CfgNode, data: DetectionSet) -> DetectionSet:
    """Returns the images that are trained on: those with an object, and with keypoints those with
    as many labelled ones as the config asks for. Raises InputError if there are none.
    """
    found = data
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        found = found.part(found.trainable_rows())
    least = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0
    if least and len(found):
        count, found = len(found), found.part(rows_with_keypoints(found.samples, least))
        if count > len(found):
            logger.info(
                "%d images with fewer labelled keypoints than %d are not trained on",
                count - len(found),
                least,
            )
        if not len(found):
            raise InputError(
                f"no image of {data.name} has the {least} labelled keypoints of "
                "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE; lower it"
            )
    if not len(found):
        raise InputError(f"no image of {data.name} has an object to train on")
    return found


def training_batches(
    cfg: CfgNode, train_set: DetectionSet, start_batch: int = 0
) -> Iterator[list[dict[str, Any]]]:
    """Returns this process's endless batches, from the given one on."""
    train_set = training_images(cfg, train_set)
    samples, mapper = train_set.samples, make_train_mapper(cfg, train_set.keypoint_names)
    batches = batch_indices(
        cfg,
        train_set.wide(),
        cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        start_batch,
        make_factors(cfg, train_set),
    )
    device = process_device(cfg.MODEL.DEVICE)
    return load(samples, mapper, batches, cfg.DATALOADER.NUM_WORKERS, device)


def make_factors(cfg: CfgNode, train_set: DetectionSet) -> torch.Tensor | None:
    """Returns how often each image is repeated, if DATALOADER.SAMPLER_TRAIN repeats them; crowd
    regions count as objects, as in Detectron2."""
    node, objects = cfg.DATALOADER, train_set.objects
    if node.SAMPLER_TRAIN != REPEATING:
        return None
    return repeat_factors(
        objects.image, objects.category, len(train_set), node.REPEAT_THRESHOLD, node.REPEAT_SQRT
    )


def make_inference_mapper(cfg: CfgNode) -> InferenceMapper:
    """Resizes test images."""
    geometry = GeometrySpec((cfg.INPUT.MIN_SIZE_TEST,), cfg.INPUT.MAX_SIZE_TEST)
    return InferenceMapper(geometry, cfg.INPUT.FORMAT)


def predict(detector: nn.Module, cfg: CfgNode, test_set: DetectionSet) -> list[Predictions]:
    """Returns predictions of all test images, in their order, on every process; each predicts a
    share.
    """
    mapper, device = make_inference_mapper(cfg), process_device(cfg.MODEL.DEVICE)
    workers = cfg.DATALOADER.NUM_WORKERS
    return predict_samples(detector, mapper, test_set.samples, workers, device)


def predict_samples(
    detector: nn.Module,
    mapper: InferenceMapper,
    samples: Sequence[Sample],
    num_workers: int,
    device: torch.device,
) -> list[Predictions]:
    """See `predict`."""
    batches = [[(0, index)] for index in rank_share(len(samples), rank(), world_size())]
    loader = load(samples, mapper, batches, num_workers, device)
    return gather_items(predict_items(detector, loader, len(batches)))


def predict_items(
    detector: nn.Module, batches: Iterable[list[dict[str, Any]]], count: int
) -> list[Predictions]:
    """Returns predictions of what an `InferenceMapper` made, in `count` batches."""
    found: list[Predictions] = []
    training = detector.training
    detector.eval()
    with torch.no_grad():
        for batch in progress(batches, desc="predict", total=count, leave=False):
            for item, detections in zip(batch, detector(batch)):
                found.append(_to_predictions(item["image_id"], detections))
    detector.train(training)
    return found


def _to_predictions(image_id: int | str, detections: Any) -> Predictions:
    boxes, scores, masks = detections.boxes, detections.scores, detections.masks
    keypoints = detections.keypoints
    # In one copy, since each makes the host wait for a GPU; float64 holds all of them as they are.
    columns = [boxes.double(), scores.double()[:, None], detections.classes.double()[:, None]]
    numbers = torch.cat(columns, dim=1).cpu()
    return Predictions(
        image_id=image_id,
        boxes=numbers[:, :4].to(boxes.dtype).numpy(),
        scores=numbers[:, 4].to(scores.dtype).numpy(),
        classes=numbers[:, 5].to(detections.classes.dtype).numpy(),
        rles=None if masks is None else encode_masks(masks.cpu().numpy()),
        keypoints=None if keypoints is None else keypoints.cpu().numpy(),
    )
