"""What a detection config must be before anything is opened: values, combinations, schedule.

In: a merged config. Out: InputError that names the key, or a warning for what a run can live with.
The same function runs in the commands and in the doctor.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings
from pretrain.common.lookup import find
from transfer.detection.config_spec import ARCHITECTURES, architecture, detector_arguments, value_of
from transfer.detection.config_vit import check_vitdet
from transfer.detection.evaluation.coco import EVALUATORS as COCO_EVALUATORS
from transfer.detection.torchvision_engine.spec import DEPTHS, DetectorSpec
from transfer.training.precision import DTYPES
from transfer.training.schedule import SHAPES, WARMUPS

DETECTION, SEMANTIC = "detection", "semantic"
# Detectron2 has no WarmupPolyLR for detectors.
SCHEDULERS = {
    DETECTION: tuple(name for name in SHAPES if name != "WarmupPolyLR"),
    SEMANTIC: tuple(SHAPES),
}
DEVICES = ("cuda", "cpu")
HEADS = {
    "Res5ROIHeads": ("C4",),
    "Res5ROIHeadsExtraNorm": ("C4",),
    "StandardROIHeads": ("FPN", "TINY", "VIT"),
}
NAMES: dict[str, Collection[Any]] = {
    "MODEL.BACKBONE.NAME": ARCHITECTURES,
    "MODEL.RESNETS.DEPTH": DEPTHS,
    "MODEL.ROI_HEADS.NAME": HEADS,
    "SOLVER.LR_SCHEDULER_NAME": SCHEDULERS[DETECTION],
}
BOX_HEAD = "FastRCNNConvFCHead"
LEAST = {
    "SOLVER.MAX_ITER": 1,
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.REFERENCE_WORLD_SIZE": 0,
    "SOLVER.WARMUP_ITERS": 0,
    "INPUT.MAX_SIZE_TRAIN": 1,
    "INPUT.MAX_SIZE_TEST": 1,
    "INPUT.MIN_SIZE_TEST": 0,
    "TRANSFER.LOG_PERIOD": 1,
    "TRANSFER.ACCUMULATE": 1,
    "TRANSFER.REPLICATES": 0,
}
ONE_OF: dict[str, Collection[Any]] = {
    "INPUT.RANDOM_FLIP": ("horizontal", "none"),
    "INPUT.FORMAT": ("RGB", "BGR"),
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    "MODEL.BACKBONE.FREEZE_AT": range(6),
    "TRANSFER.INIT": ("auto", "backbone", "detector"),
    "TRANSFER.VOC_METRIC": (2007, 2012),
    "TRANSFER.OPTIMIZER": ("SGD", "AdamW"),
    "TRANSFER.AMP_DTYPE": tuple(DTYPES),
    "TRANSFER.COCO_EVALUATOR": COCO_EVALUATORS,
}


def check(cfg: CfgNode, name: str = "the config") -> None:
    """Raises InputError, naming the key, for a value or a combination that is not supported.

    Args:
        name: of the config, for warnings.
    """
    if cfg.TRANSFER.TASK != DETECTION:
        raise InputError(f"TRANSFER.TASK {cfg.TRANSFER.TASK!r} is not a detection task")
    head = cfg.MODEL.ROI_HEADS.NAME
    if architecture(cfg) not in find(head, HEADS, "MODEL.ROI_HEADS.NAME"):
        raise InputError(
            f"MODEL.ROI_HEADS.NAME {head} does not go with MODEL.BACKBONE.NAME "
            f"{cfg.MODEL.BACKBONE.NAME}"
        )
    if cfg.SEED < 0:
        raise InputError(f"SEED {cfg.SEED} must be 0 or above: unseeded runs are not repeatable")
    for key, allowed in ONE_OF.items():
        _check_known(cfg, key, allowed)
    for key, least in LEAST.items():
        if value_of(cfg, key) < least:
            raise InputError(f"{key} must be {least} or above, got {value_of(cfg, key)}")
    if not cfg.INPUT.MIN_SIZE_TRAIN or min(cfg.INPUT.MIN_SIZE_TRAIN) < 0:
        sizes = tuple(cfg.INPUT.MIN_SIZE_TRAIN)
        raise InputError(f"INPUT.MIN_SIZE_TRAIN {sizes} needs one size or more, each 0 or above")
    if len(cfg.DATASETS.TEST) != 1:  # TRAIN may be empty if a model is only scored
        raise InputError(missing_data(cfg, own_data_kinds(cfg)))
    dims = cfg.MODEL.RPN.CONV_DIMS
    if not dims or any(width != -1 for width in dims):
        raise InputError(f"MODEL.RPN.CONV_DIMS {dims} is not supported; only -1, once or more")
    check_vitdet(cfg)
    check_architecture(cfg)
    check_run(cfg, name)


def check_train_named(cfg: CfgNode) -> None:
    """Raises InputError, saying what to add, if no training set is named."""
    if not cfg.DATASETS.TRAIN:
        raise InputError(missing_data(cfg, own_data_kinds(cfg)))


def own_data_kinds(cfg: CfgNode) -> tuple[str, ...]:
    """The kinds of names for one's own data that can hold what the config trains on."""
    return ("coco",) if cfg.MODEL.MASK_ON else ("voc", "coco")


