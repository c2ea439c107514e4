"""Finds errors in a pretraining config before any process starts; each message is one line."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from fvcore.common.config import CfgNode
from torch import nn

from pretrain.backbones.vit import check_patches, is_vit
from pretrain.common.config import load_config
from pretrain.common.errors import InputError, check_probability
from pretrain.common.loggers import check_loggers
from pretrain.common.lookup import find
from pretrain.data.crops import RESIZES
from pretrain.data.datasets import ImageDataset, sorting_hint
from pretrain.defaults import get_defaults
from pretrain.methods.all_methods import BASES, IN_PARTS, METHODS, MOMENTUM, MSCN, QUEUED
from pretrain.methods.build import build_momentum
from pretrain.methods.pairs import PAIRINGS
from pretrain.optim.build import OPTIMIZERS
from pretrain.optim.schedules import SCHEDULES, check_milestones


def load_checked(config: str, overrides: Sequence[str], num_processes: int) -> CfgNode:
    """Returns the merged config of a file, or of a name below configs/, checked without data.

    Raises InputError if no training data is given, and in the cases of `load_config` and
    `check_config`.
    """
    cfg = load_config(config, get_defaults(), overrides, "pretrain")
    if not cfg.DATASETS.TRAIN:
        raise InputError(
            f"{config} leaves the data to you: add DATASETS.TRAIN folder:FOLDER (a folder of "
            "images, or of class folders) or folder:FOLDER:SPLIT"
        )
    check_config(cfg, num_processes)
    return cfg


def check_config(cfg: CfgNode, num_processes: int) -> None:
    """Raises InputError if a value cannot work; the message names the key and the remedy."""
    find(cfg.METHOD.NAME, METHODS, "method", "METHOD.NAME")
    find(cfg.METHOD.BASE, dict.fromkeys(BASES), "base loss", "METHOD.BASE")
    find(cfg.METHOD.PAIRS, PAIRINGS, "set of pairs", "METHOD.PAIRS")
    find(cfg.SOLVER.OPTIMIZER, OPTIMIZERS, "optimizer", "SOLVER.OPTIMIZER")
    find(cfg.SOLVER.SCHEDULE, dict.fromkeys(SCHEDULES), "schedule", "SOLVER.SCHEDULE")
    find(cfg.VIEWS.RESIZE, dict.fromkeys(RESIZES), "way to resize", "VIEWS.RESIZE")
    check_milestones(cfg.SOLVER.MILESTONES)
    _check_batch(cfg, num_processes)
    _check_method(cfg, num_processes)
    _check_counts(cfg)
    _check_views(cfg)
    for key in ("EPOCHS", "MAX_STEPS", "WARMUP_EPOCHS", "WARMUP_STEPS", "MAX_SKIPPED_STEPS"):
        if cfg.SOLVER[key] < 0:
            raise InputError(f"SOLVER.{key} {cfg.SOLVER[key]} must not be negative")
    for key in ("LR_PER_256", "STRETCH"):
        if cfg.SOLVER[key] <= 0:
            raise InputError(f"SOLVER.{key} {cfg.SOLVER[key]} must be above 0")
    if cfg.SOLVER.STRETCH < 1:
        raise InputError(f"SOLVER.STRETCH {cfg.SOLVER.STRETCH} must be at least 1")
    if cfg.SOLVER.EPOCHS == 0 and cfg.SOLVER.MAX_STEPS == 0:
        raise InputError("SOLVER.EPOCHS and SOLVER.MAX_STEPS are both 0; give one of them")
    if bool(cfg.DATASETS.KNN_TRAIN) != bool(cfg.DATASETS.KNN_TEST):
        raise InputError("DATASETS.KNN_TRAIN and DATASETS.KNN_TEST go together; give both or none")
    if cfg.DATALOADER.PREFETCH_GIB <= 0:
        raise InputError(f"DATALOADER.PREFETCH_GIB {cfg.DATALOADER.PREFETCH_GIB} must be above 0")
    check_loggers(cfg.LOGGER)
    if cfg.LOG.EVERY_STEPS < 1:
        raise InputError(f"LOG.EVERY_STEPS {cfg.LOG.EVERY_STEPS} must be at least 1")


def check_backbone(cfg: CfgNode, trunk: nn.Module) -> None:
    """Raises InputError for a backbone that the method cannot use; it may be on the meta device."""
    if not METHODS[cfg.METHOD.NAME].vit:
        _check_image_size(cfg, trunk)
        return
    if not is_vit(trunk):
        raise InputError(
            f"METHOD.NAME {cfg.METHOD.NAME} leaves patches out, and BACKBONE.NAME "
            f"{cfg.BACKBONE.NAME} does not support that; give a timm ViT such as "
            "vit_small_patch16_224"
        )
    sizes = {"VIEWS.SIZE": cfg.VIEWS.SIZE}
    if cfg.VIEWS.FOCAL.COUNT:
        sizes["VIEWS.FOCAL.SIZE"] = cfg.VIEWS.FOCAL.SIZE
    check_patches(trunk, sizes)
    if cfg.METHOD.NAME == "mae":
        _check_share("METHOD.MAE.MASK_RATIO", cfg.METHOD.MAE.MASK_RATIO)
        width, heads = cfg.METHOD.MAE.DECODER_DIM, cfg.METHOD.MAE.DECODER_HEADS
        if width % 4 or width % heads:
            raise InputError(
                f"METHOD.MAE.DECODER_DIM {width} must be a multiple of 4 and of "
                f"METHOD.MAE.DECODER_HEADS {heads}"
            )


def _check_image_size(cfg: CfgNode, trunk: nn.Module) -> None:
    """Finds maps that shrink to nothing and outputs without pooling, on the meta device."""
    side = cfg.VIEWS.SIZE
    try:
        output = trunk.to("meta").eval()(torch.empty(1, 3, side, side, device="meta"))
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"BACKBONE.NAME {cfg.BACKBONE.NAME} does not take images of VIEWS.SIZE "
            f"{cfg.VIEWS.SIZE} px: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(output, torch.Tensor) or output.shape != (1, trunk.out_dim):
        raise InputError(
            f"BACKBONE.NAME {cfg.BACKBONE.NAME} gives no pooled features (N, {trunk.out_dim}); "
            "choose a classification model"
        )


def check_images(cfg: CfgNode, images: ImageDataset) -> None:
    """Raises InputError if there are too few training images, or needed labels are missing."""
    if len(images) < cfg.SOLVER.BATCH_SIZE:
        raise InputError(
            f"DATASETS.TRAIN {cfg.DATASETS.TRAIN} has {len(images)} images, less than one "
            f"SOLVER.BATCH_SIZE {cfg.SOLVER.BATCH_SIZE}; lower the batch size"
        )
    if METHODS[cfg.METHOD.NAME].labels and not images.classes:
        raise InputError(
            f"METHOD.NAME {cfg.METHOD.NAME} needs labels, but DATASETS.TRAIN "
            f"{cfg.DATASETS.TRAIN} has no class folders{sorting_hint(images)}"
        )


def check_monitor(bank: ImageDataset, queries: ImageDataset) -> None:
    """Raises InputError if images of the kNN monitor have no labels, or if the two sets have
    different classes: a label is a number, and it means a class only within its own set."""
    for key, images in (("KNN_TRAIN", bank), ("KNN_TEST", queries)):
        if not images.classes:
            raise InputError(
                f"DATASETS.{key} has no class folders; the kNN monitor needs labels"
                f"{sorting_hint(images)}"
            )
    if bank.classes != queries.classes:
        odd = sorted({*bank.classes} ^ {*queries.classes}) or bank.classes
        raise InputError(
            f"DATASETS.KNN_TRAIN has {len(bank.classes)} classes, DATASETS.KNN_TEST "
            f"{len(queries.classes)}; they must have the same classes: see {', '.join(odd[:3])}"
        )


def batch_note(cfg: CfgNode) -> str | None:
    """Returns a warning if the batch size is not the recipe's; it says how the learning rate was
    scaled.
    """
    solver = cfg.SOLVER
    batch, recipe = solver.BATCH_SIZE, solver.RECIPE_BATCH_SIZE
    if recipe in (0, batch):
        return None
    rates = [solver.LR_PER_256 * size / 256 for size in (batch, recipe)]
    return (
        f"SOLVER.BATCH_SIZE {batch} is not the recipe's {recipe}: the learning rate was scaled "
        f"linearly, to {rates[0]:g} from {rates[1]:g}; the loss sees a different number of images, "
        "so do not expect the recipe's accuracy"
    )


def queue_note(cfg: CfgNode, count: int) -> str | None:
    """Returns a warning if the queue of keys is longer than the data, with the consequence and the
    remedy.

    Args:
        count: number of training images.
    """
    node = cfg.METHOD
    name = node.BASE if node.NAME == MSCN else node.NAME
    if name not in QUEUED or node.QUEUE_SIZE <= count:
        return None
    return (
        f"METHOD.QUEUE_SIZE {node.QUEUE_SIZE} is larger than the {count} training images: then "
        "old keys of the same image become its negatives; lower it to a multiple of "
        f"SOLVER.BATCH_SIZE {cfg.SOLVER.BATCH_SIZE} below that number"
    )


def _check_batch(cfg: CfgNode, num_processes: int) -> None:
    batch = cfg.SOLVER.BATCH_SIZE
    if batch % num_processes or batch < 2 * num_processes:
        raise InputError(
            f"SOLVER.BATCH_SIZE {batch} must be a multiple of the {num_processes} processes, "
            "with at least 2 images in each"
        )
    _check_parts(cfg, num_processes)


def _check_parts(cfg: CfgNode, num_processes: int) -> None:
    parts, mine = cfg.SOLVER.ACCUMULATE, cfg.SOLVER.BATCH_SIZE // num_processes
    if parts == 1:
        return
    if parts < 1 or mine % parts or mine < 2 * parts:
        raise InputError(
            f"SOLVER.ACCUMULATE {parts} must divide the {mine} images of a process "
            "(SOLVER.BATCH_SIZE over the processes), with at least 2 images in each part"
        )
    name = cfg.METHOD.BASE if cfg.METHOD.NAME == MSCN else cfg.METHOD.NAME
    if name not in IN_PARTS:
        raise InputError(
            f"SOLVER.ACCUMULATE {parts}: the loss of {name} cannot be computed in parts; set it to "
            "1 and lower SOLVER.BATCH_SIZE, use more GPUs, or use one of these methods: "
            f"{', '.join(IN_PARTS)}"
        )


def images_at_once(cfg: CfgNode, num_processes: int) -> int:
    """Returns how many images of one process pass through the network together."""
    return cfg.SOLVER.BATCH_SIZE // num_processes // cfg.SOLVER.ACCUMULATE


def _check_method(cfg: CfgNode, num_processes: int) -> None:
    node, batch = cfg.METHOD, cfg.SOLVER.BATCH_SIZE
    name = node.BASE if node.NAME == MSCN else node.NAME
    if node.TEMPERATURE <= 0:
        raise InputError(f"METHOD.TEMPERATURE {node.TEMPERATURE} must be above 0")
    if name == "moco_v1" and node.PROJECTOR.LAYERS != 1:
        raise InputError(
            f"METHOD.PROJECTOR.LAYERS {node.PROJECTOR.LAYERS}: MoCo v1 has a linear projector; "
            "set it to 1, or use moco_v2"
        )
    if name in QUEUED and (node.QUEUE_SIZE < batch or node.QUEUE_SIZE % batch):
        raise InputError(
            f"METHOD.QUEUE_SIZE {node.QUEUE_SIZE} must be a multiple of SOLVER.BATCH_SIZE {batch}"
        )
    if node.BN_GROUP < 0 or node.BN_GROUP == 1:
        raise InputError(f"METHOD.BN_GROUP {node.BN_GROUP} must be 0 or at least 2 images")
    together = images_at_once(cfg, num_processes)
    if node.BN_GROUP and together % node.BN_GROUP:
        raise InputError(
            f"METHOD.BN_GROUP {node.BN_GROUP} must divide the {together} images of "
            "a process (SOLVER.BATCH_SIZE over the processes and SOLVER.ACCUMULATE)"
        )
    if name in MOMENTUM:
        build_momentum(cfg)  # raises InputError for a bad schedule
    if name == "msn":
        if not 0 <= node.MSN.PATCH_DROP < 1:
            raise InputError(
                f"METHOD.MSN.PATCH_DROP {node.MSN.PATCH_DROP} must be at least 0 and below 1"
            )
        if node.MSN.PROTOTYPES < 2:
            raise InputError(f"METHOD.MSN.PROTOTYPES {node.MSN.PROTOTYPES} must be at least 2")


def _check_counts(cfg: CfgNode) -> None:
    """Compares the numbers of views with the requirements of the method."""
    needs, views = METHODS[cfg.METHOD.NAME], cfg.VIEWS
    for branch, wanted in (("A", needs.a), ("B", needs.b)):
        count = views[branch].COUNT
        if wanted is None and count < 1:
            raise InputError(f"VIEWS.{branch}.COUNT {count} must be at least 1")
        if wanted is not None and count != wanted:
            more = ", or METHOD.NAME mscn" if cfg.METHOD.NAME in BASES else ""
            raise InputError(
                f"METHOD.NAME {cfg.METHOD.NAME} takes {needs.a or 'any'} and {needs.b or 0} views "
                f"per image, but VIEWS.A.COUNT and VIEWS.B.COUNT are {views.A.COUNT} and "
                f"{views.B.COUNT}; set VIEWS.{branch}.COUNT to {wanted}{more}"
            )
    if views.FOCAL.COUNT < 0 or (views.FOCAL.COUNT and not needs.focal):
        raise InputError(
            f"VIEWS.FOCAL.COUNT {views.FOCAL.COUNT}: METHOD.NAME {cfg.METHOD.NAME} does not use "
            "focal views; set it to 0"
        )


def _check_views(cfg: CfgNode) -> None:
    for name in ("A", "B", "FOCAL"):
        branch = cfg.VIEWS[name]
        for key in ("BLUR_PROB", "SOLARIZE_PROB", "MASK_PROB"):
            check_probability(f"VIEWS.{name}.{key}", branch[key])
    if cfg.HIGHPASS.AT_TRANSFER not in ("auto", "yes", "no"):
        raise InputError(
            f"HIGHPASS.AT_TRANSFER {cfg.HIGHPASS.AT_TRANSFER!r} is unknown; known: auto, no, yes"
        )
    if cfg.VIEWS.SAME_VIEW and not cfg.VIEWS.SAME_CROP:
        raise InputError("VIEWS.SAME_VIEW also shares the crop; set VIEWS.SAME_CROP True as well")


def _check_share(key: str, value: float) -> None:
    if not 0 < value < 1:
        raise InputError(f"{key} {value} must be between 0 and 1")
