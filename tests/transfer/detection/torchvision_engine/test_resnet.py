"""ResNets: equal to torchvision's bit for bit in its layout, strides, frozen stages."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pretrain.backbones.resnet import build_resnet
from transfer.checkpoints.names.layouts import to_detectron2
from transfer.detection.torchvision_engine.batchnorm import FrozenBatchNorm2d
from transfer.detection.torchvision_engine.resnet import (
    ResNet,
    ResNetSpec,
    TinyResNetSpec,
    make_stage,
)

STAGES = ("res2", "res3", "res4", "res5")


def make_resnet(
    depth: int = 18, norm: str = "BN", freeze_at: int = 0, out_features: tuple[str, ...] = STAGES
) -> ResNet:
    spec = ResNetSpec(
        depth=depth,
        norm=norm,
        freeze_at=freeze_at,
        stride_in_1x1=False,
        out_features=out_features,
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
    [("resnet18", "BN"), ("resnet18", "FrozenBN"), ("resnet50", "BN"), ("tiny_resnet", "FrozenBN")],
)
def test_equal_to_torchvision(name: str, norm: str) -> None:
    trunk = random_trunk(name)
    if name == "tiny_resnet":
        ours = TinyResNetSpec(norm=norm, freeze_at=0, out_features=("res4",)).build()
    else:
        ours = make_resnet(depth=int(name[6:]), norm=norm)
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
        stage = make_stage(depth=50, stage=3, inputs=256, norm="BN", stride_in_1x1=first)
        block = stage[0]
        assert block.conv1.stride == ((2, 2) if first else (1, 1))
        assert block.conv2.stride == ((1, 1) if first else (2, 2))
        assert all(layer.stride == (1, 1) for layer in (block.conv3, stage[1].conv1))


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
