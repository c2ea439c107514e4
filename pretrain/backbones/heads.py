"""Heads on the trunk's pooled features: (N, in_dim) to (N, out_dim).

A style says where a method's authors put batch norms and biases; widths come from the config.
Weights are initialised like torch's linear layers. The authors of SimCLR (normal, 0.01) and BYOL
(truncated normal, 1 / sqrt(inputs)) initialise differently. MSN initialises its projector itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from pretrain.common.errors import InputError
from pretrain.common.lookup import find

# What follows the last linear layer. none: nothing; scale: a batch norm whose shift is fixed at 0
# (SimCLR's `center=False`); plain: a batch norm without affine parameters.
LAST_NORMS = ("none", "scale", "plain")


@dataclass(frozen=True)
class HeadStyle:
    """Describes an MLP's layers: (linear, norm, activation) for each hidden width, then a linear
    layer.

    hidden_norm: batch norm after each hidden linear layer.
    hidden_bias, last_bias: biases of the linear layers.
    last_norm: one of LAST_NORMS.
    """

    hidden_norm: bool = True
    hidden_bias: bool = False
    last_bias: bool = False
    last_norm: str = "none"
    activation: Callable[[], nn.Module] = nn.ReLU


PROJECTORS: dict[str, HeadStyle] = {
    # google-research/simclr tf2/model.py ProjectionHead: BN on every layer, no shift on the last
    "simclr": HeadStyle(last_norm="scale"),
    # facebookresearch/moco moco/builder.py: one linear layer (v1) or two without BN (v2)
    "moco": HeadStyle(hidden_norm=False, hidden_bias=True, last_bias=True),
    # facebookresearch/moco-v3 moco/builder.py _build_mlp
    "moco_v3": HeadStyle(last_norm="plain"),
    # facebookresearch/simsiam simsiam/builder.py (its last bias is frozen before a BN; we omit it)
    "simsiam": HeadStyle(last_norm="plain"),
    # deepmind-research byol/utils/networks.py MLP
    "byol": HeadStyle(hidden_bias=True),
    # facebookresearch/vicreg main_vicreg.py Projector
    "vicreg": HeadStyle(hidden_bias=True),
    # facebookresearch/barlowtwins main.py
    "barlow": HeadStyle(),
    # facebookresearch/msn src/msn_train.py init_model
    "msn": HeadStyle(hidden_bias=True, last_bias=True, activation=nn.GELU),
}
PREDICTORS: dict[str, HeadStyle] = {
    "moco_v3": HeadStyle(),
    "simsiam": HeadStyle(last_bias=True),
    "byol": HeadStyle(hidden_bias=True),
}


def build_head(widths: Sequence[int], style: HeadStyle) -> nn.Sequential:
    """Returns an MLP with `widths` (input, hidden ..., output) features. InputError for less than
    two.
    """
    if len(widths) < 2:
        raise InputError(f"a head needs at least one layer, got widths {list(widths)}")
    find(style.last_norm, dict.fromkeys(LAST_NORMS), "last norm of a head")
    modules: list[nn.Module] = []
    for width_in, width_out in zip(widths[:-2], widths[1:-1]):
        modules.append(nn.Linear(width_in, width_out, bias=style.hidden_bias))
        if style.hidden_norm:
            modules.append(nn.BatchNorm1d(width_out))
        modules.append(style.activation())
    modules.append(nn.Linear(widths[-2], widths[-1], bias=style.last_bias))
    if style.last_norm != "none":
        norm = nn.BatchNorm1d(widths[-1], affine=style.last_norm == "scale")
        if style.last_norm == "scale":
            # The bias stays as a constant zero, so the layer is still a plain BatchNorm1d, which
            # the conversion to SyncBN supports.
            norm.bias.requires_grad_(False)
        modules.append(norm)
    return nn.Sequential(*modules)


def build_projector(
    in_dim: int,
    *,
    hidden_dim: int = 2048,
    out_dim: int = 128,
    layers: int = 3,
    style: str = "simclr",
) -> nn.Sequential:
    """Returns a projector of `layers` linear layers in the style of PROJECTORS.

    SimCLR v2 has 3 layers, v1 has 2; MoCo v1 has 1. InputError for layers < 1 or an unknown style.
    """
    if layers < 1:
        raise InputError(f"a projector needs at least one layer, got {layers}")
    widths = [in_dim] + [hidden_dim] * (layers - 1) + [out_dim]
    return build_head(widths, find(style, PROJECTORS, "projector style"))


def build_predictor(dim: int, *, hidden_dim: int, style: str) -> nn.Sequential:
    """Returns a predictor from dim over hidden_dim to dim, in a style of PREDICTORS.

    Raises InputError if the style is unknown.
    """
    return build_head([dim, hidden_dim, dim], find(style, PREDICTORS, "predictor style"))
