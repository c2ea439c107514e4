"""timm's ConvNets under a pyramid: the maps equal timm's, norms and parts can be fixed."""

from __future__ import annotations

import re
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from pretrain.common.errors import InputError
from tests.transfer.detection.specs import FPN, LEVELS, make_detector, make_spec
from transfer.detection.torchvision_engine.batchnorm import BATCH_NORMS, use_kernels
from transfer.detection.torchvision_engine.timm_convnet import (
    TimmConvNet,
    TimmConvNetSpec,
    layout_of,
)

STAGES = ("res2", "res3", "res4", "res5")
NAMES = ("convnext_atto", "regnetx_002", "resnet18d", "tf_efficientnet_lite0")


def build(name: str, **changes: Any) -> TimmConvNet:
    fields = {"norm": "BN", "freeze_at": 0, "drop_path": 0.0, "out_norm": False}
    spec = TimmConvNetSpec(**{**fields, "name": name, "out_features": STAGES, **changes})
    torch.manual_seed(3)
    net = spec.build()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net


def timms_maps(name: str, state: dict[str, Tensor], images: Tensor) -> list[Tensor]:
    """What timm's wrapper that returns features gives; it renames the stages."""
    info = timm.create_model(name, features_only=True).feature_info
    places = [place for place, stride in enumerate(info.reduction()) if stride >= 4]
    model = timm.create_model(name, features_only=True, out_indices=places).eval()
    own = set(model.state_dict())
    renamed = {
        key if key in own else re.sub(r"^(stages|stem)\.(\d)\.", r"\1_\2.", key): value
        for key, value in state.items()
    }
    model.load_state_dict(renamed)
    with torch.no_grad():
        return model(images)


@pytest.mark.parametrize("name", NAMES)
def test_the_maps_are_timms(name: str) -> None:
    net = build(name).eval()
    images = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        maps = net(images)
    expected = timms_maps(name, net.network.state_dict(), images)
    assert list(maps) == list(STAGES)
    for stage, theirs in zip(STAGES, expected):
        assert torch.equal(maps[stage], theirs), stage
        stride = net.strides[stage]
        assert maps[stage].shape == (2, net.channels[stage], 96 // stride, 64 // stride)
    some = build(name, out_features=("res3", "res5")).eval()
    with torch.no_grad():
        assert list(some(images)) == ["res3", "res5"]


@pytest.mark.parametrize("norm", BATCH_NORMS)
@pytest.mark.parametrize("name", ["regnetx_002", "tf_efficientnet_lite0"])
def test_every_norm_computes_what_timms_does_and_keeps_its_names(name: str, norm: str) -> None:
    """The activations of these networks are inside timm's norms."""
    plain = build(name).eval()
    net = build(name, norm=norm)
    net.load_state_dict(plain.state_dict())
    use_kernels(net, torch.device("cpu"))
    kinds = {
        type(module).__name__ for module in net.modules() if "BatchNorm" in type(module).__name__
    }
    assert len(kinds) == 1
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for stage, map_ in net.eval()(images).items():
            torch.testing.assert_close(map_, plain(images)[stage], rtol=1e-4, atol=1e-4)
        trained = net.train()(images)
        for stage, map_ in trained.items():
            still = torch.equal(map_, net.eval()(images)[stage]) and net.train() is net
            assert still == (norm == "FrozenBN"), stage


def test_a_network_without_batch_norm_stays_as_it_is() -> None:
    net, same = build("convnext_atto", norm="FrozenBN"), build("convnext_atto", norm="")
    assert [type(m) for m in net.modules()] == [type(m) for m in same.modules()]
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_added_norms_are_over_the_channels_of_each_place() -> None:
    net = build("convnext_atto", out_norm=True).eval()
    plain = build("convnext_atto").eval()
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if "out_norms" not in k})
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps, raw = net(images), plain(images)
    for stage in STAGES:
        x = raw[stage]
        spread = x.var(dim=1, unbiased=False, keepdim=True)
        expected = (x - x.mean(dim=1, keepdim=True)) / (spread + 1e-6).sqrt()
        torch.testing.assert_close(maps[stage], expected, rtol=1e-4, atol=1e-5)


