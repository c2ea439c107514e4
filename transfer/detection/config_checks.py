"""Checks a detection config before anything is opened: values, combinations, schedule. The checks
raise an InputError that names the key, and warn of what does not stop a run. The commands and the
doctor make the same checks. Each part of the detector checks its own keys in its spec, next to its
module in `torchvision_engine/`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.common.distributed import check_device
from pretrain.common.errors import InputError
from pretrain.common.findings import Findings
from pretrain.common.loggers import check_loggers
from transfer.datasets.keypoints import COCO_SIGMAS
from transfer.detection.data.crop import CropSpec
from transfer.detection.evaluation.coco import EVALUATORS as COCO_EVALUATORS
from transfer.detection.torchvision_engine.architectures import (
    ARCHITECTURES,
    BackboneNames,
    is_timm,
    is_vit,
)
from transfer.detection.torchvision_engine.detector import ROI_HEADS
from transfer.detection.torchvision_engine.meta_architectures import (
    META_ARCHITECTURES,
    find_spec,
)
from transfer.detection.torchvision_engine.resnet import (
    BLOCKS_PER_STAGE,
    STEM_CHANNELS,
    ResNetSpec,
)
from transfer.detection.torchvision_engine.timm_convnet import has_layer_groups
from transfer.training.build import make_clipping
from transfer.training.precision import DTYPES
from transfer.training.sampler import REPEATING
from transfer.training.schedule import SHAPES, WARMUPS

DETECTION, SEMANTIC = "detection", "semantic"
# Detectron2 has no WarmupPolyLR for detectors.
SCHEDULERS = {
    DETECTION: tuple(name for name in SHAPES if name != "WarmupPolyLR"),
    SEMANTIC: tuple(SHAPES),
}
NAMES: dict[str, Collection[Any]] = {
    "MODEL.META_ARCHITECTURE": META_ARCHITECTURES,
    "MODEL.BACKBONE.NAME": BackboneNames(ARCHITECTURES),
    "MODEL.RESNETS.DEPTH": BLOCKS_PER_STAGE,
    "MODEL.ROI_HEADS.NAME": ROI_HEADS,
    "SOLVER.LR_SCHEDULER_NAME": SCHEDULERS[DETECTION],
}
# The smallest values of the keys that every run of fine-tuning has, and of those of detectors
LEAST_OF_RUN = {
    "SOLVER.MAX_ITER": 1,
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.WARMUP_FACTOR": 0,
    "SOLVER.NUM_DECAYS": 1,
    "SOLVER.GAMMA": 0,
    "SOLVER.MOMENTUM": 0,
    "SOLVER.WEIGHT_DECAY": 0,
    "SOLVER.WEIGHT_DECAY_NORM": 0,
    "DATALOADER.NUM_WORKERS": 0,
    "TRANSFER.LOG_PERIOD": 1,
    "TRANSFER.REPLICATES": 0,
}
LEAST = {
    "SOLVER.REFERENCE_WORLD_SIZE": 0,
    "SOLVER.BIAS_LR_FACTOR": 0,
    "MODEL.FPN.OUT_CHANNELS": 1,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 1,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 1,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1,
    "MODEL.RPN.NMS_THRESH": 0,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 1,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 1,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 0,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 1,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 1,
    "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE": 0,
    "INPUT.MAX_SIZE_TRAIN": 1,
    "INPUT.MAX_SIZE_TEST": 1,
    "INPUT.MIN_SIZE_TEST": 0,
    "TEST.PRECISE_BN.NUM_ITER": 1,
    "TRANSFER.ACCUMULATE": 1,
}
# Shares of the regions of an image, and the least score of a detection
AT_MOST_1 = (
    "MODEL.RPN.POSITIVE_FRACTION",
    "MODEL.ROI_HEADS.POSITIVE_FRACTION",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
)
# Lists of numbers that something is divided by, or that are lengths
ABOVE_0 = (
    "MODEL.PIXEL_STD",
    "MODEL.ANCHOR_GENERATOR.SIZES",
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
    "MODEL.RPN.BBOX_REG_WEIGHTS",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS",
)
ONE_OF: dict[str, Collection[Any]] = {
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler", REPEATING),
    "INPUT.RANDOM_FLIP": ("horizontal", "none"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.FORMAT": ("RGB", "BGR"),
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    "TRANSFER.INIT": ("auto", "backbone", "detector"),
    "TRANSFER.VOC_METRIC": (2007, 2012),
    "TRANSFER.OPTIMIZER": ("SGD", "AdamW"),
    "TRANSFER.AMP_DTYPE": tuple(DTYPES),
    "TRANSFER.COCO_EVALUATOR": COCO_EVALUATORS,
}


def check(cfg: CfgNode, name: str = "the config", *, needs_data: bool = True) -> None:
    """Raises InputError, naming the key, for a value or a combination that is not supported.

    Args:
        name: the config's name, for warnings.
        needs_data: see `load_detection_config`.
    """
    if cfg.TRANSFER.TASK != DETECTION:
        raise InputError(
            f"TRANSFER.TASK {cfg.TRANSFER.TASK!r} is not a detection task; set it to {DETECTION}"
        )
    for key, allowed in ONE_OF.items():
        _check_known(cfg, key, allowed)
    if cfg.DATALOADER.SAMPLER_TRAIN == REPEATING and not 0 < cfg.DATALOADER.REPEAT_THRESHOLD <= 1:
        raise InputError(
            f"DATALOADER.REPEAT_THRESHOLD {cfg.DATALOADER.REPEAT_THRESHOLD} must be above 0 and at "
            f"most 1 with DATALOADER.SAMPLER_TRAIN {REPEATING}: with 0 no class is rare (LVIS: "
            "0.001)"
        )
    check_least(cfg, LEAST)
    _check_numbers(cfg)
    if not cfg.INPUT.MIN_SIZE_TRAIN or min(cfg.INPUT.MIN_SIZE_TRAIN) < 0:
        sizes = tuple(cfg.INPUT.MIN_SIZE_TRAIN)
        raise InputError(
            f"INPUT.MIN_SIZE_TRAIN {sizes} must list one size or more, each 0 or above"
        )
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range":
        sizes = tuple(cfg.INPUT.MIN_SIZE_TRAIN)
        if len(sizes) != 2 or sizes[0] > sizes[1]:
            raise InputError(
                f"INPUT.MIN_SIZE_TRAIN {sizes} must be two sizes, the smaller one first, with "
                "INPUT.MIN_SIZE_TRAIN_SAMPLING range"
            )
    make_crop(cfg)  # refuses what cannot be cut
    tests = len(cfg.DATASETS.TEST)  # TRAIN may be empty if a model is only scored
    if tests > 1 or (needs_data and not tests):
        raise InputError(missing_data(cfg, own_data_kinds(cfg)))
    _check_layers_and_jitter(cfg)
    # refuses what no detector here can be
    spec = find_spec(cfg.MODEL.META_ARCHITECTURE).from_config(cfg)
    _check_widths(cfg, spec.resnet)
    oks_sigmas(cfg)  # refuses another number than that of keypoints
    check_run(cfg, name)


def _check_numbers(cfg: CfgNode) -> None:
    """Raises InputError, naming the key, for numbers that would train or find nothing."""
    for key in AT_MOST_1:
        if not 0 <= value_of(cfg, key) <= 1:
            raise InputError(f"{key} must be from 0 to 1, got {value_of(cfg, key)}")
    offset = cfg.MODEL.ANCHOR_GENERATOR.OFFSET
    if not 0 <= offset < 1:  # it is a part of a cell of the grid, as in Detectron2
        raise InputError(
            f"MODEL.ANCHOR_GENERATOR.OFFSET must be 0 or above, and below 1, got {offset}"
        )
    for key in ABOVE_0:
        if min(_numbers(value_of(cfg, key)), default=1) <= 0:
            raise InputError(f"{key} {value_of(cfg, key)} must be numbers above 0")


def _numbers(value: Any) -> list[float]:
    """All numbers of a list, or of a list of lists."""
    if isinstance(value, (list, tuple)):
        return [number for part in value for number in _numbers(part)]
    return [value]


def oks_sigmas(cfg: CfgNode) -> tuple[float, ...]:
    """Returns how far off each keypoint may be in COCO's metric: TEST.KEYPOINT_OKS_SIGMAS, or
    COCO's own numbers; () without keypoints. Raises InputError if there is not one number for each
    keypoint.
    """
    if not cfg.MODEL.KEYPOINT_ON:
        return ()
    key, count = "TEST.KEYPOINT_OKS_SIGMAS", cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    given = tuple(cfg.TEST.KEYPOINT_OKS_SIGMAS)
    sigmas = given or COCO_SIGMAS
    if len(sigmas) != count:
        what = f"{len(given)} numbers" if given else f"empty, which means COCO's {len(COCO_SIGMAS)}"
        raise InputError(
            f"{key} is {what}, but MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {count}: give a number "
            "for each keypoint"
        )
    if min(sigmas) <= 0:
        raise InputError(f"{key} {list(sigmas)} must be numbers above 0")
    return sigmas


def make_crop(cfg: CfgNode) -> CropSpec | None:
    """Returns what is cut out of training images, None without INPUT.CROP; InputError for wrong
    values.
    """
    node = cfg.INPUT.CROP
    if not node.ENABLED:
        return None
    if cfg.TRANSFER.LSJ.SCALES:
        raise InputError(
            "INPUT.CROP.ENABLED True and TRANSFER.LSJ.SCALES both cut images; set only one of them"
        )
    least, most = node.SIZE
    return CropSpec(node.TYPE, (least, most))


def value_of(cfg: CfgNode, key: str) -> Any:
    """Returns the value of a dotted key."""
    value: Any = cfg
    for part in key.split("."):
        value = value[part]
    return value


def check_train_named(cfg: CfgNode) -> None:
    """Raises InputError, saying what to add, if no training set is named."""
    if not cfg.DATASETS.TRAIN:
        raise InputError(missing_data(cfg, own_data_kinds(cfg)))


def own_data_kinds(cfg: CfgNode) -> tuple[str, ...]:
    """Returns the kinds of names for users' own data that can hold what the config trains on."""
    return ("coco",) if cfg.MODEL.MASK_ON or cfg.MODEL.KEYPOINT_ON else ("voc", "coco")


