"""What the heads see: VISSL's windows at 224 px, a ViT's token or patches; their start."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from pretrain.backbones.resnet import build_resnet
from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.build import build_trunk
from transfer.checkpoints.read import random_weights
from transfer.checkpoints.weights import Weights, make_provenance
from transfer.classification.training.heads import layers, vissl_pool
from transfer.classification.training.model import build_classifier, changed_tensors


def vit_weights() -> Weights:
    name = "vit_tiny_patch16_32"
    torch.manual_seed(0)
    state = {k: torch.randn_like(v) * 0.05 for k, v in build_trunk(name, {}).state_dict().items()}
    provenance = make_provenance(name="vit", source="random", method="random", epochs=0)
    return Weights(state, name, Preprocess(), provenance)


def test_vissls_dimensions_of_resnet50() -> None:
    """9216, 9216, 8192, 9216, 8192, 2048 and 2048 features, as the heads of its config have."""
    trunk, images = build_resnet("resnet50").eval(), torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        maps = layers(trunk, images)
        torch.testing.assert_close(maps["res5avg_linear"], trunk(images))
        last = trunk.forward_stages(torch.zeros(1, 3, 224, 224))["layer4"]
    assert {name: values.numel() for name, values in maps.items()} == {
        "conv1": 9216,
        "res2": 9216,
        "res3": 8192,
        "res4": 9216,
        "res5": 8192,
        "res5avg": 2048,
        "res5avg_linear": 2048,
    }
    assert torch.equal(maps["res5avg"].flatten(1), maps["res5avg_linear"])
    assert last.shape[-1] == 7


def test_the_last_map_is_the_trunks_and_windows_are_averages() -> None:
    trunk = build_resnet("tiny_resnet").eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        last = trunk.forward_stages(images)["layer3"]
        found = layers(trunk, images)["res4"]
    torch.testing.assert_close(found, F.adaptive_avg_pool2d(last, 3))
    x = torch.randn(1, 2, 7, 7)
    window = vissl_pool(x, "res5")
    torch.testing.assert_close(window[0, 1, 1, 0], x[0, 1, 1:7, 0:6].mean())
    assert vissl_pool(torch.randn(1, 2, 2, 2), "res2").shape == (1, 2, 2, 2)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_vit_by_its_class_token_or_its_patches(frozen: bool) -> None:
    weights = vit_weights()
    common = {"head": "batchnorm_linear", "num_classes": 4, "image_size": 32, "frozen": frozen}
    token = build_classifier(weights, **common).eval()
    patches = build_classifier(weights, **common, vit_pool="patches").eval()
    images = torch.randn(3, 3, 32, 32)
    trunk = build_trunk(weights.backbone, {})
    trunk.load_state_dict(weights.state)
    trunk.eval()
    with torch.no_grad():
        torch.testing.assert_close(token.features(images)[0], trunk(images))
        x = trunk.patch_embed(images).flatten(1, 2)
        x = torch.cat([trunk.cls_token.expand(3, -1, -1), x], dim=1) + trunk.pos_embed
        x = trunk.blocks(x)[:, 1:].mean(dim=1)
        x = (x - x.mean(dim=1, keepdim=True)) / (
            x.var(dim=1, unbiased=False)[:, None] + 1e-6
        ).sqrt()
        torch.testing.assert_close(patches.features(images)[0], x, rtol=1e-4, atol=1e-5)
    assert changed_tensors(token.trunk, weights.state) == []
    moving = {name for name, p in token.named_parameters() if p.requires_grad}
    assert ("trunk.cls_token" in moving) == (not frozen) and "heads.heads.0.1.weight" in moving


def test_a_frozen_backbone_stays_in_eval_mode() -> None:
    weights = random_weights("tiny_resnet", 0)
    options = {"head": "linear", "num_classes": 3, "image_size": 16}
    frozen = build_classifier(weights, **options, frozen=True).train()
    whole = build_classifier(weights, **options, frozen=False).train()
    assert not any(module.training for module in frozen.trunk.modules()) and frozen.heads.training
    assert all(module.training for module in whole.modules())
    out = frozen(torch.randn(2, 3, 16, 16))[0]
    out.sum().backward()
    assert all(p.grad is None for p in frozen.trunk.parameters())
    whole(torch.randn(2, 3, 16, 16))
    changed = changed_tensors(whole.trunk, weights.state)
    assert changed and all("running" in n or "num_batches" in n for n in changed)


def test_starts_and_seeds() -> None:
    weights = random_weights("tiny_resnet", 0)
    options = {"head": "linear", "num_classes": 50, "image_size": 16, "frozen": True}

    def weight(init: str, seed: int = 0) -> torch.Tensor:
        head = build_classifier(weights, **options, init=init, seed=seed).heads.heads[0]
        assert init == "uniform" or not head.bias.any()
        return head.weight.detach()

    assert not weight("zero").any()
    assert weight("normal").std().item() == pytest.approx(0.01, rel=0.05)
    assert weight("uniform").abs().max().item() <= 128**-0.5
    assert torch.equal(weight("normal"), weight("normal"))
    assert not torch.equal(weight("normal"), weight("normal", 1))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"head": "layerss"}, "did you mean 'layers'"),
        ({"head": "layers"}, "TRAIN.HEAD layers needs a ResNet"),
        ({"head": "linear", "init": "ones"}, "TRAIN.HEAD_INIT"),
        ({"head": "linear", "vit_pool": "mean"}, "TRAIN.VIT_POOL"),
    ],
)
def test_bad_settings(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_classifier(vit_weights(), num_classes=3, image_size=32, frozen=True, **options)
