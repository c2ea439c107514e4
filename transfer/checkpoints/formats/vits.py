"""Formats of ViTs: DINOv2, DINOv3, iBOT, I-JEPA, DeiT, evaluations of MAE, torchvision.

Read in their sources at the commits of 2026; the files that save checkpoints: dinov2 and dinov3
train/train.py, ibot main_ibot.py and extract_backbone_weights.py, ijepa src/train.py, deit main.py,
mae main_finetune.py and main_linprobe.py (util/misc.py), SimMIM utils.py. All train on images
normalised with ImageNet's mean and standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.formats.key_format import (
    CLASS,
    TEXT,
    KeyFormat,
    inside,
    variant,
    with_ddp,
    without_ddp,
)
from transfer.checkpoints.provenance import Facts, stated

OFFSET = {"resample": "offset"}  # see vit_resampled.RESAMPLE
LABELS = "it has a classifier, which is dropped: its backbone was trained with labels"
STUDENT = "it has iBOT's masked_embed, which only the student has: this is not the teacher"
_NAMED = ("named_vit",)
_MASK = r"(backbone\.)?(mask_token|masked_embed)"
_SCALE = r"blocks\.(\d+\.)?\d+\.ls1\.gamma"


def _facts_of_dinov2(content: Mapping[str, Any]) -> Facts:
    """Returns facts of DINOv2: positions are resampled as in timm if there are registers, otherwise
    by DINO's rule.
    """
    names = inside(content, ("teacher",)) or content
    registers = any(str(name).endswith("register_tokens") for name in names)
    return stated("dinov2", architecture={} if registers else OFFSET)(content)


def _facts_of_classifier(content: Mapping[str, Any]) -> Facts:
    """Returns facts of DeiT, DeiT-III and MAE's evaluations, which differ in a few keys only."""
    names = [str(name) for name in content["model"]]
    probe = any(name.endswith("head.0.running_mean") for name in names)
    labels = any("head" in name for name in names) and not probe
    method = _method(content.get("args"), names) if not probe else "mae"
    return stated(method, first_epoch=1, warnings=(LABELS,) if labels else ())(content)


def _method(args: Any, names: list[str]) -> str | None:
    """Returns the method, from the stored command line or from keys that only one project has."""
    model = str(vars(args).get("model", "")) if hasattr(args, "__dict__") else ""
    if any(name.endswith(".gamma_1") for name in names):
        return "deit3"
    if model.startswith("deit") or any(name.endswith("dist_token") for name in names):
        return "deit"
    return "mae_finetuned" if hasattr(args, "global_pool") and hasattr(args, "finetune") else None


SATELLITE = Preprocess((0.430, 0.411, 0.296), (0.213, 0.156, 0.143))  # dinov3/README.md
NAMED_SO = "its name has no sat493m, so it is not taken for DINOv3's satellite weights"


def _satellite(file: Path, facts: Facts) -> Facts:
    """DINOv3's satellite models need different statistics, and only the file's name shows it."""
    if "sat493m" in file.name.lower():
        return facts._replace(preprocess=SATELLITE)
    return facts._replace(warnings=(*facts.warnings, f"ImageNet's mean and std: {NAMED_SO}"))


_DINOV3 = KeyFormat(
    "dinov3",
    "DINOv3 ViT",
    CLASS,
    prefixes=with_ddp(""),
    layouts=_NAMED,
    needs=(r"rope_embed\.periods|storage_tokens", _SCALE),
    lacks=(r"pos_embed",),
    drops={
        "mask token": _MASK,
        "norm of small crops, for training only": r"(backbone\.)?local_cls_norm\..*",
    },
    facts=stated("dinov3", architecture={"norm_eps": 1e-5}),
    beside=_satellite,
)


def _check_ijepa(content: Mapping[str, Any]) -> None:
    """Refuses a table of positions that has one for a class token: it is of a different network."""
    names = {without_ddp(str(name)): value for name, value in content["target_encoder"].items()}
    table = names.get("pos_embed")
    rows = table.shape[1] if isinstance(table, Tensor) and table.dim() == 3 else 1
    if "cls_token" not in names and math.isqrt(rows) ** 2 != rows:
        raise InputError(
            f"target_encoder has no class token, but {rows} positions, which is not the square of "
            "a number of patches: not I-JEPA's encoder"
        )


