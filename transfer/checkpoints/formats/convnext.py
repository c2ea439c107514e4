"""Formats of ConvNeXt: FAIR's (V1, V2, FCMAE), VICRegL's, DINOv3's, torchvision's and timm's.

Read in facebookresearch/ConvNeXt utils.py (save_model), ConvNeXt-V2 utils.py and models/fcmae.py,
VICRegL hubconf.py, SparK pretrain/models/convnext.py and dinov3 models/convnext.py; torchvision's
and timm's classes are instantiated in the tests. All of them train on ImageNet's mean and std.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.formats.huggingface_convnet import FACTS as HF_FACTS
from transfer.checkpoints.formats.huggingface_convnet import class_default
from transfer.checkpoints.formats.key_format import CLASS, TEXT, KeyFormat, with_ddp
from transfer.checkpoints.provenance import Facts, no_facts, stated

_BLOCKS = (
    r"stages\.[01]\.(blocks\.)?0\.(dwconv|conv_dw)\.(weight|bias)|features\.[13]\.0\.block\.0\.\w+"
)
_CLASSIFIER = r"(head\.fc|head|fc|classifier\.2)\.(weight|bias)"  # SparK's is `fc`
_AVERAGE = ("`model` is read, the averaged weights in `model_ema` are left out",)


def _facts_of_fair(content: Mapping[str, Any]) -> Facts:
    """FCMAE's released encoders have no norm after pooling; its other files have one."""
    names = {name.removeprefix("module.") for name in map(str, content["model"])}
    second = any(name.endswith("grn.gamma") for name in names)
    method = "fcmae" if second and "norm.weight" not in names else None
    warnings = _AVERAGE if "model_ema" in content else ()
    return stated(method, first_epoch=1, warnings=warnings)(content)


def _check_second_norm(content: Mapping[str, Any]) -> None:
    """DINOv3 stores its last norm twice; if the two differ, it is a different network."""
    for leaf in ("weight", "bias"):
        one, other = content.get(f"norm.{leaf}"), content.get(f"norms.3.{leaf}")
        if not isinstance(one, Tensor) or not isinstance(other, Tensor):
            continue
        if not torch.equal(one, other):
            raise InputError(f"norm.{leaf} and norms.3.{leaf} differ; DINOv3's are one tensor")


def _facts_of_hf(content: Mapping[str, Any]) -> Facts:
    return HF_FACTS(content)._replace(architecture={"last_norm_eps": 1e-12})


CONVNEXT = (
    KeyFormat(
        "fcmae",
        "ConvNeXt V2's pretraining (FCMAE, sparse)",
        TEXT,
        containers=(("model",),),
        prefixes=with_ddp("encoder."),
        layouts=("fcmae",),
        drops={"decoder": r"(decoder|proj|pred)\..*|mask_token"},
        facts=stated("fcmae", first_epoch=1),
    ),
    KeyFormat(
        "convnext_fair",
        "ConvNeXt, ConvNeXt V2 (FAIR)",
        TEXT,
        containers=(("model",), ("model_ema",)),
        prefixes=with_ddp(""),
        layouts=("fair_convnext",),
        drops={"classifier": r"head\.(weight|bias)", "averaged weights": r"model_ema\..*"},
        facts=_facts_of_fair,
    ),
    KeyFormat(
        "dinov3_convnext",
        "DINOv3's ConvNeXt",
        TEXT,
        prefixes=with_ddp(""),
        layouts=("fair_convnext",),
        needs=(r"norms\.3\.weight",),
        drops={"second name of the last norm": r"norms\.3\.(weight|bias)"},
        facts=stated("dinov3"),
        check=_check_second_norm,
    ),
    *(
        KeyFormat(
            name,
            f"ConvNeXt of timm, torchvision or FAIR{where}",
            CLASS if not container else TEXT,
            containers=(container,),
            prefixes=with_ddp(""),
            layouts=("canonical", "fair_convnext", "torchvision_convnext"),
            needs=(_BLOCKS,),
            drops={"classifier": _CLASSIFIER},
            facts=no_facts,
        )
        for name, container, where in (
            ("convnext", (), ""),
            ("convnext_model", ("model",), " below `model`"),
            ("convnext_state_dict", ("state_dict",), " below `state_dict`"),
        )
    ),
    KeyFormat(
        "hf_convnext",
        "Hugging Face transformers' ConvNeXt, ConvNeXt V2",
        CLASS,
        prefixes=("convnext.", "convnextv2.", ""),
        layouts=("hf_convnext",),
        drops={"classifier": r"classifier\..*"},
        facts=_facts_of_hf,
    ),
    KeyFormat(
        "hf_dinov3_convnext",
        "Hugging Face transformers' DINOv3 ConvNeXt",
        CLASS,
        layouts=("hf_dinov3_convnext", "hf4_dinov3_convnext"),
        facts=class_default("DINOv3ViTImageProcessor", Preprocess()),
    ),
)
