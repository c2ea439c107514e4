"""What a checkpoint says about its own making: preprocessing and provenance, None where silent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml
from fvcore.common.config import CfgNode

from pretrain.common.config import config_sha256
from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess


class Facts(NamedTuple):
    """Attributes: known: provenance keys; backbone: as declared; warnings: printable lines."""

    preprocess: Preprocess
    known: dict[str, Any]
    backbone: str | None = None
    warnings: tuple[str, ...] = ()


def no_facts(content: Mapping[str, Any]) -> Facts:
    """A file that says nothing: torchvision's preprocessing is assumed, and that is said."""
    return Facts(
        Preprocess(),
        {},
        warnings=("the file states no preprocessing: RGB in [0, 1] with ImageNet's mean and std",),
    )


def facts_of_moco(content: Mapping[str, Any]) -> Facts:
    """MoCo's main_moco.py stores `epoch` (done) and `arch`; its input is torchvision's."""
    mlp = any(str(name).startswith("module.encoder_q.fc.2.") for name in content["state_dict"])
    source = "moco_v2" if mlp else "moco_v1"
    epoch, arch = content.get("epoch"), content.get("arch")
    known = {"source": source, "method": source, "epochs": epoch if _is_int(epoch) else None}
    return Facts(Preprocess(), known, backbone=arch if isinstance(arch, str) else None)


def facts_of_ours(content: Mapping[str, Any]) -> Facts:
    """A pretraining checkpoint of this project.

    Raises:
        InputError: a part is missing or of the wrong kind.
    """
    try:
        schedule, step = content["schedule"], int(content["step"])
        config = CfgNode(yaml.safe_load(content["config"]))
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
    except (
        KeyError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        yaml.YAMLError,
    ) as error:
        raise InputError(f"a damaged pretraining checkpoint: {error!r}") from error
    unfinished = (f"pretraining was not finished: step {step} of {total}",) if step < total else ()
    return Facts(preprocess, known, backbone, unfinished)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
