"""Writes canonical weights atomically, in the layout that the suffix of the file names.

`.pkl` is Detectron2's (of a ViT, ViTDet's), `.pth` torchvision's (a ViT's: timm's) flat state_dict,
`.safetensors` the same names there.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
from torch import Tensor

from pretrain.backbones.resnet import BACKBONES
from pretrain.common.checkpoint import atomic_write, save_weights
from pretrain.common.errors import InputError
from transfer.checkpoints.names.layouts import to_layout
from transfer.checkpoints.networks.vit_architectures import parse_vit, vitdet_lacks
from transfer.checkpoints.weights import Weights, facts_of

# by suffix: layout of a ResNet, of a ViT, of timm's ConvNets (None: not possible)
LAYOUTS = {
    ".pkl": ("detectron2", "vitdet", None),
    ".pth": ("torchvision", "timm", "timm"),
    ".safetensors": ("torchvision", "timm", "timm"),
}


def layout_of(path: str | Path, backbone: str) -> str:
    """Returns the layout that the suffix of a file name means.

    Raises:
        InputError: an unknown suffix, or one that is not possible for this backbone.
    """
    suffix = Path(path).suffix
    if suffix not in LAYOUTS:
        known = ", ".join(LAYOUTS)
        raise InputError(f"{path}: the suffix names the layout; {suffix!r} is not one of {known}")
    layout = LAYOUTS[suffix][_kind(backbone)]
    lacks = vitdet_lacks(backbone)
    if layout == "vitdet" and lacks:
        raise InputError(
            f"{path} cannot become ViTDet's .pkl: a {backbone} has {lacks}, but ViTDet does not; "
            f"write {' or '.join(suffixes_of(backbone))}"
        )
    if layout is None:
        raise InputError(
            f"{path}: a {backbone} is not written for Detectron2, whose detectors here have "
            f"ResNets and ViTs; give {' or '.join(suffixes_of(backbone))}"
        )
    return layout


def suffixes_of(backbone: str) -> list[str]:
    """Returns the suffixes with which a backbone can be written."""
    layouts = {suffix: kinds[_kind(backbone)] for suffix, kinds in LAYOUTS.items()}
    left_out = (None, "vitdet") if vitdet_lacks(backbone) else (None,)
    return [suffix for suffix, layout in layouts.items() if layout not in left_out]


def _kind(backbone: str) -> int:
    return 0 if backbone in BACKBONES else 1 if parse_vit(backbone) else 2


def write_weights(weights: Weights, path: str | Path) -> None:
    """Writes weights with their facts, by suffix.

    Raises:
        InputError: unknown suffix.
    """
    tensors = to_layout(weights.state, layout_of(path, weights.backbone))
    WRITERS[Path(path).suffix](Path(path), tensors, facts_of(weights))


def _write_pth(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    save_weights(path, tensors, facts)


def _write_safetensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    text = {"format": "pt", "transfer": json.dumps(facts, sort_keys=True)}
    content = safetensors.torch.save(dict(tensors), metadata=text)
    atomic_write(path, lambda file: file.write(content))


def _write_pkl(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    content = {
        "model": {name: tensor.contiguous().numpy() for name, tensor in tensors.items()},
        "__author__": "mscn",  # without this key Detectron2 takes the file for Caffe2's
        "matching_heuristics": True,  # with this key it adds `backbone.` or `backbone.bottom_up.`
        "transfer": json.dumps(facts, sort_keys=True),
    }
    atomic_write(path, lambda file: _ArrayPickler(file, protocol=5).dump(content))


class _ArrayPickler(pickle.Pickler):
    """Pickles an array as a call of `numpy.ndarray`, a name that every numpy has.

    numpy's own pickles name `numpy._core`, which the numpy 1 of many Detectron2 set-ups lacks.
    """

    def __init__(self, file: BinaryIO, protocol: int) -> None:
        super().__init__(file, protocol=protocol)

    def reducer_override(self, value: Any) -> Any:
        """Returns (callable, arguments) for arrays; everything else as usual."""
        if not isinstance(value, np.ndarray):
            return NotImplemented
        # A bytearray keeps the array writable, which torch.from_numpy wants.
        data = bytearray(np.ascontiguousarray(value).data.cast("B") if value.size else b"")
        return np.ndarray, (value.shape, value.dtype.str, data)


WRITERS: dict[str, Callable[[Path, Mapping[str, Tensor], Mapping[str, Any]], None]] = {
    ".pkl": _write_pkl,
    ".pth": _write_pth,
    ".safetensors": _write_safetensors,
}