def missing_data(cfg: CfgNode, kinds: Sequence[str]) -> str:
    """Returns the message for a config whose DATASETS do not name a training set and one test set.

    Args:
        kinds: kinds of names for users' own data, KIND:FOLDER:SPLIT.
    """
    if len(cfg.DATASETS.TEST) > 1:
        return f"DATASETS.TEST {tuple(cfg.DATASETS.TEST)} must be exactly one data set"
    empty = [key for key in ("TRAIN", "TEST") if not cfg.DATASETS[key]]
    words = " ".join(f"DATASETS.{key} {kinds[0]}:FOLDER:{key.lower()}" for key in empty)
    others = " or ".join(f"{kind}:FOLDER:SPLIT" for kind in kinds[1:])
    return f"the config leaves the data to you: add {words}{f' (or {others})' if others else ''}"


def _check_widths(cfg: CfgNode, resnet: ResNetSpec | None) -> None:
    """Raises InputError for widths that decide tensors' shapes: each ResNet here has one."""
    if resnet is None:
        return
    node = cfg.MODEL.RESNETS
    wanted = {"STEM_OUT_CHANNELS": STEM_CHANNELS, "RES2_OUT_CHANNELS": resnet.res2_channels}
    for key, width in wanted.items():
        if node[key] != width:
            raise InputError(
                f"MODEL.RESNETS.{key} {node[key]} is not supported with MODEL.RESNETS.DEPTH "
                f"{node.DEPTH}; the only value: {width}"
            )


