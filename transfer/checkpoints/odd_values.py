"""Checks values that no trained network has: errors for invalid ones, warnings for unusual ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pretrain.common.errors import InputError
from transfer.checkpoints.networks.architectures import shorten

BROKEN = "the training diverged or a copy failed; give an earlier checkpoint, or copy it again"


def check_values(state: Mapping[str, Tensor], where: str) -> tuple[str, ...]:
    """Checks every tensor of a canonical state.

    Returns: warnings, each of which names the statistic and its tensors.

    Raises:
        InputError: NaN or infinite values, a negative running variance, or nothing but zeros.
    """
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise InputError(f"{where}: NaN or infinite values in {shorten(broken)}; {BROKEN}")
    matrices = [t for name, t in state.items() if name.endswith(".weight") and t.dim() > 1]
    if matrices and not any(tensor.any() for tensor in matrices):
        raise InputError(
            f"{where}: all weights are 0: the network was saved before its weights were loaded, or "
            "a copy failed; save or copy it again"
        )
    variances = {name: t for name, t in state.items() if name.endswith("running_var")}
    negative = [name for name, tensor in variances.items() if (tensor < 0).any()]
    if negative:
        raise InputError(f"{where}: negative BN running variance in {shorten(negative)}; {BROKEN}")
    warnings = []
    zero = [name for name, tensor in variances.items() if (tensor == 0).any()]
    if zero:
        warnings.append(f"BN running variance is 0 (dead channels) in {shorten(zero)}")
    means = [tensor for name, tensor in state.items() if name.endswith("running_mean")]
    untouched = variances and all((t == 1).all() for t in variances.values())
    if untouched and not any(mean.any() for mean in means):
        warnings.append("BN running mean is 0 and variance 1 everywhere: an untrained network")
    scales = [t for name, t in state.items() if name.endswith(".weight") and t.dim() == 1]
    shifts = [t for name, t in state.items() if name.endswith(".bias")]
    if all((t == 1).all() for t in scales) and not any(t.any() for t in shifts):
        warnings.append("norm weights are 1 and all biases 0: weights at their initialisation")
    constant = [name for name, t in state.items() if t.dim() == 4 and float(t.std()) == 0]
    if constant:
        warnings.append(f"convolution weights are constant (std 0) in {shorten(constant)}")
    return tuple(warnings)
