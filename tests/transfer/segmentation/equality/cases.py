"""Segmenters on which this project and mmsegmentation must agree, without stored data.

A case names a shipped config of each project, with smaller networks, so that heads, weights of
losses and dropout are those of the files. Weights and images are uniform draws of numpy, from names
and seeds, which give the same numbers on every machine.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tests.transfer.detection.equality.runs import sketch

CLASSES = 7
IGNORE = 255  # of a mask's pixel
CROP, STRIDE = 64, 43  # px
LARGE = (70, 93)  # px, a test image of several windows
THINNED = 5  # a golden file keeps the scores of every fifth row and column


class Case(NamedTuple):
    """Two configs of one protocol.

    Attributes:
        ours: our config and its overrides. theirs: mmsegmentation's config, below its configs/.
        changes: what is merged into its `model`. whole: height and width of a test image that is
            scored at once.
    """

    ours: tuple[str, ...]
    theirs: str
    changes: Mapping[str, Any]
    whole: tuple[int, int] = LARGE


def _heads(channels: int, widths: Any, aux_width: int, aux_channels: int) -> dict[str, Any]:
    batch_norm = {"type": "BN", "requires_grad": True}  # SyncBN needs a GPU there
    common = {"num_classes": CLASSES, "norm_cfg": batch_norm}
    return {
        "decode_head": {**common, "channels": channels, "in_channels": widths},
        "auxiliary_head": {**common, "channels": aux_channels, "in_channels": aux_width},
    }


_SMALLER = f"TRANSFER.SEMANTIC.NUM_CLASSES {CLASSES} TRANSFER.SEMANTIC.CROP_SIZE {CROP} "
_HEADS = _SMALLER + "TRANSFER.SEMANTIC.HEAD_CHANNELS 12 "
_PLAIN = {"type": "ResNet", "norm_cfg": {"type": "BN", "requires_grad": True}}  # the 7x7 stem
_UPERNET = "upernet/upernet_r50_4xb4-160k_ade20k-512x512.py"
_FCN = "fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py"
_R18 = _HEADS + "TRANSFER.SEMANTIC.AUX_CHANNELS 6 MODEL.RESNETS.DEPTH 18 "
_R18 += "MODEL.RESNETS.RES2_OUT_CHANNELS 64"
_R18_MODEL = {"backbone": {**_PLAIN, "depth": 18}, **_heads(12, [64, 128, 256, 512], 256, 6)}
_VIT = {"img_size": (CROP, CROP), "embed_dims": 192, "num_heads": 3, "drop_path_rate": 0.0}

CASES = {
    "upernet_resnet": Case(("ade20k_upernet_resnet.yaml", *_R18.split()), _UPERNET, _R18_MODEL),
    "upernet_vit": Case(
        (
            "ade20k_upernet_mae.yaml",
            *(_HEADS + "TRANSFER.SEMANTIC.AUX_CHANNELS 6").split(),
            *("MODEL.BACKBONE.NAME", f"vit_tiny_patch16_{CROP}"),
            *("TRANSFER.SEMANTIC.DROP_PATH", "0.0"),  # the two draw from the generator differently
            *("TRANSFER.SEMANTIC.WINDOW_STRIDE", "0"),
        ),
        "mae/mae-base_upernet_8xb2-amp-160k_ade20k-512x512.py",
        {
            "backbone": _VIT,
            "neck": {"embed_dim": 192, "norm_cfg": {"type": "BN", "requires_grad": True}},
            **_heads(12, [192] * 4, 192, 6),
        },
        whole=(CROP, CROP),
    ),
    "fcn_d8": Case(
        ("voc12aug_fcn_d8.yaml", *(_HEADS + "TRANSFER.SEMANTIC.AUX_CHANNELS 6").split()),
        _FCN,
        {"backbone": _PLAIN, **_heads(12, 2048, 1024, 6)},
    ),
    # MoCo's has no counterpart there, but mmsegmentation's parts can be set to it.
    "fcn_moco": Case(
        ("voc12aug_fcn.yaml", *_HEADS.split()),
        _FCN,
        {
            "backbone": {
                **_PLAIN,
                "strides": (1, 2, 2, 1),
                "dilations": (1, 1, 1, 2),
                "contract_dilation": False,
            },
            "decode_head": {
                **_heads(12, 2048, 1024, 6)["decode_head"],
                "dilation": 6,
                "concat_input": False,
                "dropout_ratio": 0.0,
                "align_corners": True,
                "loss_decode": {"avg_non_ignore": True},
            },
            "auxiliary_head": None,
        },
    ),
}
SLOW = ("fcn_moco",)  # compared with mmsegmentation only, without a golden file


class Run(NamedTuple):
    """What one side computed for one case; names of tensors are ours.

    Attributes:
        whole: (1, K, h, w), scores of an image at once. windows: of LARGE, in windows. losses: by
            name. gradients: by parameter. statistics: of batch norms, after the step in training.
    """

    whole: Tensor
    windows: Tensor
    losses: dict[str, Tensor]
    gradients: dict[str, Tensor]
    statistics: dict[str, Tensor]


def images(case: str) -> tuple[Tensor, Tensor]:
    """Two test images uint8 (3, h, w): one that is scored at once, one in windows."""
    rng = np.random.default_rng(3)
    height, width = CASES[case].whole
    return (
        torch.from_numpy(rng.integers(0, 256, (3, height, width), np.uint8)),
        torch.from_numpy(rng.integers(0, 256, (3, *LARGE), np.uint8)),
    )


def training_batch() -> list[tuple[Tensor, Tensor]]:
    """Images uint8 (3, h, w) and masks uint8 (h, w): one of the size of a crop, one smaller."""
    rng = np.random.default_rng(4)
    batch = []
    for height, width in ((CROP, CROP), (47, 61)):
        mask = rng.integers(0, CLASSES, (height, width), np.uint8)
        mask[rng.random((height, width)) < 0.2] = IGNORE
        pixels = rng.integers(0, 256, (3, height, width), np.uint8)
        batch.append((torch.from_numpy(pixels), torch.from_numpy(mask)))
    return batch


def make_state(model: nn.Module) -> dict[str, Tensor]:
    """Weights for a state dict of ours, with maps of size one, and norms that all differ."""
    norms = {n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d | nn.LayerNorm)}
    state = {}
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            state[name] = torch.zeros_like(value)
            continue
        owner, kind = name.rpartition(".")[::2]
        if owner in norms:
            low, high = (0.5, 1.5) if kind in ("weight", "running_var") else (-0.2, 0.2)
        elif value.dim() == 1 or name.startswith(("backbone.pos_", "backbone.cls_")):
            low, high = -0.1, 0.1
        else:
            high = math.sqrt(3.0 / math.prod(value.shape[1:]))
            low = -high
        draw = np.random.default_rng(zlib.crc32(name.encode())).random(value.shape)
        state[name] = torch.from_numpy((low + (high - low) * draw).astype(np.float32))
    return state


def condense(run: Run) -> dict[str, np.ndarray]:
    """A run in a few kilobytes: what the golden files hold."""
    small = {f"losses/{name}": value.detach().numpy() for name, value in run.losses.items()}
    for part in ("whole", "windows"):
        small[part] = getattr(run, part)[..., ::THINNED, ::THINNED].numpy()
    for part in ("gradients", "statistics"):
        tensors = getattr(run, part)
        small[f"{part}/names"] = np.array(sorted(tensors), dtype=np.str_)
        small[f"{part}/sketch"] = sketch(tensors)
    return small
