"""What OpenMMLab's checkpoints say about their network and its input.

The config that the runner stores (`mm_config`) names the ResNet's `style`: 'caffe' strides in the
first 1x1 convolution of a bottleneck, 'pytorch' in the 3x3 (mmdet models/backbones/resnet.py). It
also has the pixel statistics: mmengine's data preprocessors, or a `Normalize` of the pipeline.
Images are loaded as BGR on 0 to 255; `to_rgb` and `bgr_to_rgb` turn them before the statistics are
applied (mmengine model/base_model/data_preprocessor.py, mmcv image/photometric.py). Pipelines that
load RGB by Pillow and end in `ToTensor` have statistics on 0 to 1 (OpenSelfSup, mmselfsup 0.x).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pretrain.common.errors import InputError
from pretrain.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from transfer.checkpoints.formats.facebookresearch import heads_of_moco_v3
from transfer.checkpoints.formats.mm_config import mappings, stored_config
from transfer.checkpoints.provenance import Facts, stated

_PREPROCESSORS = ("data_preprocessor", "preprocess_cfg")
_NORMS = ("img_norm_cfg", "img_norm")
_STORED = re.compile(r"(?:.*\.)?data_preprocessor\.(mean|std)")
ASSUMED = "RGB in [0, 1] with ImageNet's mean and std is assumed"
NO_STYLE = (
    "style='pytorch' is assumed; a model of style='caffe' strides in its first 1x1 convolutions "
    "and computes something different"
)
NO_CONFIG = f"the file stores no config of its model: {ASSUMED}, and {NO_STYLE}"


def facts_of_mm(content: Mapping[str, Any]) -> Facts:
    """Returns method, epochs, stride and pixel statistics, each from the config or the tensors."""
    state = content.get("state_dict")
    state = state if isinstance(state, Mapping) else {}
    config = stored_config(content)
    backbone = _backbone(config)
    preprocess, warnings = _preprocess(config, state)
    architecture: dict[str, Any] = {}
    if any(str(name).startswith("momentum_encoder.") for name in state):
        architecture |= heads_of_moco_v3(state, "backbone.cls_token")
    bottlenecks = any(str(name).endswith("layer1.0.conv3.weight") for name in state)
    if bottlenecks and _is_caffe(backbone):
        architecture["stride_in_1x1"] = True
    unknown = bottlenecks and not backbone
    if preprocess is None and unknown:
        warnings += (NO_CONFIG,)
    elif preprocess is None and not config:
        warnings += (f"the file stores no config of its model: {ASSUMED}",)
    elif preprocess is None:
        usual = "; models of style='caffe' usually take BGR" if _is_caffe(backbone) else ""
        warnings += (f"the file's config states no pixel statistics: {ASSUMED}{usual}",)
    elif unknown:
        warnings += (f"the file stores no config of its model: {NO_STYLE}",)
    return stated(
        _method(config),
        preprocess or Preprocess(),
        epoch=("meta", "epoch"),
        architecture=architecture,
        warnings=(*warnings, *_other_strides(backbone)),
    )(content)


def _model(config: Mapping[str, Any]) -> Mapping[str, Any]:
    model = config.get("model")
    return model if isinstance(model, Mapping) else {}


def _method(config: Mapping[str, Any]) -> str | None:
    name = _model(config).get("type")
    return name.rpartition(".")[2].lower() if isinstance(name, str) else None


def _backbone(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the backbone's part of the config, at any depth of the model (detectors in
    students).
    """
    for part in mappings(_model(config)):
        if isinstance(part.get("backbone"), Mapping):
            return part["backbone"]
    return {}


def _is_caffe(backbone: Mapping[str, Any]) -> bool:
    return backbone.get("style") == "caffe"


