"""The torchvision engine's training step and prediction as cases of the rehearsal.

Which boxes are chosen depends on values. So everything is computed by the CPU's kernels, on small
images with few boxes, with the shipped detectors. Waits, copies and collectives do not depend on
them. `transfer/detection/footprint.py` counts the memory and FLOPs of a step of true size.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode

from pretrain.common.distributed import process_device
from pretrain.data.highpass import HighPass
from pretrain.data.preprocess import Preprocess
from tests.batchnorm_kernels import give_cpus_the_kernels
from tests.gpu.counting import Action, count
from tests.gpu.made_up_images import detection_set
from tests.gpu.training_iteration import iteration
from transfer.checkpoints.weights import Weights, make_provenance
from transfer.detection.config import load_detection_config
from transfer.detection.torchvision_engine.detector import Detector
from transfer.detection.torchvision_engine.engine import (
    make_detector,
    predict,
    training_batches,
)
from transfer.detection.torchvision_engine.load import load_model
from transfer.training.build import begin_training

IMAGES = 2  # of a process in a step, or in a prediction
OBJECTS = 2  # of an image: as many as the sampler takes, so that the numbers do not move
SMALL = (64, 96)  # height, width of images
FULL = (800, 1216)  # the count at true size

# Fewer boxes, all of whose places are taken whatever the weights.
FEW_BOXES = (
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "8", "MODEL.RPN.BATCH_SIZE_PER_IMAGE", "16"),
    *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", "200", "MODEL.RPN.POST_NMS_TOPK_TRAIN", "30"),
    *("MODEL.RPN.PRE_NMS_TOPK_TEST", "200", "MODEL.RPN.POST_NMS_TOPK_TEST", "10"),
    *("TEST.DETECTIONS_PER_IMAGE", "5", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),
)
BF16 = ("SOLVER.AMP.ENABLED", "True", "TRANSFER.AMP_DTYPE", "bf16")
FP16 = ("SOLVER.AMP.ENABLED", "True", "TRANSFER.AMP_DTYPE", "fp16")
SMALL_VIT = (
    *("TRANSFER.VIT.WIDTH", "96", "TRANSFER.VIT.IMAGE_SIZE", "64", "INPUT.MAX_SIZE_TEST", "64"),
    *("TRANSFER.LSJ.CROP_SIZE", "64"),
)


@dataclass(frozen=True)
class Detection:
    """A detector's config with what is changed of it."""

    config: str
    words: tuple[str, ...] = ()


DETECTORS = {
    "coco_mscn": Detection("coco_mscn.yaml"),  # C4 with masks, naive SyncBN
    "voc_mscn": Detection("voc_mscn.yaml"),  # C4 without masks, SyncBN
    "coco_mscn_fpn_1x": Detection("coco_mscn_fpn_1x.yaml"),
    "coco_mscn_fpn_4conv1fc_1x": Detection("coco_mscn_fpn_4conv1fc_1x.yaml"),
    "digits_coco": Detection("digits_coco.yaml"),
    "digits_coco_fp16": Detection("digits_coco.yaml", FP16),
    "coco_mscn_bf16": Detection("coco_mscn.yaml", BF16),
    "digits_vitdet": Detection("digits_vitdet.yaml", SMALL_VIT),
    "digits_vitdet_bf16": Detection("digits_vitdet.yaml", (*SMALL_VIT, *BF16)),
}
# Facts alone: a detector is drawn, and its input filtered.
WEIGHTS = Weights({}, "", Preprocess(highpass=HighPass()), make_provenance())
_kernels = functools.cache(give_cpus_the_kernels)  # kept, else they would be gone again
TRAIN, PREDICT = "train", "predict"
CASES = [
    *(f"{TRAIN}/{name}@1" for name in DETECTORS),
    *(f"{TRAIN}/{name}@8" for name in ("coco_mscn", "voc_mscn", "coco_mscn_fpn_1x")),
    # Predictions are in float32, whatever the training was in.
    *(f"{PREDICT}/{name}@1" for name in DETECTORS if not name.endswith(("_fp16", "_bf16"))),
]


def measure(case: str, full_size: bool = False) -> dict[str, Any]:
    """The numbers of a case.

    Args:
        full_size: the first step on images of true size with the config's own numbers of boxes,
            which takes minutes and 16 GB of memory.
    """
    action, name = case.split("/")
    name, world = name.split("@")
    torch.backends.cudnn.enabled = False  # values come from the CPU's kernels
    _kernels()
    prepare = training_step if action == TRAIN else prediction
    with tempfile.TemporaryDirectory(prefix="rehearsal_") as folder:
        detector = DETECTORS[name]
        size, words = (FULL, ()) if full_size else (SMALL, FEW_BOXES)
        if not full_size:
            side = str(size[0])
            words += ("INPUT.MIN_SIZE_TRAIN", f"[{side}]", "INPUT.MIN_SIZE_TEST", side)
        words += (*detector.words, "SOLVER.IMS_PER_BATCH", str(IMAGES * int(world)))
        words += ("DATALOADER.NUM_WORKERS", "0", "INPUT.RANDOM_FLIP", "none")

        def action() -> Action:
            made = prepare(detector.config, words, size, Path(folder))
            return replace(made, repeated=made.repeated and not full_size)

        return count(action, int(world), values=True)


def training_step(config: str, words: Sequence[str], size: tuple[int, int], folder: Path) -> Action:
    """What `TorchvisionEngine.fit` does until its second iteration, without DDP."""
    cfg = load_detection_config(config, words)
    classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    images = detection_set(folder, size, cfg.SOLVER.IMS_PER_BATCH, OBJECTS, classes)
    run = begin_training(
        cfg,
        lambda: _detector(cfg),
        folder,
        weights=WEIGHTS,
        classes=images.classes,
        resume=False,
        load=load_model,
    )
    return iteration(cfg, run, training_batches(cfg, images), IMAGES)


def prediction(config: str, words: Sequence[str], size: tuple[int, int], folder: Path) -> Action:
    """`predict` of two images, one after the other."""
    cfg = load_detection_config(config, words)
    classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    images = detection_set(folder, size, IMAGES, OBJECTS, classes)
    detector = _detector(cfg).to(process_device(cfg.MODEL.DEVICE))
    return Action(lambda: predict(detector, cfg, images), IMAGES)


def _detector(cfg: CfgNode) -> Detector:
    return make_detector(cfg, WEIGHTS.preprocess)
