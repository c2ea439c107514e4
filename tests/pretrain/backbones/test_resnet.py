"""Trunks against torchvision's own networks."""

from __future__ import annotations

import pytest
import torch
import torchvision

from pretrain.backbones.resnet import build_resnet
from pretrain.common.errors import InputError


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_trunk_equals_torchvision(name: str) -> None:
    torch.manual_seed(0)
    reference = getattr(torchvision.models, name)().eval()
    reference.fc = torch.nn.Identity()
    trunk = build_resnet(name).eval()
    trunk.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(trunk(images), reference(images), rtol=1e-5, atol=1e-6)
    assert trunk(images).shape == (2, trunk.out_dim)


def test_tiny_trunk_has_stride_eight() -> None:
    maps = build_resnet("tiny_resnet").forward_stages(torch.randn(1, 3, 32, 32))
    shapes = {name: tuple(value.shape[1:]) for name, value in maps.items()}
    assert shapes == {
        "stem": (32, 16, 16),
        "layer1": (32, 16, 16),
        "layer2": (64, 8, 8),
        "layer3": (128, 4, 4),
    }


def test_resnet50_has_318_tensors() -> None:
    state = build_resnet("resnet50").state_dict()
    assert len(state) == 318
    assert sum(not key.endswith("num_batches_tracked") for key in state) == 265


def test_zero_init_residual_makes_blocks_identities() -> None:
    trunk = build_resnet("resnet50", zero_init_residual=True)
    assert all(not block.bn3.weight.any() for block in trunk.layer2)
    assert all(block.bn1.weight.all() for block in trunk.layer2)


def test_unknown_name_answers_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="did you mean 'resnet50'"):
        build_resnet("resnet5")
