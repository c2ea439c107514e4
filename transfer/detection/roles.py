"""What each key of a detection or segmentation config decides: `ROLES` is the only list.

A key that is not listed belongs to the protocol. A new key that must not change the identity of
older records is left out of the hash while it is off (`Hashed.NOTHING`).
"""

from __future__ import annotations

from fvcore.common.config import CfgNode

from pretrain.common.config import flat
from pretrain.common.roles import Hashed, KeyRole, Role, Roles, only
from transfer.detection.defaults import make_defaults
from transfer.detection.torchvision_engine.architectures import (
    PYRAMIDS,
    architecture,
    is_timm,
    is_vit,
)

# Older records do not have these keys; their runs had what are now the defaults.
YOUNGER = (
    "MODEL.RPN.BBOX_REG_LOSS_TYPE",
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT",
    "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE",
    "SOLVER.RESCALE_INTERVAL",
    "TRANSFER.SEMANTIC.HEAD",
    "TRANSFER.SEMANTIC.WINDOW_STRIDE",
    "TRANSFER.SEMANTIC.VIT_BLOCKS",
    "TRANSFER.SEMANTIC.DROP_PATH",
    "TRANSFER.SEMANTIC.POLY_POWER",
    "TRANSFER.SEMANTIC.TEST_SCALES",
    "TRANSFER.SEMANTIC.TEST_FLIP",
)
RGB_MEAN, RGB_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]  # on 0..255


def batch_norms(cfg: CfgNode) -> set[str]:
    """Returns the names of the detector's norms whose statistics are those of a batch."""
    # timm's networks without batch norm leave MODEL.RESNETS.NORM empty.
    nodes = [] if is_vit(cfg) else [cfg.MODEL.RESNETS]
    if architecture(cfg) in PYRAMIDS:
        nodes.append(cfg.MODEL.FPN)
    if not _retinanet(cfg) and cfg.MODEL.ROI_HEADS.NAME in ("StandardROIHeads", "CascadeROIHeads"):
        nodes.append(cfg.MODEL.ROI_BOX_HEAD)
    if cfg.MODEL.MASK_ON:
        nodes.append(cfg.MODEL.ROI_MASK_HEAD)
    return {node.NORM for node in nodes} & {"BN", "SyncBN", "naiveSyncBN"}


def _semantic(cfg: CfgNode) -> bool:
    return cfg.TRANSFER.TASK != "detection"


def is_linear_probe(cfg: CfgNode) -> bool:
    """Returns whether a linear head is trained on frozen features: one protocol for all
    networks.
    """
    return _semantic(cfg) and cfg.TRANSFER.SEMANTIC.HEAD == "linear"


def _decays_positions(cfg: CfgNode) -> bool:
    """Returns whether the key counts: always for ViTDet, for a segmenter's ViT if it is not the
    default.
    """
    return is_vit(cfg) or _semantic(cfg) and cfg.TRANSFER.WEIGHT_DECAY_POS_EMBED != 0.0


def _amp(cfg: CfgNode) -> bool:
    return cfg.SOLVER.AMP.ENABLED


def _changed(key: str) -> KeyRole:
    """Returns the role of a key that is newer than some records with a hash: it belongs to the
    protocol if it does not have its default.
    """
    default = flat(make_defaults())[key]
    return only(lambda cfg: flat(cfg)[key] != default)


def _retinanet(cfg: CfgNode) -> bool:
    return cfg.MODEL.META_ARCHITECTURE == "RetinaNet"


def _keypoints(cfg: CfgNode) -> bool:
    return cfg.MODEL.KEYPOINT_ON


def _cascade(cfg: CfgNode) -> bool:
    return cfg.MODEL.ROI_HEADS.NAME == "CascadeROIHeads"


def _repeats(cfg: CfgNode) -> bool:
    return cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler"


def _accumulates(cfg: CfgNode) -> bool:
    """Without batch norm, micro-batches compute the same as more processes."""
    return cfg.TRANSFER.ACCUMULATE > 1 and bool(batch_norms(cfg))


