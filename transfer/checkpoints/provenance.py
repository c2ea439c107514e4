"""What a checkpoint says about its training: preprocessing and provenance, None if it states
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from fvcore.common.config import CfgNode

from pretrain.common.config import config_sha256
from pretrain.common.errors import InputError
from pretrain.common.safe_yaml import read_safe_yaml
from pretrain.data.preprocess import Preprocess

# The end of the name of weights whose batch-norm statistics were estimated after the training.
PRECISE_BN = "_precise_bn"


class Facts(NamedTuple):
    """Holds what a file states about itself.

    Attributes:
        known: the values of the provenance keys that the file states.
        backbone: the name of the backbone that it declares.
        warnings: lines that a command prints.
    """

    preprocess: Preprocess
    known: dict[str, Any]
    backbone: str | None = None
    warnings: tuple[str, ...] = ()
    architecture: Mapping[str, Any] = MappingProxyType({})


def no_facts(content: Mapping[str, Any]) -> Facts:
    """Returns facts for a file without any: torchvision's preprocessing, with a warning."""
    return assumed(Preprocess(), "ImageNet's mean and std")


def assumed(preprocess: Preprocess, whose: str) -> Facts:
    """Returns facts for a file without any: this preprocessing, with a warning that names it."""
    warning = f"the file states no preprocessing: RGB in [0, 1] with {whose}"
    return Facts(preprocess, {}, warnings=(warning,))


def timm_preprocess(config: Mapping[str, Any]) -> Preprocess | None:
    """Returns mean and std of timm's config of pretrained weights; None if it has none."""
    if not (config.get("mean") and config.get("std")):
        return None
    return Preprocess(tuple(config["mean"]), tuple(config["std"]))


def stated(
    method: str | None,
    preprocess: Preprocess = Preprocess(),
    *,
    epoch: tuple[str, ...] = ("epoch",),
    first_epoch: int = 0,
    arch: tuple[str, ...] = (),
    architecture: Mapping[str, Any] | None = None,
    warnings: tuple[str, ...] = (),
) -> Callable[[Mapping[str, Any]], Facts]:
    """Returns the facts of a project whose files are all made in the same way.

    Args:
        method: None if the format does not show it.
        epoch: path to the number of epochs; `first_epoch` is added (1: the file counts from 0).
        arch: path to the backbone's name.
        architecture: see `Weights.architecture`.
    """

    def facts(content: Mapping[str, Any]) -> Facts:
        done, backbone = _at(content, epoch), _at(content, arch) if arch else None
        known = {"method": method, "epochs": done + first_epoch if _is_int(done) else None}
        name = backbone if isinstance(backbone, str) else None
        return Facts(preprocess, known, name, warnings, architecture or {})

    return facts


def _at(content: Any, path: tuple[str, ...]) -> Any:
    """Returns the value at a path of keys or attributes (parsed arguments); None if none."""
    for key in path:
        if isinstance(content, Mapping):
            content = content.get(key)
        else:
            content = vars(content).get(key) if hasattr(content, "__dict__") else None
    return content


def facts_of_ours(content: Mapping[str, Any]) -> Facts:
    """Returns the facts of a pretraining checkpoint of this project.

    Raises:
        InputError: a part is missing or of the wrong kind.
    """
    try:
        schedule, step = content["schedule"], int(content["step"])
        config = CfgNode(read_safe_yaml(content["config"]))
        epochs = round(step / int(schedule["steps_per_epoch"]), 2)
        known = {
            "source": "mscn",
            "method": content["method"],
            "epochs": int(epochs) if epochs.is_integer() else epochs,
            "pretrain_seed": config.get("SEED"),
            "pretrain_config_sha256": config_sha256(config),
            "pretrain_seconds": schedule.get("seconds"),
            "pretrain_gpu_seconds": schedule.get("gpu_seconds"),
            "pretrain_views": schedule.get("views_seen"),
            "pretrain_images": schedule.get("images_seen"),
        }
        preprocess = Preprocess.from_dict(content["preprocess"])
        total = int(schedule["total_steps"])
        backbone = content["backbone"]
        if content.get("optimizer", "") is None:  # as pretraining writes checkpoint_precise_bn.pth
            known["name"] = f"{known['method']}_{backbone}_{known['epochs']:g}ep{PRECISE_BN}"
    except Exception as error:  # each field can be of any type, length and size
        raise InputError(f"a damaged pretraining checkpoint: {error!r}") from error
    unfinished = (f"pretraining was not finished: step {step} of {total}",) if step < total else ()
    return Facts(preprocess, known, backbone, unfinished)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
