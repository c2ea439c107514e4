"""The dtype of mixed precision on a device, for training and for extracting features."""

from __future__ import annotations

import torch

NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16"}


def amp_dtype(device: torch.device) -> torch.dtype | None:
    """Returns bfloat16 on a GPU that supports it, float16 on an older GPU, None (float32)
    otherwise.

    GPUs before Ampere (T4, RTX 20, V100) accept bfloat16 without an error, but emulate it: their
    convolutions do not use cuDNN and tensor cores then. With float16, gradients have to be scaled,
    because its smallest number is 6e-8.
    """
    if device.type != "cuda":
        return None
    with torch.cuda.device(device):
        whole = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if whole else torch.float16


def describe_precision(dtype: torch.dtype | None) -> str:
    """Returns one clause for a log."""
    if dtype is torch.float16:
        return "fp16 with scaled gradients, because this GPU has no bf16"
    return NAMES[dtype] if dtype is not None else "fp32"


def allow_tf32(device: torch.device, key: str = "SOLVER.TF32") -> str:
    """Allows TF32 for the float32 matrix products of this process on a GPU: their factors are
    rounded. PyTorch already does so by default for convolutions in float32.

    Returns one clause for a log. It has no effect on a CPU, and on GPUs before Ampere. It uses
    PyTorch's function for all interfaces: if only CUDA's products are set, torch.compile raises an
    error when it reads the older setting.

    Args:
        key: the config key that asks for it.
    """
    if device.type != "cuda":
        return f"{key} has no effect on this device, which computes in full float32"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return f"{key} has no effect on this GPU, which has no TF32"
    torch.set_float32_matmul_precision("high")
    return "float32 matrix products round their factors to TF32"