ROLES = Roles(
    make_defaults,
    {
        "OUTPUT_DIR": KeyRole(Role.MACHINE, Hashed.NOTHING),
        "SEED": KeyRole(Role.TRIAL, Hashed.NOTHING),
        "CUDNN_BENCHMARK": KeyRole(Role.MACHINE),
        "MODEL.DEVICE": KeyRole(Role.MACHINE, ""),
        "DATALOADER.NUM_WORKERS": KeyRole(Role.MACHINE, 0),
        "TRANSFER.CHANNELS_LAST": KeyRole(Role.MACHINE, False),
        "TRANSFER.CHECK_IMAGES": KeyRole(Role.MACHINE, Hashed.NOTHING),
        "TRANSFER.COCO_EVALUATOR": KeyRole(Role.MACHINE, Hashed.NOTHING),  # equal numbers
        "SOLVER.CHECKPOINT_PERIOD": KeyRole(Role.MACHINE, 0),
        # A run that is scaled by Detectron2's rule belongs to the same protocol; one with a
        # different rate does not.
        "SOLVER.REFERENCE_WORLD_SIZE": KeyRole(Role.MACHINE, Hashed.NOTHING),
        # Evaluations during the training do not change any weight, and the score is that of the
        # last iteration.
        "TEST.EVAL_PERIOD": KeyRole(Role.WATCHING),
        "VIS_PERIOD": KeyRole(Role.WATCHING),
        "TRANSFER.LOG_PERIOD": KeyRole(Role.WATCHING, 0),
        "TRANSFER.LOGGER": KeyRole(Role.WATCHING, Hashed.NOTHING),
        "TRANSFER.DRAW_DETECTIONS": KeyRole(Role.WATCHING, 0),
        "TRANSFER.REPLICATES": KeyRole(Role.WATCHING, Hashed.NOTHING),
        "TRANSFER.PROTOCOL": KeyRole(Role.WATCHING, Hashed.NOTHING),  # the name of the column
        "MODEL.WEIGHTS": KeyRole(Role.WEIGHTS, ""),
        "MODEL.PIXEL_MEAN": KeyRole(Role.WEIGHTS, RGB_MEAN),
        "MODEL.PIXEL_STD": KeyRole(Role.WEIGHTS, RGB_STD),
        "MODEL.BACKBONE.NAME": only(lambda cfg: not is_linear_probe(cfg), hashed="any"),
        "MODEL.RESNETS.STRIDE_IN_1X1": KeyRole(Role.WEIGHTS, False),
        "INPUT.FORMAT": KeyRole(Role.WEIGHTS, "RGB"),
        "TRANSFER.VIT.PRETRAIN_IMAGE_SIZE": KeyRole(Role.WEIGHTS, 0),
        "TRANSFER.VIT.HEADS": KeyRole(Role.WEIGHTS, 0),
        "MODEL.ROI_HEADS.NUM_CLASSES": KeyRole(Role.DATA, Hashed.VALUE),
        "TRANSFER.SEMANTIC.NUM_CLASSES": KeyRole(Role.DATA, Hashed.VALUE),
        "MODEL.RPN.CONV_DIMS": only(lambda cfg: list(cfg.MODEL.RPN.CONV_DIMS) != [-1]),
        **{key: _changed(key) for key in YOUNGER},
        "MODEL.ROI_BOX_CASCADE_HEAD": only(_cascade),
        "MODEL.KEYPOINT_ON": only(_keypoints),
        "MODEL.ROI_KEYPOINT_HEAD": only(_keypoints),
        "TEST.KEYPOINT_OKS_SIGMAS": only(_keypoints),
        "MODEL.RETINANET": only(_retinanet),
        "MODEL.RETINANET.NUM_CLASSES": KeyRole(Role.DATA, Hashed.VALUE),
        "INPUT.CROP": only(lambda cfg: cfg.INPUT.CROP.ENABLED),
        "DATALOADER.REPEAT_THRESHOLD": only(_repeats),
        "DATALOADER.REPEAT_SQRT": only(_repeats),
        "SOLVER.CLIP_GRADIENTS": only(lambda cfg: cfg.SOLVER.CLIP_GRADIENTS.ENABLED),
        "SOLVER.NUM_DECAYS": only(
            lambda cfg: cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupStepWithFixedGammaLR"
        ),
        "SOLVER.AMP": only(_amp),
        "TRANSFER.AMP_DTYPE": only(_amp),
        "TRANSFER.TF32": only(lambda cfg: cfg.TRANSFER.TF32),
        "TRANSFER.ACCUMULATE": only(_accumulates),
        "TRANSFER.INIT": only(lambda cfg: cfg.TRANSFER.INIT == "detector"),
        "TRANSFER.LR_SWEEP": only(lambda cfg: bool(cfg.TRANSFER.LR_SWEEP.RATES)),
        "TRANSFER.LSJ": only(lambda cfg: bool(cfg.TRANSFER.LSJ.SCALES)),
        "TRANSFER.VOC_COUNTS_FROM": only(lambda cfg: cfg.TRANSFER.VOC_COUNTS_FROM != "auto"),
        "TRANSFER.VIT": only(is_vit),
        "TRANSFER.CONVNET": only(is_timm),
        "TRANSFER.LR_LAYER_DECAY": only(lambda cfg: is_vit(cfg) or is_timm(cfg)),
        "TRANSFER.WEIGHT_DECAY_POS_EMBED": only(_decays_positions),
        "TRANSFER.TASK": only(_semantic),
        "TRANSFER.SEMANTIC": only(_semantic),
        "TEST.PRECISE_BN.NUM_ITER": only(
            lambda cfg: cfg.TEST.PRECISE_BN.ENABLED, hashed=Hashed.DEFAULT
        ),
    },
)
