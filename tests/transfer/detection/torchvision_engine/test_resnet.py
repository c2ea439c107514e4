"""ResNets: equal to torchvision's bit for bit in its layout, strides, frozen stages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from pretrain.backbones.resnet import build_resnet
from pretrain.common.errors import InputError
from transfer.checkpoints.names.layouts import to_detectron2
from transfer.detection.torchvision_engine.batchnorm import FrozenBatchNorm2d
from transfer.detection.torchvision_engine.resnet import (
    BottleneckSpec,
    ResNet,
    ResNetSpec,
    TinyResNetSpec,
    make_stage,
    trunk_name,
)
from transfer.segmentation.dilation import dilate

STAGES = ("res2", "res3", "res4", "res5")


PLAIN = BottleneckSpec(norm="BN", stride_in_1x1=False, groups=1, width_per_group=64)


def make_resnet(
    depth: int = 18,
    blocks: BottleneckSpec = PLAIN,
    freeze_at: int = 0,
    out_features: tuple[str, ...] = STAGES,
    res5_dilation: int = 1,
) -> ResNet:
    spec = ResNetSpec(
        depth=depth,
        blocks=blocks,
        freeze_at=freeze_at,
        out_features=out_features,
        res5_dilation=res5_dilation,
    )
    return spec.build()


def random_trunk(name: str) -> nn.Module:
    torch.manual_seed(0)
    trunk = build_resnet(name)
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.1)
            module.momentum = 1.0
    with torch.no_grad():
        trunk(torch.randn(2, 3, 64, 64))
    return trunk.eval()


@pytest.mark.parametrize(
    "name, norm",
    [
        ("resnet18", "BN"),
        ("resnet18", "FrozenBN"),
        ("resnet50", "BN"),
        ("tiny_resnet", "FrozenBN"),
        ("resnext50_32x4d", "BN"),
        # its bottlenecks are as wide as those of the ResNeXt, without groups
        pytest.param("wide_resnet50_2", "FrozenBN", marks=pytest.mark.slow),
    ],
)
def test_equal_to_torchvision(name: str, norm: str) -> None:
    trunk = random_trunk(name)
    if name == "tiny_resnet":
        ours = TinyResNetSpec(norm=norm, freeze_at=0, out_features=("res4",)).build()
    else:
        depth = 18 if name == "resnet18" else 50
        groups, width = {"resnext50_32x4d": (32, 4), "wide_resnet50_2": (1, 128)}.get(name, (1, 64))
        assert trunk_name(depth, groups, width) == name
        blocks = replace(PLAIN, norm=norm, groups=groups, width_per_group=width)
        ours = make_resnet(depth=depth, blocks=blocks)
    state = {to_detectron2(key): value for key, value in trunk.state_dict().items()}
    if norm == "FrozenBN":
        state = {key: value for key, value in state.items() if "num_batches" not in key}
    ours.load_state_dict(state)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found, expected = ours.eval()(x), trunk.forward_stages(x)
    assert list(found) == list(ours.out_features)
    for stage, value in found.items():
        assert torch.equal(value, expected[f"layer{int(stage[3]) - 1}"])
        assert value.shape[1] == ours.channels[stage]
        assert value.shape[2] == 64 // ours.strides[stage]


def test_stride_lies_where_it_is_asked() -> None:
    for first in (True, False):
        blocks = replace(PLAIN, stride_in_1x1=first)
        stage = make_stage(depth=50, stage=3, inputs=256, blocks=blocks)
        block = stage[0]
        assert block.conv1.stride == ((2, 2) if first else (1, 1))
        assert block.conv2.stride == ((1, 1) if first else (2, 2))
        assert all(layer.stride == (1, 1) for layer in (block.conv3, stage[1].conv1))


@pytest.mark.parametrize("name, groups, width", [("resnet50", 1, 64), ("resnext50_32x4d", 32, 4)])
def test_a_dilated_res5_is_that_of_the_segmenter(name: str, groups: int, width: int) -> None:
    trunk = random_trunk(name)
    blocks = replace(PLAIN, groups=groups, width_per_group=width)
    ours = make_resnet(50, blocks, res5_dilation=2)
    ours.load_state_dict({to_detectron2(key): value for key, value in trunk.state_dict().items()})
    dilate(trunk, 16, contract=False)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found, expected = ours.eval()(x), trunk.forward_stages(x)
    for stage, value in found.items():
        assert torch.equal(value, expected[f"layer{int(stage[3]) - 1}"])
    assert ours.strides == {"res2": 4, "res3": 8, "res4": 16, "res5": 16}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"depth": 18, "res5_dilation": 2}, "DEPTH 18 has no bottleneck blocks"),
        ({"depth": 34, "blocks": replace(PLAIN, groups=2)}, "DEPTH 34 has no bottleneck blocks"),
        ({"depth": 50, "res5_dilation": 3}, "RES5_DILATION 3 is not supported; known: 1, 2"),
    ],
)
def test_networks_that_are_not_built(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_resnet(**changes)
    with pytest.raises(InputError, match="NUM_GROUPS must be 1 or above, got 0"):
        replace(PLAIN, groups=0)


def test_stages_behind_the_last_map_are_dropped() -> None:
    resnet = make_resnet(out_features=("res3",))
    assert resnet.stages == ("res2", "res3") and not hasattr(resnet, "res4")


@pytest.mark.parametrize("freeze_at", [0, 1, 2, 4])
def test_freeze_at(freeze_at: int) -> None:
    resnet = make_resnet(freeze_at=freeze_at)
    for number, part in enumerate([resnet.stem, *(getattr(resnet, s) for s in STAGES)], start=1):
        frozen = number <= freeze_at
        assert all(p.requires_grad != frozen for p in part.parameters())
        norms = [m for m in part.modules() if isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm2d))]
        assert norms and all(isinstance(m, FrozenBatchNorm2d) == frozen for m in norms)