VITS = (
    _DINOV3,
    variant(
        _DINOV3,
        "dinov3_train",
        title="DINOv3's training (teacher)",
        containers=(("teacher",),),
        prefixes=with_ddp("backbone."),
        needs=(r"backbone\.(rope_embed\.periods|storage_tokens)", rf"backbone\.{_SCALE}"),
        lacks=(),
        drops={**_DINOV3.drops, "projector": r"(dino|ibot|gram)_head\..*"},
    ),
    variant(
        _DINOV3,
        "dinov3_timm",
        title="timm's DINOv3 ViT without biases of queries, keys and values",
        needs=(r"reg_token", r"blocks\.\d+\.gamma_1"),
        lacks=(r"pos_embed", r"blocks\.\d+\.attn\.(qkv\.bias|q_bias)"),
        drops={"classifier": r"head\..*"},
    ),
    KeyFormat(
        "ibot",
        "iBOT (teacher)",
        CLASS,
        containers=(("teacher",), ("student",), ("ibot_loss",)),
        top=("student", "teacher", "ibot_loss"),
        prefixes=with_ddp("backbone."),
        layouts=_NAMED,
        drops={
            "student copy": r"student\..*",
            "projector": r"head\..*",
            "loss centre": r"ibot_loss\..*",
            "mask token": _MASK,
        },
        facts=stated("ibot", arch=("args", "arch"), architecture=OFFSET),
    ),
    KeyFormat(
        "ibot_student",
        "iBOT's student, extracted",
        CLASS,
        containers=(("state_dict",),),
        prefixes=with_ddp("", "backbone."),
        layouts=_NAMED,
        needs=(r"(backbone\.)?masked_embed",),
        drops={"mask token": _MASK, "projector": r"head\..*"},
        facts=stated("ibot", architecture=OFFSET, warnings=(STUDENT,)),
    ),
    KeyFormat(
        "dinov2",
        "DINOv2 (also with registers)",
        CLASS,
        prefixes=with_ddp(""),
        layouts=_NAMED,
        needs=(r"mask_token", _SCALE, r"cls_token|pos_embed"),
        drops={"mask token": _MASK, "classifier": r"(linear_)?head\..*"},
        facts=_facts_of_dinov2,
    ),
    KeyFormat(
        "dinov2_train",
        "DINOv2's training (teacher)",
        CLASS,
        containers=(("teacher",),),
        prefixes=with_ddp("backbone."),
        layouts=_NAMED,
        needs=(r"backbone\.mask_token", rf"backbone\.{_SCALE}"),
        drops={"mask token": _MASK, "projector": r"(dino|ibot)_head\..*"},
        facts=_facts_of_dinov2,
    ),
    KeyFormat(
        "ijepa",
        "I-JEPA (target encoder)",
        CLASS,
        containers=(("target_encoder",), ("encoder",), ("predictor",)),
        prefixes=with_ddp(""),
        layouts=_NAMED,
        needs=(r"pos_embed|blocks\.0\..*",),
        lacks=(r"cls_token", r"fc\..*"),
        drops={"online copy": r"encoder\..*", "predictor": r"predictor\..*"},
        facts=stated("ijepa"),
        check=_check_ijepa,
    ),
    KeyFormat(
        "deit",
        "DeiT (also distilled), DeiT-III; MAE fine-tuned or probed",
        CLASS,
        containers=(("model",), ("model_ema",)),
        prefixes=with_ddp(""),
        layouts=_NAMED,
        needs=(
            r"cls_token|pos_embed",
            r"blocks\.0\..*",
            r"(head|head_dist|fc_norm)\..*|blocks\.\d+\.gamma_1|dist_token",
        ),
        lacks=(r"decoder_.*",),
        drops={"classifier": r"head(_dist)?\..*", "moving average copy": r"model_ema\..*"},
        facts=_facts_of_classifier,
    ),
    KeyFormat(
        "simmim",
        "SimMIM's encoder with absolute positions",
        TEXT,
        containers=(("model",),),
        prefixes=with_ddp("encoder."),
        layouts=_NAMED,
        needs=(r"encoder\.mask_token", r"encoder\.blocks\.0\..*"),
        drops={"mask token": r"encoder\.mask_token", "decoder": r"decoder\..*"},
        facts=stated("simmim", first_epoch=1),
    ),
    KeyFormat(
        "torchvision_vit",
        "torchvision's ViT",
        CLASS,
        prefixes=("", "module."),
        layouts=("torchvision_vit",),
        needs=(r"encoder\.layers\.encoder_layer_\d+\..*",),
        drops={"classifier": r"heads\..*"},
    ),
)
