"""Trunks against torchvision's networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torchvision
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from pretrain.backbones.build import build_backbone
from pretrain.backbones.resnet import Trunk, build_resnet
from pretrain.common.errors import InputError
from pretrain.common.sync_batchnorm import convert_group_batchnorm, convert_sync_batchnorm
from tests.two_processes import run_in_two


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


def after_a_step(trunk: Trunk, images: Tensor) -> dict[str, Tensor]:
    """Gradients and buffers after the backward pass of two forward passes."""
    weights = torch.randn(trunk.out_dim, generator=torch.Generator().manual_seed(3))
    loss = (trunk(images) @ weights).square().mean() + (trunk(-images) @ weights).mean()
    loss.backward()
    gradients = {f"grad {n}": p.grad for n, p in trunk.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients, **dict(trunk.named_buffers())}


def assert_checkpointing_changes_nothing(name: str, size: int, norms: str) -> None:
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        trunk = build_resnet(name, checkpointing=checkpointing).train()
        if norms == "group":
            convert_group_batchnorm(trunk, 2)
        elif norms == "sync":
            convert_sync_batchnorm(trunk, torch.device("cpu"))
        rank = dist.get_rank() if dist.is_initialized() else 0
        images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(rank))
        found.append(after_a_step(trunk, images))
    plain, again = found
    assert plain.keys() == again.keys() and len(plain) > 20
    for key, value in plain.items():
        assert torch.equal(value, again[key]), key


@pytest.mark.parametrize("norms", ["plain", "group"])
@pytest.mark.parametrize(
    "name", ["tiny_resnet", "resnet18", pytest.param("resnet50", marks=pytest.mark.slow)]
)
def test_checkpointing_moves_no_number(name: str, norms: str) -> None:
    assert_checkpointing_changes_nothing(name, 32 if name == "resnet50" else 48, norms)


def sync_in_two(rank: int, folder: str) -> None:
    assert_checkpointing_changes_nothing("tiny_resnet", 16, "sync")


@pytest.mark.slow
def test_checkpointing_moves_no_number_over_processes(tmp_path: Path) -> None:
    run_in_two(sync_in_two, tmp_path)


def test_checkpointing_is_for_training_alone() -> None:
    trunk = build_resnet("tiny_resnet", checkpointing=True)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(trunk.eval()(images), trunk(images))
    with torch.no_grad():  # a momentum copy
        trunk.train()(images)
    assert trunk.bn1.num_batches_tracked == trunk.layer3[0].bn1.num_batches_tracked == 1
    with pytest.raises(InputError, match="BACKBONE.CHECKPOINTING True: vit_tiny.* does not"):
        build_backbone("vit_tiny_patch16_224", checkpointing=True)


class Kept:
    """Counts the bytes that autograd keeps for the backward pass, parameters left out."""

    def __init__(self, module: nn.Module) -> None:
        self.parameters = {parameter.data_ptr() for parameter in module.parameters()}
        self.found: dict[int, Tensor] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in self.parameters:
            self.found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    @property
    def bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self.found.values())


def cost(checkpointing: bool) -> tuple[int, int]:
    """FLOPs of a ResNet-50's step, and the bytes kept from the forward pass, with those of the
    largest block that is computed again."""
    trunk = build_resnet("resnet50", checkpointing=checkpointing).train()
    images = torch.randn(2, 3, 64, 64)
    kept, block = Kept(trunk), Kept(trunk)
    with FlopCounterMode(display=False) as flops:
        with saved_tensors_hooks(kept.pack, lambda tensor: tensor):
            loss = trunk(images).mean()
        loss.backward()
    if checkpointing:
        with torch.no_grad():
            stem = trunk.forward_stages(images)["stem"]
        with saved_tensors_hooks(block.pack, lambda tensor: tensor):
            trunk.layer1[0](stem)  # the largest: it also has a shortcut
    return flops.get_total_flops(), kept.bytes + block.bytes


def test_checkpointing_saves_memory_for_a_third_more_flops() -> None:
    (flops, kept), (more, less) = cost(False), cost(True)
    assert 1.2 < more / flops <= 1.35, more / flops
    assert less / kept <= 0.6, less / kept
