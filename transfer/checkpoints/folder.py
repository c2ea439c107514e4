"""Reads the files next to a weights file, in a folder of Hugging Face transformers or timm's hub.

`save_pretrained` writes `config.json` (the network), `model.safetensors` or `pytorch_model.bin`
and, of the image processor, `preprocessor_config.json` (version 5 also: `processor_config.json`).
timm's `push_to_hf_hub` writes `config.json` with `architecture` and `pretrained_cfg`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pretrain.backbones.resnet import BACKBONES
from pretrain.common import safe_json
from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.networks.architectures import is_read

CONFIG = "config.json"
# Patterns of the ViTs' names in timm, then in torchvision: the tensors decide which of them are
# read.
VITS = (
    r"vit_(tiny|small|base|large|huge|giant)_patch\d+(_reg\d+)?_(\d+|dinov2)",
    r"vit_(small|base|large|small_plus|large_plus|huge_plus)_patch16_dinov3",
    r"deit3?_(tiny|small|base|large|huge)(_distilled)?_patch\d+_\d+",
    r"vit_[blh]_\d+",
)
# Arguments of timm's networks, in its hub's `model_args`, that the tensors show or that have no
# effect on a trained network; of all others only `num_heads` is read.
PLAIN_ARGS = {
    *("in_chans", "num_classes", "img_size", "patch_size", "embed_dim", "depth", "mlp_ratio"),
    *("class_token", "reg_tokens", "no_embed_class", "qkv_bias", "init_values", "weight_init"),
    *("dynamic_img_size", "dynamic_img_pad", "strict_img_size", "fix_init", "zero_init_last"),
    *("block", "layers", "channels", "cardinality", "base_width", "stem_width"),
    *("depths", "dims", "ls_init_value", "use_grn", "head_init_scale", "pretrained"),
}
POOLINGS = ("", "avg", "token")
PREPROCESSOR = "preprocessor_config.json"
PROCESSORS = (PREPROCESSOR, "processor_config.json")
CORRECT = "correct it, or move it elsewhere"


class Beside(NamedTuple):
    """Holds what the files next to a weights file say.

    Attributes:
        preprocess: None if no file states it.
        architecture: the entries for `Weights.architecture`.
        config: the parsed `config.json`; it is empty if there is no such file.
    """

    preprocess: Preprocess | None
    architecture: dict[str, Any]
    config: dict[str, Any]

    @property
    def backbone(self) -> str | None:
        """Returns timm's name of the network, if its config states it."""
        name = self.config.get("architecture")
        return name if isinstance(name, str) else None


NOTHING = Beside(None, {}, {})


def read_beside(file: Path) -> Beside:
    """Returns the facts next to a local file; none for suffixes that such folders do not have."""
    return read_folder(file.parent) if file.suffix in (".safetensors", ".bin") else NOTHING


def read_folder(folder: Path) -> Beside:
    """Returns what a folder's `config.json` and its processor's file say about the weights in it.

    Raises:
        InputError: a file is not JSON, or describes a network that is not read.
    """
    config = read_json(folder / CONFIG) or {}
    if not any(key in config for key in ("model_type", "architectures", "architecture")):
        return NOTHING
    differs = ARCHITECTURES.get(str(config.get("model_type")), lambda config: {})
    try:
        if isinstance(config.get("architecture"), str):  # timm's name of the network
            check_architecture(f"the network of {CONFIG}", config["architecture"])
        architecture = {**differs(config), **_of_model_args(config)}
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    return Beside(preprocess_in(folder) or _of_timm(config), architecture, config)


def check_architecture(source: str, name: str, is_read: Callable[[str], bool] = is_read) -> None:
    """Raises InputError for networks that are not supported, by a name of timm's or torchvision's.

    Args:
        is_read: whether a backbone is; torchvision's RegNets have other names than timm's.
    """
    plain = re.sub(r"^(tv_|gluon_)", "", name.partition(".")[0])
    if not is_read(plain) and not any(re.fullmatch(vit, plain) for vit in VITS):
        known = ", ".join(BACKBONES)
        raise InputError(
            f"{source} is a {name}, which is not supported; supported are {known}, plain "
            "ViTs, DeiTs and DINO's, ConvNeXts, and from timm other ResNets, ResNeXts, RegNets and "
            "EfficientNets"
        )


