"""The number formats of features: one for the backbone's forward pass, one for storage.

`auto` in a config means formats that depend on the machine. They are chosen before anything is
recorded, so a record says which formats were used.
"""

from __future__ import annotations

import torch
from fvcore.common.config import CfgNode

from pretrain.common.lookup import find
from pretrain.common.precision import amp_dtype

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS, STORAGES = ("auto", *DTYPES), ("auto", "fp32", "fp16")


def choose_formats(precision: str, storage: str, device: torch.device) -> tuple[str, str]:
    """Returns the formats that `auto` means on this device; other names stay as they are.

    Forward passes are bf16 on CUDA, or fp16 if the GPU has no bf16, and fp32 elsewhere. Features of
    bf16 and fp16 passes are kept in fp16, because the rounding of the pass (2^-8 in bf16) is not
    finer than fp16's (2^-11). Features of fp32 passes are kept in fp32.

    Raises:
        InputError: the name of a format is unknown.
    """
    find(precision, dict.fromkeys(PRECISIONS), "precision", "FEATURES.PRECISION")
    find(storage, dict.fromkeys(STORAGES), "storage", "FEATURES.STORAGE")
    if precision == "auto":
        dtype = amp_dtype(device)
        precision = next((name for name, known in DTYPES.items() if known is dtype), "fp32")
    if storage == "auto":
        storage = "fp32" if precision == "fp32" else "fp16"
    return precision, storage


def with_formats(cfg: CfgNode, device: torch.device) -> CfgNode:
    """Returns a copy of the config in which FEATURES has the formats used on this device."""
    cfg = cfg.clone()
    cfg.defrost()
    node = cfg.FEATURES
    node.PRECISION, node.STORAGE = choose_formats(node.PRECISION, node.STORAGE, device)
    cfg.freeze()
    return cfg