def _other_strides(backbone: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns a warning about strides and dilations (of segmentation), which no tensor shows."""
    found = []
    for key, usual in (("strides", [1, 2, 2, 2]), ("dilations", [1, 1, 1, 1])):
        value = backbone.get(key)
        if isinstance(value, (list, tuple)) and list(value) != usual[: len(value)]:
            found.append(f"{key} {tuple(value)}")
    if not found:
        return ()
    return (f"the file's config has {' and '.join(found)}: this ResNet is built with the usual",)


def _preprocess(
    config: Mapping[str, Any], state: Mapping[str, Any]
) -> tuple[Preprocess | None, tuple[str, ...]]:
    """Returns the input's statistics (None if the file has none), and warnings."""
    entry, loaded_bgr = _statistics(config)
    statistics = _stored(state) or _mean_and_std(entry)
    if statistics is None:
        return None, ()
    mean, std = statistics
    order, warnings = _order(entry, loaded_bgr, mean)
    unit = _is_unit(mean, std, loaded_bgr)
    try:
        made = Preprocess(mean, std, order, (0.0, 1.0) if unit else (0.0, 255.0))
    except InputError as error:
        return None, (f"the file's pixel statistics are not usable: {error}",)
    return _as_usual(made), warnings


def _statistics(config: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, bool]:
    """Returns the part of the config with `mean` and `std`, and whether images are loaded as
    BGR.
    """
    for place in (_model(config), config):
        for key in _PREPROCESSORS:
            entry = place.get(key)
            if _mean_and_std(entry):
                return entry, True
    named = [config.get(key) for key in _NORMS]
    steps = [one for one in mappings(config) if str(one.get("type")).endswith("Normalize")]
    for step in (*named, *steps):
        statistics = _mean_and_std(step)
        if step is not None and statistics is not None:
            pillow = "to_rgb" not in step and any(
                one.get("type") == "ToTensor" for one in mappings(config)
            )
            # `Normalize` turns BGR into RGB unless it is told not to.
            return {"to_rgb": True, **step}, not (pillow or max(statistics[0]) <= 1.0)
    return None, True


def _mean_and_std(entry: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Returns mean and std, if the entry is a mapping with three numbers for each."""
    if not isinstance(entry, Mapping):
        return None
    mean, std = _three(entry.get("mean")), _three(entry.get("std"))
    return None if mean is None or std is None else (mean, std)


def _three(value: Any) -> tuple[float, ...] | None:
    """Returns three numbers; None for anything else."""
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        return None
    if not all(isinstance(one, (int, float)) for one in value):
        return None
    return tuple(float(one) for one in value)


def _stored(state: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Returns mean and std from the buffers `data_preprocessor.mean` and `.std`."""
    found = {}
    for name, value in state.items():
        match = _STORED.fullmatch(str(name))
        if match and isinstance(value, Tensor) and value.numel() == 3:
            found[match[1]] = tuple(float(f"{one:.6g}") for one in value.flatten().tolist())
    return (found["mean"], found["std"]) if len(found) == 2 else None


def _order(
    entry: Mapping[str, Any] | None, loaded_bgr: bool, mean: tuple[float, ...]
) -> tuple[str, tuple[str, ...]]:
    """Returns the channel order of the network's input, and a warning if it is a guess."""
    if entry is None:
        order = "BGR" if mean[0] < mean[2] else "RGB"
        return order, (f"the file states no channel order: {order}, by the order of its mean",)
    if not loaded_bgr or entry.get("to_rgb") or entry.get("bgr_to_rgb"):
        return "RGB", ()
    if entry.get("rgb_to_bgr"):
        return "BGR", ("the config says rgb_to_bgr: the network's input is taken to be BGR",)
    return "BGR", ()


def _is_unit(mean: tuple[float, ...], std: tuple[float, ...], loaded_bgr: bool) -> bool:
    """Returns whether the statistics are on 0 to 1, and not on 0 to 255."""
    if any(mean):
        return max(mean) <= 1.0
    return max(std) <= 1.0 and not loaded_bgr


def _as_usual(made: Preprocess) -> Preprocess:
    """Returns ImageNet's usual statistics on 0 to 1 for the same statistics on 0 to 255."""
    scale = made.value_range[1]
    pairs = zip((*made.mean, *made.std), (*IMAGENET_MEAN, *IMAGENET_STD))
    same = all(abs(own / scale - usual) < 1e-6 for own, usual in pairs)
    return Preprocess() if same and made.channel_order == "RGB" else made
