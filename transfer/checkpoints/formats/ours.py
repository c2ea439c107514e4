"""This project's own checkpoints, and weights without any container: flat torchvision or timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pretrain.common.checkpoint import FORMAT, VERSION
from pretrain.common.errors import InputError
from transfer.checkpoints.formats.key_format import CLASS, TEXT, KeyFormat, with_ddp
from transfer.checkpoints.networks.architectures import is_read
from transfer.checkpoints.provenance import Facts, facts_of_ours, no_facts


def check_version(content: Mapping[str, Any]) -> None:
    """Raises InputError for a checkpoint of ours from a later version than this one."""
    version = content.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise InputError(f"format version {version!r}, newer than {VERSION}; update mscn")


def _check_ours(content: Mapping[str, Any]) -> None:
    if content.get("format") != FORMAT:
        return
    check_version(content)
    backbone = content.get("backbone")
    if isinstance(backbone, str) and not is_read(backbone):
        raise InputError(
            f"it is a {backbone}; only ResNets, ViTs, ConvNeXts, RegNets and EfficientNets are read"
        )


def _facts(content: Mapping[str, Any]) -> Facts:
    """Returns our facts if the file has them; otherwise nothing is known."""
    return facts_of_ours(content) if content.get("format") == FORMAT else no_facts(content)


OURS = (
    KeyFormat(
        "mscn",
        "this project",
        CLASS,
        kinds=("torch",),
        containers=(("model",),),
        top=("format", "version"),
        prefixes=("trunk.",),
        drops={
            "projector": r"(projector|expander)\..*",
            "predictor": r"predictor\..*",
            "momentum copy": r"(momentum|target|teacher)_?\w*\..*",
            "anchor network": r"anchor_\w+\..*",  # MSN transfers its target network
            "queue": r"queue\w*",
            "prototypes": r"prototypes(\..*)?",
            "classifier": r"(classifier|fc)\..*",
            "decoder": r"decoder\w*(\..*)?",
        },
        facts=_facts,
        check=_check_ours,
    ),
)

_RESNET = r"(conv1|layer1\.0\.conv1|layer2\.0\.conv1|layer1\.0\.bn1)\.weight"


def _below(name: str, title: str, needs: tuple[str, ...] = ()) -> KeyFormat:
    """Returns the format of plain names below a key, which is its name."""
    return KeyFormat(
        name,
        title,
        TEXT,
        containers=((name,),),
        prefixes=with_ddp(""),
        needs=needs,
        drops={"classifier": r"(fc|head)\.(?!norm\.).*"},
    )


FLAT = (
    KeyFormat(
        "torchvision",
        "torchvision; timm; backbone files of Barlow Twins, VICReg, DINO, SparK, mmselfsup",
        CLASS,
        prefixes=("", "module."),
        needs=(_RESNET,),
        drops={"classifier": r"fc\..*"},
    ),
    KeyFormat(
        "timm",
        "timm's ViTs; DINO's ViT backbones",
        CLASS,
        prefixes=("", "module."),
        layouts=("named_vit",),
        needs=(r"cls_token|blocks\.0\..*",),
        drops={"classifier": r"head(_dist)?\..*"},
    ),
    _below(
        "state_dict",
        "torchvision's or timm's names below `state_dict`: linear probes, tonylins' SimCLR",
    ),
    _below(
        "model_state_dict",
        "torchvision's or timm's names below `model_state_dict`, as PyTorch's tutorial saves",
    ),
    _below("model", "torchvision's names below `model`", needs=(_RESNET,)),
)