def missing_data(cfg: CfgNode, kinds: Sequence[str]) -> str:
    """What to say of a config whose DATASETS name no training set, or not one test set.

    Args:
        kinds: of names for one's own data, KIND:FOLDER:SPLIT.
    """
    empty = [key for key in ("TRAIN", "TEST") if not cfg.DATASETS[key]]
    words = " ".join(f"DATASETS.{key} {kinds[0]}:FOLDER:{key.lower()}" for key in empty)
    if empty:
        others = " or ".join(f"{kind}:FOLDER:SPLIT" for kind in kinds[1:])
        return (
            f"the config leaves the data to you: add {words}{f' (or {others})' if others else ''}"
        )
    return f"DATASETS.TEST {tuple(cfg.DATASETS.TEST)} must be exactly one data set"


def check_architecture(cfg: CfgNode) -> None:
    """Raises InputError for a detector that cannot be built, or that no weights of its name fit."""
    kind = architecture(cfg)
    _check_thresholds("MODEL.RPN.IOU_THRESHOLDS", cfg.MODEL.RPN.IOU_THRESHOLDS, 2)
    _check_thresholds("MODEL.ROI_HEADS.IOU_THRESHOLDS", cfg.MODEL.ROI_HEADS.IOU_THRESHOLDS, 1)
    for section, read in (("RPN", True), ("ROI_HEADS", True), ("FPN", kind == "FPN")):
        if read and not cfg.MODEL[section].IN_FEATURES:
            raise InputError(f"MODEL.{section}.IN_FEATURES is empty; name the feature maps")
    DetectorSpec(**detector_arguments(cfg))  # refuses what no detector here can be
    _check_widths(cfg, kind)
    # Res5ROIHeads has no box head, and does not read its name.
    heads = ("", BOX_HEAD) if kind == "C4" else (BOX_HEAD,)
    if cfg.MODEL.ROI_BOX_HEAD.NAME not in heads:
        raise InputError(
            f"MODEL.ROI_BOX_HEAD.NAME {cfg.MODEL.ROI_BOX_HEAD.NAME!r} is not supported with "
            f"MODEL.ROI_HEADS.NAME {cfg.MODEL.ROI_HEADS.NAME}; set {BOX_HEAD}"
        )


def _check_widths(cfg: CfgNode, kind: str) -> None:
    """Widths that decide tensors' shapes: the trunks here have one each."""
    resnets = cfg.MODEL.RESNETS
    if kind not in ("C4", "FPN"):
        return
    wanted = {"STEM_OUT_CHANNELS": 64, "RES2_OUT_CHANNELS": 64 if resnets.DEPTH < 50 else 256}
    for key, width in wanted.items():
        if resnets[key] != width:
            raise InputError(
                f"MODEL.RESNETS.{key} {resnets[key]} is not supported with MODEL.RESNETS.DEPTH "
                f"{resnets.DEPTH}; the only value: {width}"
            )


def _check_thresholds(key: str, values: list[float], count: int) -> None:
    """As Detectron2's Matcher asserts: one fewer than IOU_LABELS, above 0, rising."""
    rising = all(low <= high for low, high in zip(values, values[1:]))
    if len(values) != count or values[0] <= 0 or not rising:
        numbers = "one number" if count == 1 else f"{count} numbers that do not fall, each"
        raise InputError(f"{key} {list(values)} must be {numbers} above 0")


def check_run(cfg: CfgNode, name: str) -> None:
    """What detection and segmentation share: device and schedule.

    Raises InputError, naming the key, for what would stop the run later; warns, once in a process,
    of steps that are never reached and of a warm-up as long as the run.
    """
    if cfg.MODEL.DEVICE not in DEVICES:
        raise InputError(
            f"MODEL.DEVICE {cfg.MODEL.DEVICE!r} is not supported; set cuda (the GPU if there is "
            "one; CUDA_VISIBLE_DEVICES says which) or cpu"
        )
    solver = cfg.SOLVER
    _check_known(cfg, "SOLVER.LR_SCHEDULER_NAME", SCHEDULERS[cfg.TRANSFER.TASK])
    _check_known(cfg, "SOLVER.WARMUP_METHOD", tuple(WARMUPS))
    if solver.BASE_LR <= 0:
        raise InputError(f"SOLVER.BASE_LR {solver.BASE_LR} must be above 0")
    findings = Findings(name)
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        check_steps(cfg, findings)
    if solver.WARMUP_ITERS >= solver.MAX_ITER:
        findings.note(
            "the warm-up is not shorter than the run: the rate never reaches SOLVER.BASE_LR",
            f"SOLVER.WARMUP_ITERS {solver.WARMUP_ITERS}, SOLVER.MAX_ITER {solver.MAX_ITER}",
        )
    findings.report()


def check_steps(cfg: CfgNode, findings: Findings) -> None:
    """Refuses steps that do not rise, and one at the end of the run, which stops Detectron2; notes
    those beyond it, which Detectron2 warns of and leaves out."""
    steps, last = tuple(cfg.SOLVER.STEPS), cfg.SOLVER.MAX_ITER
    if list(steps) != sorted(set(steps)) or (steps and steps[0] < 0):
        raise InputError(f"SOLVER.STEPS {steps} must rise")
    if last in steps:
        raise InputError(
            f"SOLVER.STEPS {steps} has a step at SOLVER.MAX_ITER {last}, where no iteration is "
            "left, and Detectron2 stops; remove it, or lengthen the run"
        )
    for step in steps:
        if step > last:
            findings.note(f"steps come after SOLVER.MAX_ITER {last} and are left out", str(step))


def _check_known(cfg: CfgNode, key: str, allowed: Collection[Any]) -> None:
    if value_of(cfg, key) not in allowed:
        known = ", ".join(map(str, allowed))
        raise InputError(f"{key} {value_of(cfg, key)!r} is unknown; known: {known}")
