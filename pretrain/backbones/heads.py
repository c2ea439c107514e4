"""Heads on the trunk's pooled features: (N, in_dim) to (N, out_dim)."""

from __future__ import annotations

from torch import nn


def build_projector(
    in_dim: int, *, hidden_dim: int = 2048, out_dim: int = 128, layers: int = 3
) -> nn.Sequential:
    """SimCLR's projector: `layers` times (linear, batch norm), a ReLU after each but the last.

    3 layers is SimCLR v2, 2 layers v1. No linear bias anywhere (batch norm removes it); the last
    batch norm learns a scale but no shift (google-research/simclr, tf2/model.py:
    `center=use_bias`). Raises ValueError for layers < 1.
    """
    if layers < 1:
        raise ValueError(f"a projector needs at least one layer, got {layers}")
    widths = [in_dim] + [hidden_dim] * (layers - 1) + [out_dim]
    modules: list[nn.Module] = []
    for width_in, width_out in zip(widths[:-2], widths[1:-1]):
        modules += [nn.Linear(width_in, width_out, bias=False), nn.BatchNorm1d(width_out)]
        modules += [nn.ReLU(inplace=True)]
    last_norm = nn.BatchNorm1d(out_dim)
    # Kept as a constant zero rather than removed: the layer stays a plain BatchNorm1d, which SyncBN
    # conversion knows.
    last_norm.bias.requires_grad_(False)
    return nn.Sequential(*modules, nn.Linear(widths[-2], out_dim, bias=False), last_norm)
