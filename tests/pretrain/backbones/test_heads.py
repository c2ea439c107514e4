"""Each head's layers, widths and biases against the authors' code, and lightly's heads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pretrain.backbones.heads import (
    PREDICTORS,
    PROJECTORS,
    HeadStyle,
    build_head,
    build_predictor,
    build_projector,
)
from pretrain.common.errors import InputError


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_layers_and_widths(layers: int) -> None:
    head = build_projector(12, hidden_dim=7, out_dim=5, layers=layers)
    linear = [module for module in head if isinstance(module, nn.Linear)]
    assert [m.in_features for m in linear] == [12] + [7] * (layers - 1)
    assert linear[-1].out_features == 5
    assert all(m.bias is None for m in linear)
    assert sum(isinstance(m, nn.BatchNorm1d) for m in head) == layers
    assert sum(isinstance(m, nn.ReLU) for m in head) == layers - 1


def test_last_norm_scales_but_does_not_shift() -> None:
    head = build_projector(6, hidden_dim=4, out_dim=3)
    assert head[-1].weight.requires_grad and not head[-1].bias.requires_grad
    out = head(torch.randn(16, 6, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(out.mean(0), torch.zeros(3), atol=1e-5, rtol=0)


def test_no_layers_is_refused() -> None:
    with pytest.raises(InputError, match="at least one layer"):
        build_projector(6, layers=0)


def described(head: nn.Sequential) -> list[str]:
    """One word a layer: widths, "+b" for a bias; "bn", "bn-shift" (no shift) or "bn-affine"."""
    words = []
    for layer in head:
        if isinstance(layer, nn.Linear):
            bias = "" if layer.bias is None else "+b"
            words.append(f"{layer.in_features}-{layer.out_features}{bias}")
        elif isinstance(layer, nn.BatchNorm1d):
            assert layer.eps == 1e-5 and layer.momentum == 0.1 and layer.track_running_stats
            shifts = layer.affine and layer.bias.requires_grad
            words.append("bn" if shifts else "bn-shift" if layer.affine else "bn-affine")
        else:
            words.append(type(layer).__name__.lower())
    return words


# 6 features, hidden layers of 7, outputs of 5; read off the authors' code.
AUTHORS_PROJECTORS: dict[tuple[str, int], str] = {
    # google-research/simclr tf2/model.py: "use_bias" is the norm's shift, the last layer has none
    ("simclr", 3): "6-7 bn relu 7-7 bn relu 7-5 bn-shift",
    ("simclr", 2): "6-7 bn relu 7-5 bn-shift",
    # facebookresearch/moco moco/builder.py: the ResNet's fc layer, and mlp=True
    ("moco", 1): "6-5+b",
    ("moco", 2): "6-7+b relu 7-5+b",
    # facebookresearch/moco-v3 moco/builder.py: _build_mlp(2, ...) of MoCo_ResNet
    ("moco_v3", 2): "6-7 bn relu 7-5 bn-affine",
    # facebookresearch/simsiam simsiam/builder.py; its last layer's bias is frozen
    ("simsiam", 3): "6-7 bn relu 7-7 bn relu 7-5 bn-affine",
    # google-deepmind/deepmind-research byol/utils/networks.py MLP
    ("byol", 2): "6-7+b bn relu 7-5",
    # facebookresearch/vicreg main_vicreg.py Projector
    ("vicreg", 3): "6-7+b bn relu 7-7+b bn relu 7-5",
    # facebookresearch/barlowtwins main.py
    ("barlow", 3): "6-7 bn relu 7-7 bn relu 7-5",
    # facebookresearch/msn src/msn_train.py init_model with use_bn
    ("msn", 3): "6-7+b bn gelu 7-7+b bn gelu 7-5+b",
}
AUTHORS_PREDICTORS = {
    "moco_v3": "5-4 bn relu 4-5",  # MoCo_ResNet; that of MoCo_ViT ends in a norm
    "simsiam": "5-4 bn relu 4-5+b",
    "byol": "5-4+b bn relu 4-5",
}


@pytest.mark.parametrize("style, layers", AUTHORS_PROJECTORS)
def test_projectors_are_the_authors(style: str, layers: int) -> None:
    head = build_projector(6, hidden_dim=7, out_dim=5, layers=layers, style=style)
    assert " ".join(described(head)) == AUTHORS_PROJECTORS[style, layers]


@pytest.mark.parametrize("style", AUTHORS_PREDICTORS)
def test_predictors_are_the_authors(style: str) -> None:
    head = build_predictor(5, hidden_dim=4, style=style)
    assert " ".join(described(head)) == AUTHORS_PREDICTORS[style]


def test_every_style_is_compared() -> None:
    assert {style for style, _ in AUTHORS_PROJECTORS} == set(PROJECTORS)
    assert set(AUTHORS_PREDICTORS) == set(PREDICTORS)


# by style: lightly's projection head, arguments, and where it differs from the authors' code
LIGHTLY: dict[str, tuple[str, tuple[int, ...], str]] = {
    "simclr": ("SimCLRProjectionHead", (6, 7, 5, 3), "6-7 bn relu 7-7 bn relu 7-5 bn"),
    "moco": ("MoCoProjectionHead", (6, 7, 5), "6-7+b relu 7-5+b"),
    "simsiam": ("SimSiamProjectionHead", (6, 7, 5), "6-7 bn relu 7-7 bn relu 7-5 bn-affine"),
    "byol": ("BYOLProjectionHead", (6, 7, 5), "6-7 bn relu 7-5+b"),
    "vicreg": ("VICRegProjectionHead", (6, 7, 5, 3), "6-7 bn relu 7-7 bn relu 7-5+b"),
    "barlow": ("BarlowTwinsProjectionHead", (6, 7, 5), "6-7 bn relu 7-7 bn relu 7-5+b"),
    "msn": ("MSNProjectionHead", (6, 7, 5), "6-7 bn gelu 7-7 bn gelu 7-5+b"),
}


@pytest.mark.parametrize("style", LIGHTLY)
def test_projectors_compute_what_lightlys_do(style: str) -> None:
    heads = pytest.importorskip(
        "lightly.models.modules.heads", reason="lightly (extra `test`) is not installed"
    )
    name, arguments, layout = LIGHTLY[style]
    theirs = getattr(heads, name)(*arguments).layers
    assert " ".join(described(theirs)) == layout, "lightly changed"
    layers = sum(isinstance(layer, nn.Linear) for layer in theirs)
    ours = build_projector(6, hidden_dim=7, out_dim=5, layers=layers, style=style)
    # A bias before a norm changes nothing in training; ours or lightly's last bias is set to 0,
    # as SimCLR's last shift is.
    ours.load_state_dict(theirs.state_dict(), strict=False)
    if "+b" not in described(ours)[-1] and "+b" in layout.split()[-1]:
        nn.init.zeros_(theirs[-1].bias)
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_unknown_styles_are_refused() -> None:
    with pytest.raises(InputError, match="unknown projector style 'simclrr'.*did you mean"):
        build_projector(6, style="simclrr")
    with pytest.raises(InputError, match="unknown predictor style 'vicreg'"):
        build_predictor(6, hidden_dim=4, style="vicreg")
    with pytest.raises(InputError, match="unknown last norm of a head 'batch'"):
        build_head([6, 5], HeadStyle(last_norm="batch"))
    with pytest.raises(InputError, match=r"at least one layer, got widths \[6\]"):
        build_head([6], HeadStyle())