def _of_model_args(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the arguments that timm's network was built with say about it.

    Raises:
        InputError: an argument that changes what the network computes, but none of its tensors.
    """
    args = config.get("model_args") or {}
    if not isinstance(args, Mapping):
        raise InputError(f"{CONFIG} says model_args {args!r}, not a JSON object; {CORRECT}")
    for key, value in args.items():
        known = key in PLAIN_ARGS or key == "num_heads" or str(key).endswith("_rate")
        if not known and not (key == "global_pool" and value in POOLINGS) and value is not None:
            raise InputError(
                f"{CONFIG} says model_args {key} {value!r}, which changes what the network "
                "computes and is not supported"
            )
    heads = args.get("num_heads")
    if heads is None:
        return {}
    if not isinstance(heads, int) or isinstance(heads, bool):
        raise InputError(f"{CONFIG} says model_args num_heads {heads!r}, not a number; {CORRECT}")
    return {"num_heads": heads}


def _of_timm(config: Mapping[str, Any]) -> Preprocess | None:
    """Returns mean and std from timm's config.json."""
    stated = config.get("pretrained_cfg")
    stated = stated if isinstance(stated, Mapping) else {}
    if not (stated.get("mean") and stated.get("std")):
        return None
    return Preprocess(_three(stated, "mean"), _three(stated, "std"))


def preprocess_in(folder: Path) -> Preprocess | None:
    """Returns the content of the image processor's file in a folder; None if there is none.

    Raises:
        InputError: it is damaged, or its values are not a normalisation of three channels.
    """
    for name in PROCESSORS:
        processor = read_json(folder / name) or {}
        processor = processor.get("image_processor") or processor
        if any(key in processor for key in ("image_mean", "do_normalize", "do_rescale")):
            try:
                return _preprocess_of(processor)
            except InputError as error:
                raise InputError(
                    f"{folder / name}, next to the weights: {error}; {CORRECT}"
                ) from error
    return None


def _preprocess_of(processor: Mapping[str, Any]) -> Preprocess:
    """Returns the input that an image processor of transformers makes, by its saved settings.

    Pixels (0 to 255) are multiplied by `rescale_factor`, then normalised by mean and std; each step
    is done if its `do_...` is true. Old files leave out the settings that have their default.
    """
    factor = processor.get("rescale_factor") or 1 / 255
    if not isinstance(factor, (int, float)):
        raise InputError(f"its rescale_factor is {factor!r}, not a number")
    top = 255 * factor if processor.get("do_rescale", True) else 255.0
    top = 1.0 if abs(top - 1) < 1e-6 else top
    low = -1.0 if processor.get("rescale_offset") else 0.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    if processor.get("do_normalize", True):
        mean, std = (_three(processor, key) for key in ("image_mean", "image_std"))
    order = "BGR" if processor.get("do_flip_channel_order") else "RGB"
    return Preprocess(mean, std, channel_order=order, value_range=(low, low + top))


def _three(processor: Mapping[str, Any], key: str) -> tuple[float, ...]:
    value = processor.get(key)
    values: Sequence[Any] = value if isinstance(value, (list, tuple)) else [value] * 3
    if len(values) != 3 or not all(isinstance(v, (int, float)) for v in values):
        raise InputError(f"its {key} is {value!r}, not three numbers")
    return tuple(float(v) for v in values)


def read_json(file: Path) -> dict[str, Any] | None:
    """Returns a JSON file's object; None if there is no file.

    Raises:
        InputError: it is not a JSON object.
    """
    if not file.is_file():
        return None
    try:
        content = safe_json.read_json(file)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file}, next to the weights, is not JSON ({error}); {CORRECT}"
        ) from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise InputError(f"{file}, next to the weights, has a {kind}, not an object; {CORRECT}")
    return content


def _wants(config: Mapping[str, Any], **wanted: Any) -> None:
    """Raises InputError for unsupported settings that change what the network computes."""
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise InputError(f"{CONFIG} says {key} {config[key]!r}; only {value!r} is supported")


def _of_resnet(config: Mapping[str, Any]) -> dict[str, Any]:
    _wants(config, hidden_act="relu", downsample_in_first_stage=False, num_channels=3)
    return {"stride_in_1x1": True} if config.get("downsample_in_bottleneck") else {}


def _of_convnext(config: Mapping[str, Any]) -> dict[str, Any]:
    _wants(config, hidden_act="gelu", num_channels=3, patch_size=4)
    return {"last_norm_eps": float(config.get("layer_norm_eps", 1e-12))}


def _of_dinov3_convnext(config: Mapping[str, Any]) -> dict[str, Any]:
    _wants(config, hidden_act="gelu", num_channels=3, layer_norm_eps=1e-6)
    return {}


# By `model_type` of config.json: the function that reads facts that the tensors do not show.
ARCHITECTURES: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "resnet": _of_resnet,
    "convnext": _of_convnext,
    "convnextv2": _of_convnext,
    "dinov3_convnext": _of_dinov3_convnext,
}
