"""Backbones by name: ours, timm's ConvNets and ViTs, their widths, and what is refused."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from pretrain.backbones.build import build_backbone, check_backbone_name
from pretrain.backbones.resnet import Trunk
from pretrain.common.errors import InputError


@pytest.mark.parametrize(
    "name, width",
    [
        ("tiny_resnet", 128),
        ("resnet18", 512),
        ("resnet10t", 512),
        ("convnext_atto", 320),
        ("regnetx_002", 368),
        ("mobilenetv3_small_050", 1024),  # 288 maps, and a layer behind the pooling
        ("mambaout_femto", 1152),
        ("vit_tiny_patch16_224", 192),
    ],
)
def test_out_dim_is_the_width_of_the_output(name: str, width: int) -> None:
    with torch.device("meta"):
        trunk = build_backbone(name, image_size=64).eval()
        assert trunk(torch.empty(2, 3, 64, 64)).shape == (2, trunk.out_dim) == (2, width)


def test_names_of_ours_are_ours() -> None:
    assert isinstance(build_backbone("resnet18"), Trunk)
    plain, zero = build_backbone("resnet18"), build_backbone("resnet18", zero_init_residual=True)
    assert plain.layer1[0].bn2.weight.all() and not zero.layer1[0].bn2.weight.any()


def test_timms_trunk_is_timms_model_without_classifier() -> None:
    torch.manual_seed(0)
    ours = build_backbone("resnet10t").eval()
    theirs = timm.create_model("resnet10t", num_classes=7).eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        pooled = theirs.forward_features(images).mean(dim=(2, 3))
        torch.testing.assert_close(ours(images), pooled, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, nn.Linear) for module in ours.modules())


def test_vits_are_made_for_the_views_and_take_others() -> None:
    torch.manual_seed(0)
    vit = build_backbone("vit_tiny_patch16_224", image_size=32, patch_size=8).eval()
    assert vit.patch_embed.patch_size == (8, 8) and vit.pos_embed.shape == (1, 1 + 16, 192)
    assert all(vit(torch.randn(1, 3, side, side)).shape == (1, 192) for side in (32, 16, 40))
    own = build_backbone("test_vit", image_size=64)
    assert own.patch_embed.patch_size == (16, 16) and own.pos_embed.shape == (1, 1 + 16, 64)


@pytest.mark.parametrize(
    "options, match",
    [
        ({"name": "vit_tiny_patch16"}, "unknown backbone.*did you mean .*'vit_tiny_patch16_224'"),
        ({"name": "resnet19"}, "BACKBONE.NAME; known: resnet101.*timm's models .did you mean"),
        ({"name": "convnext_atto", "patch_size": 8}, "PATCH_SIZE 8 is for ViTs, but convnext_atto"),
    ],
)
def test_bad_settings_are_refused(options: dict, match: str) -> None:
    with pytest.raises(InputError, match=match):
        build_backbone(**options)


def test_known_names_pass() -> None:
    for name in ("tiny_resnet", "resnet50", "convnext_tiny", "vit_small_patch16_224"):
        check_backbone_name(name)
    with pytest.raises(InputError, match="unknown backbone 'nothing'"):
        check_backbone_name("nothing")
