"""The segmenter's training step and prediction as cases of the rehearsal.

Tensors have only shapes, so images can have their true size.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode
from torch import nn

from pretrain.common.distributed import process_device
from tests.gpu.counting import Action, count
from tests.gpu.made_up_images import semantic_set
from tests.gpu.training_iteration import iteration
from transfer.checkpoints.read import random_weights
from transfer.segmentation import config as segmentation_config
from transfer.segmentation.training import (
    make_segmenter,
    make_started_segmenter,
    predict,
    training_batches,
)
from transfer.training.build import begin_training

IMAGES = 2  # of a process in a step, or in a prediction
SIZE = (500, 375)  # height, width, as many of VOC's
NAMES = ("voc12aug_fcn", "voc12aug_fcn_d8")
TRAIN, PREDICT = "train", "predict"
CASES = [
    *(f"{TRAIN}/{name}@1" for name in NAMES),
    *(f"{TRAIN}/{name}@8" for name in NAMES),
    *(f"{PREDICT}/{name}@1" for name in NAMES),
]


def measure(case: str) -> dict[str, Any]:
    """The numbers of a case."""
    action, name = case.split("/")
    name, world = name.split("@")
    words = ["SOLVER.IMS_PER_BATCH", str(IMAGES * int(world)), "DATALOADER.NUM_WORKERS", "0"]
    cfg = segmentation_config.load_segmentation_config(f"semantic/{name}.yaml", words)
    prepare = training_step if action == TRAIN else prediction
    with tempfile.TemporaryDirectory(prefix="rehearsal_") as folder:
        return count(lambda: prepare(cfg, Path(folder)), int(world), values=False)


def training_step(cfg: CfgNode, folder: Path) -> Action:
    """What `fit` does until its second iteration, without DDP."""
    weights = random_weights(segmentation_config.backbone_name(cfg), 0)
    classes = [str(number) for number in range(cfg.TRANSFER.SEMANTIC.NUM_CLASSES)]
    images = semantic_set(folder, SIZE, cfg.SOLVER.IMS_PER_BATCH, classes)
    run = begin_training(
        cfg,
        lambda: make_started_segmenter(cfg, weights),
        folder,
        weights=weights,
        classes=classes,
        resume=False,
        load=nn.Module.load_state_dict,
    )
    return iteration(cfg, run, training_batches(cfg, images), IMAGES)


def prediction(cfg: CfgNode, folder: Path) -> Action:
    """`predict` of two images, one after the other."""
    weights = random_weights(segmentation_config.backbone_name(cfg), 0)
    classes = [str(number) for number in range(cfg.TRANSFER.SEMANTIC.NUM_CLASSES)]
    images = semantic_set(folder, SIZE, IMAGES, classes)
    model = make_segmenter(cfg, weights.preprocess, weights.architecture)
    model.to(process_device(cfg.MODEL.DEVICE))
    return Action(lambda: predict(model, cfg, images), IMAGES)