def _check_layers_and_jitter(cfg: CfgNode) -> None:
    """Raises InputError, naming the key, for an impossible jitter, decay or image size."""
    node, decay = cfg.TRANSFER.LSJ, cfg.TRANSFER.LR_LAYER_DECAY
    if node.SCALES and not (len(node.SCALES) == 2 and 0 < node.SCALES[0] <= node.SCALES[1]):
        raise InputError(
            f"TRANSFER.LSJ.SCALES {tuple(node.SCALES)} must be two factors, the smaller one first"
        )
    if node.CROP_SIZE < 1:
        raise InputError(f"TRANSFER.LSJ.CROP_SIZE must be 1 or above, got {node.CROP_SIZE}")
    layered = is_vit(cfg) or is_timm(cfg) and has_layer_groups(cfg.MODEL.BACKBONE.NAME)
    if decay < 1 and (not layered or cfg.TRANSFER.OPTIMIZER != "AdamW"):
        raise InputError(
            f"TRANSFER.LR_LAYER_DECAY {decay} needs build_vit_sfp_backbone or a ConvNeXt, and "
            "AdamW; set 1"
        )
    if is_vit(cfg):
        _check_square(cfg)


def _check_square(cfg: CfgNode) -> None:
    side = cfg.TRANSFER.VIT.IMAGE_SIZE
    sizes = {"INPUT.MAX_SIZE_TEST": cfg.INPUT.MAX_SIZE_TEST}
    if cfg.TRANSFER.LSJ.SCALES:
        sizes["TRANSFER.LSJ.CROP_SIZE"] = cfg.TRANSFER.LSJ.CROP_SIZE
    else:
        sizes["INPUT.MAX_SIZE_TRAIN"] = cfg.INPUT.MAX_SIZE_TRAIN
    for key, size in sizes.items():
        if size > side:
            raise InputError(
                f"{key} {size} is more than TRANSFER.VIT.IMAGE_SIZE {side}, the square that images "
                "are padded to"
            )


