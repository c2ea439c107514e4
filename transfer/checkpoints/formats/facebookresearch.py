"""Formats of facebookresearch: MoCo, SimSiam, Barlow Twins, VICReg, SwAV, DINO, MAE, MSN.

Read in their sources at the commits of 2026; the files that save checkpoints: moco main_moco.py,
moco-v3 main_moco.py, simsiam main_simsiam.py, barlowtwins main.py, vicreg main_vicreg.py,
swav main_swav.py and src/resnet50.py, dino main_dino.py, mae util/misc.py, msn src/msn_train.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pretrain.common.errors import InputError
from pretrain.data.preprocess import IMAGENET_MEAN, Preprocess
from transfer.checkpoints.attention_heads import fixed_table, is_values
from transfer.checkpoints.formats.key_format import (
    CLASS,
    TEXT,
    KeyFormat,
    variant,
    with_ddp,
    without_ddp,
)
from transfer.checkpoints.provenance import Facts, no_facts, stated

SWAV_PREPROCESS = Preprocess(IMAGENET_MEAN, (0.228, 0.224, 0.225))  # multicropdataset.py
_STATE = (("state_dict",),)
_MODEL = (("model",),)


def heads_of_moco_v3(state: Mapping[str, Any], token: str) -> dict[str, int]:
    """Returns the number of heads: MoCo v3's ViT-S has 12 heads (its vits.py), all others have 6;
    the shapes are the same.

    Args:
        token: how the class token's name ends.
    """
    found = next((value for name, value in state.items() if name.endswith(token)), None)
    return {"num_heads": 12} if found is not None and found.shape[-1] == 384 else {}


def _facts_of_moco(method: str) -> Callable[[Mapping[str, Any]], Facts]:
    """Returns facts of MoCo; EMAN's has the same keys, and its own name as `arch`."""

    def facts(content: Mapping[str, Any]) -> Facts:
        if content.get("arch") in ("MoCo", "MoCoEMAN"):
            return stated("moco_eman")(content)
        return stated(method, arch=("arch",))(content)

    return facts


_MOCO = KeyFormat(
    "moco_v1",
    "MoCo v1",
    CLASS,
    containers=_STATE,
    prefixes=with_ddp("encoder_q."),
    needs=(r"encoder_q\.fc\.weight",),
    drops={
        "momentum copy": r"encoder_k\..*",
        "queue": r"queue(_ptr)?",
        "projector": r"encoder_q\.fc\..*",
    },
    facts=_facts_of_moco("moco_v1"),
)


def _facts_of_moco_v3(content: Mapping[str, Any]) -> Facts:
    heads = heads_of_moco_v3(content["state_dict"], "base_encoder.cls_token")
    return stated("moco_v3", arch=("arch",), architecture=heads)(content)


def _facts_of_mae(content: Mapping[str, Any]) -> Facts:
    """Returns MAE's facts; those of an unknown ViT for a file that any training may have saved.

    The released encoders have no decoder that names MAE, but its positions: sines and cosines that
    are not trained, with 0 for the class token (util/pos_embed.py). MoCo v3's convert_to_deit.py
    writes the same keys, with the method's own table.
    """
    state = {without_ddp(str(name)): value for name, value in content["model"].items()}
    positions = state.get("pos_embed")
    if any(name.startswith("decoder_") for name in state):
        method = "mae"
    elif fixed_table(positions) == "moco_v3":
        method = "moco_v3"
    elif is_values(positions) and positions.ndim == 3 and not positions[:, :1].float().any():
        method = "mae"
    else:
        return no_facts(content)
    return stated(method, first_epoch=1)(content)


def _check_moco_v3(content: Mapping[str, Any]) -> None:
    if str(content.get("arch", "")).startswith("vit_conv"):
        raise InputError(
            f"a {content['arch']}, whose patches come from convolutions, which is not supported"
        )


def _check_linear(content: Mapping[str, Any]) -> None:
    names = set(content["state_dict"])
    if names <= {"module.linear.weight", "module.linear.bias"}:
        raise InputError("it has only a linear classifier, no backbone; give the backbone's file")


