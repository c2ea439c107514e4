"""FPN against its equations written out."""

from __future__ import annotations

from dataclasses import replace

import torch

from transfer.detection.torchvision_engine.fpn import FPNSpec
from transfer.detection.torchvision_engine.resnet import BottleneckSpec, ResNetSpec


def test_fpn() -> None:
    torch.manual_seed(0)
    stages = ("res2", "res3", "res4", "res5")
    blocks = BottleneckSpec(norm="BN", stride_in_1x1=False, groups=1, width_per_group=64)
    resnet_spec = ResNetSpec(
        depth=18, blocks=blocks, freeze_at=0, out_features=stages, res5_dilation=1
    )
    spec = FPNSpec(
        bottom_up=resnet_spec,
        in_features=stages,
        out_channels=8,
        norm="",
        p6_and_p7=False,
        mean=False,
    )
    fpn = spec.build().eval()
    resnet = fpn.bottom_up
    x = torch.randn(1, 3, 64, 96)
    found, maps = fpn(x), resnet(x)
    inner = None
    for level in (5, 4, 3, 2):
        lateral = getattr(fpn, f"fpn_lateral{level}")(maps[f"res{level}"])
        if inner is not None:
            lateral = lateral + inner.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        inner = lateral
        assert torch.equal(found[f"p{level}"], getattr(fpn, f"fpn_output{level}")(inner))
    assert torch.equal(found["p6"], found["p5"][:, :, ::2, ::2])
    assert list(found) == ["p2", "p3", "p4", "p5", "p6"]
    for name, value in found.items():
        assert value.shape[1] == 8 and value.shape[2] == -(-64 // fpn.strides[name])
    assert fpn.fpn_lateral2.bias is not None
    assert replace(spec, norm="BN").build().fpn_lateral2.bias is None
