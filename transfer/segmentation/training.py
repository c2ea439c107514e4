"""Trains a segmenter, which gives model_final.pth, and predicts, which gives confusion matrices.

The loop, the schedule, the files and the order of the images are those of `transfer/training`. A
run that is resumed at an iteration has the same images and random draws, and gives the same
weights.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import nn

from pretrain.common.distributed import gather_objects, process_device, rank, world_size
from pretrain.common.errors import InputError
from pretrain.common.logs import progress
from pretrain.common.sync_batchnorm import convert_sync_batchnorm
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.opened import OpenedWeights
from transfer.checkpoints.weights import Weights
from transfer.datasets.numbered_pixels import read_instances
from transfer.segmentation.cityscapes import weighted_pixels
from transfer.segmentation.config import segmenter_arguments, train_transform
from transfer.segmentation.data import SemanticSet
from transfer.segmentation.evaluation import confusion
from transfer.segmentation.fcn import Segmenter, build_segmenter, load_backbone
from transfer.segmentation.transforms import InferenceMapper, TrainMapper
from transfer.training.build import batch_indices, begin_training, train_to_end
from transfer.training.files import Fitted, ModelFile, read_model
from transfer.training.loader import load
from transfer.training.sampler import rank_share

logger = logging.getLogger(__name__)

# Scores during training; takes confusion matrices and the iteration, returns metrics in percent.
Evaluate = Callable[[np.ndarray, int], dict[str, float]]
KEPT_PART, KIND = "head.classifier.", "segmenter"  # every segmenter's file has this tensor prefix


def fit(
    cfg: CfgNode,
    *,
    weights: Weights,
    train_set: SemanticSet,
    test_set: SemanticSet,
    output: Path,
    resume: bool,
    evaluate: Evaluate,
) -> Fitted:
    """Trains for SOLVER.MAX_ITER iterations and writes `output`/model_final.pth."""
    run = begin_training(
        cfg,
        lambda: make_started_segmenter(cfg, weights),
        output,
        weights=weights,
        classes=train_set.classes,
        data=lambda: train_set.fingerprint,
        resume=resume,
        load=nn.Module.load_state_dict,
    )
    train_to_end(
        cfg,
        run,
        training_batches(cfg, train_set, start_batch=run.start_iter),
        lambda iteration: evaluate(predict(run.model, cfg, test_set)[0], iteration),
    )
    return run.finish()


def make_started_segmenter(cfg: CfgNode, weights: Weights) -> nn.Module:
    """Returns a config's segmenter with the weights' backbone and the config's batch norms."""
    segmenter = make_segmenter(cfg, weights.preprocess, weights.architecture)
    load_backbone(segmenter, weights.state, cfg.MODEL.WEIGHTS)
    if cfg.MODEL.RESNETS.NORM == "SyncBN":
        return convert_sync_batchnorm(segmenter, process_device(cfg.MODEL.DEVICE))
    return segmenter


def make_segmenter(cfg: CfgNode, preprocess: Preprocess, architecture: Any) -> Segmenter:
    """Returns a config's untrained segmenter; the weights decide its input and its strides."""
    return build_segmenter(
        **segmenter_arguments(cfg), preprocess=preprocess, architecture=architecture
    )


def load_segmenter(cfg: CfgNode, model_file: Path | OpenedWeights) -> Segmenter:
    """Returns a trained segmenter on the config's device; InputError if file and config differ."""
    content = read_segmenter(model_file)
    model = make_segmenter(cfg, content.preprocess or Preprocess(), content.architecture)
    try:
        model.load_state_dict(content.state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{model_file} is not a segmenter of this config: {reason}") from None
    return model.to(process_device(cfg.MODEL.DEVICE))


def read_segmenter(source: Path | OpenedWeights) -> ModelFile:
    """Reads model_final.pth; InputError if it is not a complete segmenter."""
    return read_model(source, KEPT_PART, KIND)


def training_batches(
    cfg: CfgNode, train_set: SemanticSet, start_batch: int = 0
) -> Iterator[list[dict[str, Any]]]:
    """Returns this process's endless batches, starting at the given one."""
    batches = batch_indices(cfg, [False] * len(train_set), False, start_batch)
    mapper = TrainMapper(train_transform(cfg), cfg.TRANSFER.SEMANTIC.NUM_CLASSES, cfg.SEED)
    device = process_device(cfg.MODEL.DEVICE)
    return load(train_set.samples, mapper, batches, cfg.DATALOADER.NUM_WORKERS, device)


class Predicted(NamedTuple):
    """Holds the result of a segmenter on n images with K classes.

    Attributes:
        matrices: int64 (n, K, K), the confusion matrix of each image.
        maps: the class maps that were asked for, by index of the image.
        weighted: for Cityscapes, the `weighted_pixels` of each image.
    """

    matrices: np.ndarray
    maps: dict[int, np.ndarray]
    weighted: np.ndarray | None


def predict(
    model: nn.Module, cfg: CfgNode, test_set: SemanticSet, keep: frozenset[int] = frozenset()
) -> Predicted:
    """Predicts all test images, in order, for every process.

    `keep`: indices of the images whose class maps are returned. Each process predicts a share, one
    image at a time, so no image is padded.
    """
    num_classes = cfg.TRANSFER.SEMANTIC.NUM_CLASSES
    share = rank_share(len(test_set), rank(), world_size())
    scales = tuple(cfg.TRANSFER.SEMANTIC.TEST_SCALES)
    mapper = InferenceMapper(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, num_classes, scales)
    batches = [[(0, index)] for index in share]
    device = process_device(cfg.MODEL.DEVICE)
    loader = load(test_set.samples, mapper, batches, cfg.DATALOADER.NUM_WORKERS, device)
    matrices: list[np.ndarray] = []
    weighted: list[np.ndarray] = []
    kept: dict[int, np.ndarray] = {}
    training = model.training
    model.eval()
    with torch.no_grad():
        for index, batch in zip(
            share, progress(loader, desc="predict", total=len(batches), leave=False)
        ):
            found = model(batch)[0].cpu().numpy()
            matrices.append(confusion(batch[0]["mask"].numpy(), found, num_classes))
            if (instances := test_set.samples[index].instance_name) is not None:
                weighted.append(weighted_pixels(read_instances(instances), found))
            if index in keep:
                kept[index] = found
    model.train(training)
    shape = (-1, num_classes, num_classes)
    parts = gather_objects((np.array(matrices, dtype=np.int64).reshape(shape), kept, weighted))
    together = {index: found for _, part, _ in parts for index, found in part.items()}
    pixels = [one for _, _, part in parts for one in part]
    return Predicted(
        np.concatenate([part for part, _, _ in parts]),
        together,
        np.stack(pixels) if pixels else None,
    )