META = (
    KeyFormat(
        "dino",
        "DINO (teacher)",
        CLASS,
        containers=(("teacher",), ("student",), ("dino_loss",)),
        top=("student", "teacher"),
        prefixes=with_ddp("backbone."),
        drops={
            "student copy": r"student\..*",
            "projector": r"head\..*",
            "loss centre": r"dino_loss\..*",
        },
        facts=stated("dino", arch=("args", "arch")),
    ),
    KeyFormat(
        "dino_student",
        "DINO (student)",
        CLASS,
        containers=(("student",), ("teacher",), ("dino_loss",)),
        top=("student", "teacher"),
        prefixes=with_ddp("backbone."),
        drops={
            "teacher copy": r"teacher\..*",
            "projector": r"head\..*",
            "loss centre": r"dino_loss\..*",
        },
        facts=stated("dino", arch=("args", "arch")),
        forced=True,
    ),
    KeyFormat(
        "msn",
        "MSN",
        CLASS,
        containers=(("target_encoder",), ("encoder",)),
        prefixes=with_ddp(""),
        needs=(r"cls_token",),
        drops={"online copy": r"encoder\..*", "projector": r"fc\..*"},
        facts=stated("msn"),
    ),
    variant(
        _MOCO,
        "moco_v2",
        title="MoCo v2 (also PCL, EMAN, MixMask, Un-Mix)",
        needs=(r"encoder_q\.fc\.2\.weight",),
        facts=_facts_of_moco("moco_v2"),
        lacks=(r"encoder_q\.fc\.weight",),
    ),
    _MOCO,
    variant(  # its keys are exactly MoCo v2's, so it is never detected
        _MOCO,
        "mixmask",
        title="MixMask",
        evidence=TEXT,
        needs=(r"encoder_q\.fc\.2\.weight",),
        facts=_facts_of_moco("mixmask"),
        forced=True,
    ),
    KeyFormat(
        "moco_v3",
        "MoCo v3 (ResNet and ViT)",
        CLASS,
        containers=_STATE,
        prefixes=with_ddp("base_encoder."),
        drops={
            "momentum copy": r"momentum_encoder\..*",
            "projector": r"base_encoder\.(fc|head)\..*",
            "predictor": r"predictor\..*",
        },
        facts=_facts_of_moco_v3,
        check=_check_moco_v3,
    ),
    KeyFormat(
        "simsiam",
        "SimSiam",
        CLASS,
        containers=_STATE,
        prefixes=with_ddp("encoder."),
        needs=(r"predictor\.3\.weight", r"encoder\.fc\..*"),
        drops={"projector": r"encoder\.fc\..*", "predictor": r"predictor\..*"},
        facts=stated("simsiam", arch=("arch",)),
    ),
    *(
        KeyFormat(
            name,
            title,
            CLASS,
            containers=container,
            prefixes=with_ddp(""),
            needs=(needs,),
            drops={"projector": r"projection_head\..*", "prototypes": r"prototypes\..*"},
            facts=stated(method, SWAV_PREPROCESS),
            check=check,
        )
        for method, title, needs in (
            ("swav", "SwAV (also wide)", r"prototypes\.weight"),
            ("deepcluster_v2", "DeepCluster-v2, SeLa-v2", r"prototypes\.prototypes\d\.weight"),
        )
        for name, container, check in (
            (method, _STATE, _check_linear),
            (f"{method}_bare", ((),), lambda content: None),
        )
    ),
    KeyFormat(
        "vicregl",
        "VICRegL (ResNet, ConvNeXt)",
        CLASS,
        containers=_MODEL,
        prefixes=with_ddp("backbone."),
        layouts=("canonical", "fair_convnext"),
        needs=(r"(maps_projector\.|classifier\.).*", r"projector\..*"),
        drops={"projector": r"(maps_)?projector\..*", "classifier": r"classifier\..*"},
        facts=stated("vicregl", SWAV_PREPROCESS),
    ),
    KeyFormat(
        "vicreg",
        "VICReg (full)",
        CLASS,
        containers=_MODEL,
        prefixes=with_ddp("backbone."),
        needs=(r"projector\.0\.bias",),
        drops={"projector": r"projector\..*"},
        facts=stated("vicreg"),
    ),
    KeyFormat(
        "barlow",
        "Barlow Twins (full)",
        CLASS,
        containers=_MODEL,
        prefixes=with_ddp("backbone."),
        needs=(r"bn\.running_mean", r"projector\..*"),
        drops={"projector": r"(projector|bn)\..*"},
        facts=stated("barlow"),
    ),
    KeyFormat(
        "mae",
        "MAE (with or without decoder)",
        CLASS,
        containers=_MODEL,
        prefixes=with_ddp(""),
        needs=(r"cls_token",),
        lacks=(r"(fc_norm|head)\..*", r".*\.ls1\.gamma|reg(ister)?_tokens?"),
        drops={"decoder": r"decoder_.*|mask_token"},
        facts=_facts_of_mae,
    ),
)