def check_run(cfg: CfgNode, name: str) -> None:
    """Checks what detection and segmentation share: seed, device, batch and schedule. Raises
    InputError, naming the key, for values that would stop the run later. Warns once in a process of
    steps that are never reached and of a warm-up that is as long as the run.
    """
    if cfg.SEED < 0:
        raise InputError(f"SEED {cfg.SEED} must be 0 or above: each run needs a seed")
    check_least(cfg, LEAST_OF_RUN)
    decay = cfg.TRANSFER.LR_LAYER_DECAY
    if not 0 < decay <= 1:
        raise InputError(f"TRANSFER.LR_LAYER_DECAY {decay} must be above 0 and at most 1")
    check_device(cfg.MODEL.DEVICE, "MODEL.DEVICE")
    check_loggers(cfg.TRANSFER.LOGGER, "TRANSFER.LOGGER")
    solver = cfg.SOLVER
    _check_known(cfg, "SOLVER.LR_SCHEDULER_NAME", SCHEDULERS[cfg.TRANSFER.TASK])
    _check_known(cfg, "SOLVER.WARMUP_METHOD", tuple(WARMUPS))
    make_clipping(cfg)  # refuses what cannot clip
    if solver.BASE_LR <= 0:
        raise InputError(f"SOLVER.BASE_LR {solver.BASE_LR} must be above 0")
    findings = Findings(name)
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        check_steps(cfg, findings)
    if solver.WARMUP_ITERS >= solver.MAX_ITER:
        findings.note(
            "the warm-up is as long as the run or longer: the learning rate never reaches"
            " SOLVER.BASE_LR",
            f"SOLVER.WARMUP_ITERS {solver.WARMUP_ITERS}, SOLVER.MAX_ITER {solver.MAX_ITER}",
        )
    findings.report()


def check_steps(cfg: CfgNode, findings: Findings) -> None:
    """Raises InputError unless the steps increase and none is at the end of the run, which stops
    Detectron2. Notes later steps, which Detectron2 leaves out with a warning.
    """
    steps, last = tuple(cfg.SOLVER.STEPS), cfg.SOLVER.MAX_ITER
    if list(steps) != sorted(set(steps)) or (steps and steps[0] < 0):
        raise InputError(f"SOLVER.STEPS {steps} must be increasing")
    if last in steps:
        raise InputError(
            f"SOLVER.STEPS {steps} has a step at SOLVER.MAX_ITER {last}, where no iteration is "
            "left, and Detectron2 stops; remove it, or lengthen the run"
        )
    for step in steps:
        if step > last:
            findings.note(f"steps come after SOLVER.MAX_ITER {last} and are left out", str(step))


def check_least(cfg: CfgNode, least: Mapping[str, int]) -> None:
    """Raises InputError for the first key whose value is too small."""
    for key, bound in least.items():
        if value_of(cfg, key) < bound:
            raise InputError(f"{key} must be {bound} or above, got {value_of(cfg, key)}")


def _check_known(cfg: CfgNode, key: str, allowed: Collection[Any]) -> None:
    if value_of(cfg, key) not in allowed:
        known = ", ".join(map(str, allowed))
        raise InputError(f"{key} {value_of(cfg, key)!r} is unknown; known: {known}")