KEYS = {
    **FPN,
    "MODEL.BACKBONE.NAME": "tf_efficientnet_lite0",
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.ANCHOR_GENERATOR.SIZES": LEVELS,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.FPN.OUT_CHANNELS": 32,
}


@pytest.mark.parametrize("freeze_at", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("name", NAMES)
def test_frozen_parts_do_not_move(name: str, freeze_at: int) -> None:
    net = build(name, freeze_at=freeze_at).train()
    optimizer = torch.optim.SGD(
        [p for p in net.parameters() if p.requires_grad] or [torch.zeros(1, requires_grad=True)],
        lr=1.0,
    )
    before = {key: value.clone() for key, value in net.state_dict().items()}
    maps = net(torch.randn(2, 3, 64, 64))
    if freeze_at < 5:
        sum(map_.square().mean() for map_ in maps.values()).backward()
        optimizer.step()
    moved = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    levels = {"stem": 1, "res2": 2, "res3": 3, "res4": 4, "res5": 5}
    for stage, parts in layout_of(name).stages.items():
        below = tuple(f"network.{part}." for part in parts)
        own = [key for key in before if key.startswith(below)]
        assert own and bool(moved & set(own)) == (freeze_at < levels[stage]), stage


def test_images_of_any_size_are_padded_to_the_stride_of_p5() -> None:
    detector = make_detector(KEYS).eval()
    images, sizes = detector.preprocess([torch.zeros(3, 50, 70), torch.zeros(3, 33, 97)])
    assert images.shape == (2, 3, 64, 128) and sizes == [(50, 70), (33, 97)]
    with torch.no_grad():
        maps = detector.backbone(images)
    assert {k: tuple(v.shape[2:]) for k, v in maps.items()} == {
        f"p{level}": (64 // 2**level, 128 // 2**level) for level in range(2, 7)
    }
    assert detector.backbone.strides == {f"p{level}": 2**level for level in range(2, 7)}


def test_built_without_values() -> None:
    keys = {**KEYS, "MODEL.BACKBONE.NAME": "convnext_atto", "TRANSFER.CONVNET.DROP_PATH": 0.3}
    with torch.device("meta"):
        detector = make_spec(keys).build()
    assert all(parameter.is_meta for parameter in detector.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MODEL.BACKBONE.NAME": "convnext_tinny"}, "'convnext_tinny' is unknown.*convnext_tiny"),
        (
            {"MODEL.BACKBONE.NAME": "densenet121"},
            "'densenet121' is a network of timm that cannot .*families resnet, .*efficientnet$",
        ),
        ({"MODEL.BACKBONE.NAME": "build_x_backbone"}, "MODEL.BACKBONE.NAME"),
        ({"MODEL.RESNETS.NORM": "GN"}, "MODEL.RESNETS.NORM 'GN' cannot replace the batch norms"),
        ({"MODEL.RESNETS.NORM": ""}, "MODEL.RESNETS.NORM '' cannot replace"),
        ({"MODEL.BACKBONE.FREEZE_AT": 6}, "MODEL.BACKBONE.FREEZE_AT 6 is unknown"),
        ({"TRANSFER.CONVNET.DROP_PATH": 1.0}, "TRANSFER.CONVNET.DROP_PATH 1.0 must be in"),
        ({"MODEL.FPN.IN_FEATURES": ["res2", "res3"]}, "must be consecutive stages up to res5"),
        ({"MODEL.RESNETS.OUT_FEATURES": ["res5"]}, "lacks res2, res3, res4"),
        ({"MODEL.ROI_HEADS.NAME": "Res5ROIHeads"}, "does not work with .* tf_efficientnet_lite0"),
    ],
)
def test_bad_keys(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_spec({**KEYS, **changes})
