"""The settings of the TRANSFER node for training that Detectron2 has no keys for.

An optimiser (AdamW with layer-wise decay) and a mapper (large-scale jitter) are built from
Detectron2's classes; `RecipeTrainer` is its DefaultTrainer with both.
"""

from __future__ import annotations

from functools import partial

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.data import transforms as T
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from detectron2.engine import DefaultTrainer
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn
from torch.utils.data import DataLoader

from transfer.training.optimizer import param_groups, vit_layer_factor


def build_adamw(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Returns AdamW over Detectron2's parameter groups; earlier layers of a ViT learn slower."""
    groups = param_groups(
        model,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        base_lr=cfg.SOLVER.BASE_LR,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_pos_embed=cfg.TRANSFER.WEIGHT_DECAY_POS_EMBED,
        layer_factor=partial(
            vit_layer_factor,
            decay=cfg.TRANSFER.LR_LAYER_DECAY,
            depth=cfg.TRANSFER.VIT.DEPTH,
        ),
    )
    return maybe_add_gradient_clipping(cfg, torch.optim.AdamW(groups, lr=cfg.SOLVER.BASE_LR))


def jitter_mapper(cfg: CfgNode) -> DatasetMapper:
    """Returns a mapper with large-scale jitter, as in Detectron2's
    projects/ViTDet/configs/common/coco_loader_lsj.py.
    """
    side, scales = cfg.TRANSFER.LSJ.CROP_SIZE, cfg.TRANSFER.LSJ.SCALES
    flip = [T.RandomFlip(horizontal=True)] if cfg.INPUT.RANDOM_FLIP == "horizontal" else []
    flips = create_keypoint_hflip_indices(cfg.DATASETS.TRAIN) if cfg.MODEL.KEYPOINT_ON else None
    return DatasetMapper(
        is_train=True,
        augmentations=[
            *flip,
            T.ResizeScale(*scales, target_height=side, target_width=side),
            T.FixedSizeCrop((side, side), pad=False),
        ],
        image_format=cfg.INPUT.FORMAT,
        use_instance_mask=cfg.MODEL.MASK_ON,
        use_keypoint=cfg.MODEL.KEYPOINT_ON,
        keypoint_hflip_indices=flips,
        instance_mask_format=cfg.INPUT.MASK_FORMAT,
        recompute_boxes=cfg.MODEL.MASK_ON,
    )


class RecipeTrainer(DefaultTrainer):
    """Is a DefaultTrainer that also follows TRANSFER.OPTIMIZER, .LR_LAYER_DECAY and .LSJ."""

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Returns Detectron2's SGD, or AdamW."""
        if cfg.TRANSFER.OPTIMIZER == "SGD":
            return super().build_optimizer(cfg, model)
        return build_adamw(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> DataLoader:
        """Returns Detectron2's loader, with the jitter if the config asks for it."""
        if not cfg.TRANSFER.LSJ.SCALES:
            return super().build_train_loader(cfg)
        return build_detection_train_loader(cfg, mapper=jitter_mapper(cfg))
