"""Formats of toolboxes and of projects built on MoCo's code.

Read in their sources at the commits of 2026: VISSL (trunks/resnext.py, hooks/log_hooks.py),
PyContrast (learning/contrast_trainer.py), PixPro (main_pretrain.py), DenseCL and OpenSelfSup (mmcv
1.0 runners), mmselfsup and mmpretrain (mmengine runner), EMAN (main_byol.py), solo-learn
(methods/base.py), lightly (benchmarks/, examples/), SparK (pretrain/spark.py), timm
(utils/checkpoint_saver.py), Lightning (trainer/connectors/checkpoint_connector.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pretrain.common.errors import InputError
from transfer.checkpoints.formats.key_format import CLASS, TEXT, KeyFormat, inside, with_ddp
from transfer.checkpoints.formats.openmmlab import NO_CONFIG, facts_of_mm
from transfer.checkpoints.provenance import Facts, stated

_STATE = ("state_dict",)
_MODEL = ("model",)
_VISSL = ("classy_state_dict", "base_model", "model")
_VISSL_LOSSES = {
    "moco_encoder.": "moco_v2",
    "swav_criterion.": "swav",
    "nce_average.": "npid",
    "momentum_teacher.": "dino",
    "centroids0": "deepcluster_v2",
}


def _facts_of_vissl(content: Mapping[str, Any]) -> Facts:
    """Returns the method, by the state of the loss; the trunk of DINO is the student there."""
    loss = [str(key) for key in inside(content, ("classy_state_dict", "loss")) or {}]
    method = next((m for k, m in _VISSL_LOSSES.items() if any(n.startswith(k) for n in loss)), None)
    student = (
        "VISSL keeps DINO's student in the trunk and the teacher in the loss: this is the student"
    )
    return stated(
        method,
        epoch=("train_phase_idx",),
        first_epoch=1,
        warnings=(student,) if method == "dino" else (),
    )(content)


def facts_of_lightning(content: Mapping[str, Any]) -> Facts:
    """Returns the epochs; Lightning counts them from 0 since version 1.6."""
    version = re.match(r"(\d+)\.(\d+)", str(content.get("pytorch-lightning_version", "")))
    since = version is not None and (int(version[1]), int(version[2])) >= (1, 6)
    return stated(None, first_epoch=int(since))(content)


def _check_pixpro(content: Mapping[str, Any]) -> None:
    """Refuses its resnet50_16s, whose last stage is dilated (contrast/resnet.py): the tensors are
    those of the usual network.
    """
    arch = str(getattr(content.get("opt"), "arch", ""))
    if arch.endswith("_16s"):
        raise InputError(f"a {arch}, whose last stage is dilated, which is not supported")


def _facts_of_extracted(content: Mapping[str, Any]) -> Facts:
    author = str(content.get("author"))
    return stated("densecl" if author == "DenseCL" else None, warnings=(NO_CONFIG,))(content)


_LIGHTLY_DROPS = {
    "projector": r"((key|student|teacher|query)_)?projection_head(_momentum)?\..*",
    "predictor": r"(student_)?prediction_head\..*",
    "prototypes": r"prototypes\..*",
    "loss state": r"criterion\..*",
    "classifier": r"online_classifier\..*",
}
_LIGHTLY_COPY = r"((key|student|teacher)_backbone|backbone_momentum)\..*"
# by name: a key that the file must also hold, the trunk's prefix, the prefix of the second copy
_LIGHTLY = {
    # Until 2024-02 `backbone` was BYOL's teacher and MoCo's key encoder (lightly's
    # benchmarks/imagenet/resnet50/{byol,moco}.py before that month).
    "lightly_byol_old": ((r"student_prediction_head\..*",), "student_backbone.", r"backbone\..*"),
    "lightly_moco_old": ((r"query_backbone\..*",), "query_backbone.", r"backbone\..*"),
    "lightly": ((r"(online_classifier|projection_head)\..*",), "backbone.", _LIGHTLY_COPY),
}

TOOLBOXES = (
    KeyFormat(
        "vissl",
        "VISSL",
        CLASS,
        containers=((*_VISSL, "trunk"), (*_VISSL, "heads"), ("classy_state_dict", "loss")),
        prefixes=("_feature_blocks.", "base_model._feature_blocks.", ""),
        drops={
            "projector": r"classy_state_dict\.base_model\.model\.heads\..*",
            "loss state": r"classy_state_dict\.loss\..*",
        },
        facts=_facts_of_vissl,
    ),
    KeyFormat(
        "vissl_converted",
        "VISSL's conversions",
        TEXT,
        containers=(("model_state_dict",),),
        prefixes=("_feature_blocks.",),
        drops={"classifier": r"(fc|classifier|heads?)\..*"},
        facts=stated(None),
    ),
    KeyFormat(
        "eman_byol",
        "EMAN's BYOL",
        TEXT,
        containers=(_STATE,),
        prefixes=with_ddp("online_net.backbone."),
        drops={
            "momentum copy": r"target_net\..*",
            "projector": r"online_net\.neck\..*",
            "predictor": r"predictor\..*",
        },
        facts=stated("byol_eman"),
    ),
    KeyFormat(
        "pixpro",
        "PixPro",
        TEXT,
        containers=(_MODEL,),
        prefixes=with_ddp("encoder."),
        needs=(r"encoder_k\..*", r"projector\.linear1\..*"),
        drops={
            "momentum copy": r"(encoder|projector|projector_instance)_k\..*",
            "projector": r"projector(_instance)?\..*",
            "propagation module": r"value_transform\..*",
            "predictor": r"predictor\..*",
        },
        facts=stated("pixpro"),
        check=_check_pixpro,
    ),
    KeyFormat(
        "pycontrast",
        "PyContrast (InsDis, MoCo, PIRL, InfoMin)",
        TEXT,
        containers=(_MODEL, ("model_ema",), ("contrast",)),
        prefixes=with_ddp("encoder."),
        needs=(r"head\..*",),
        drops={
            "projector": r"head(_jig)?\..*",
            "momentum copy": r"model_ema\..*",
            "memory": r"contrast\..*",
        },
        facts=stated(None),
    ),
    KeyFormat(
        "spark",
        "SparK (with decoder)",
        TEXT,
        containers=(("module",),),
        prefixes=("sparse_encoder.sp_cnn.",),
        layouts=("canonical", "fair_convnext"),
        drops={
            "decoder": r"dense_decoder\..*|densify_(norms|projs)\..*|mask_tokens\..*",
            "unused buffers": r"imn_[ms]|norm_black",
        },
        facts=stated("spark", first_epoch=1),
    ),
    *(
        KeyFormat(
            f"{name}{'_flat' if not container else ''}",
            f"lightly, {'named or numeric' if name == 'lightly' else 'before 2024-02'}",
            CLASS if name == "lightly" and container else TEXT,
            containers=(container,),
            prefixes=(prefix,),
            layouts=("canonical", "numeric"),
            needs=needs,
            drops={**_LIGHTLY_DROPS, "momentum or student copy": copy},
            facts=facts_of_lightning,
        )
        for name, (needs, prefix, copy) in _LIGHTLY.items()
        for container in (_STATE, ())
    ),
    KeyFormat(
        "lightly_numeric",
        "lightly's examples: `nn.Sequential(*children)`",
        TEXT,
        layouts=("numeric",),
    ),
    KeyFormat(
        "solo_learn",
        "solo-learn",
        TEXT,
        containers=(_STATE,),
        top=("pytorch-lightning_version",),
        prefixes=("backbone.", "encoder."),
        drops={
            "momentum copy": r"momentum_\w+\..*",
            "projector": r"(projector|head)\..*",
            "predictor": r"predictor\..*",
            "queue": r"queue(_y|_ptr)?",
            "prototypes": r"prototypes\..*",
            "classifier": r"classifier\..*",
            "decoder": r"decoder\..*",
            "loss state": r"dino_loss_func\..*",
        },
        facts=facts_of_lightning,
    ),
    KeyFormat(
        "mm",
        "OpenSelfSup, mmselfsup, mmpretrain, DenseCL",
        CLASS,
        containers=(_STATE,),
        prefixes=("backbone.",),
        layouts=("mm_vit", "canonical", "mm_convnext"),
        drops={
            "projector": r"neck\..*",
            "head": r"head\..*",
            "momentum copy": r"(encoder_k|target_net|momentum_encoder)\..*",
            "second name of the same": r"(encoder_q|online_net|encoder|base_encoder)\.\d\..*",
            "queue": r"queue\d?(_ptr)?",
            "decoder": r"(enc_dec_(norms|projectors)|mask_tokens)\..*",
            "pixel statistics": r"data_preprocessor\..*",
        },
        facts=facts_of_mm,
    ),
    KeyFormat(
        "mm_extracted",
        "backbones extracted by DenseCL, OpenSelfSup, mmselfsup",
        TEXT,
        containers=(_STATE,),
        top=("author",),
        prefixes=with_ddp(""),
        drops={"classifier": r"fc\..*"},
        facts=_facts_of_extracted,
    ),
    KeyFormat(
        "timm_train",
        "timm's training checkpoints (averaged weights)",
        TEXT,
        containers=(("state_dict_ema",), _STATE),
        prefixes=with_ddp(""),
        drops={
            "classifier": r"(fc|head)\.(?!norm\.).*",
            "weights before averaging": r"state_dict\..*",
        },
        facts=stated("supervised", first_epoch=1),
    ),
    KeyFormat(
        "vicreg_eval",
        "VICReg's and VICRegL's linear evaluation",
        TEXT,
        containers=(_MODEL,),
        prefixes=("module.0.",),
        drops={"classifier": r"1\.(weight|bias)"},
        facts=stated(None),
    ),
)
