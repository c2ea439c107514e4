"""MSN against a forward pass image by image with the same modules: dropped and focal anchors, the
target without a gradient. Also the initial weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pretrain.backbones.heads import build_projector
from pretrain.losses.assignment import msn_terms
from pretrain.methods.msn import MSN
from pretrain.methods.target import Momentum

SIDE, PATCH, PATCHES, KEPT = 16, 4, 16, 11  # int(16 * (1 - 0.3))
BRANCHES = [0, 0, 1, 2]  # two anchors, the target, a focal view of 8 px
SETTINGS = {"temperature": 0.2, "target_sharpening": 0.5, "balance": True}


def build(moved: Callable | None = None) -> MSN:
    torch.manual_seed(0)
    trunk = VisionTransformer(
        img_size=SIDE,
        patch_size=PATCH,
        embed_dim=16,
        depth=2,
        num_heads=2,
        num_classes=0,
        dynamic_img_size=True,
    )
    method = MSN(
        trunk,
        build_projector(16, hidden_dim=7, out_dim=5, style="msn"),
        Momentum(0.9, "linear", 1.25),
        num_prototypes=8,
        temperature=0.2,
        sharpening=0.5,
        patch_drop=0.3,
        weights=(2.0, 0.5),
    ).double()
    if moved:  # a target that differs from the anchor network
        moved(method.trunk)
        moved(method.target_projector)
    return method


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.fixture
def images(views: Callable) -> list[Tensor]:
    return [*views(3, side=SIDE), *views(1, side=8, seed=2)]


def slow_dropped(vit: VisionTransformer, images: Tensor, orders: Tensor) -> Tensor:
    """Class tokens (N, D) of images whose first KEPT patches in `orders` are seen."""
    tokens = []
    for image, order in zip(images, orders):
        patches = vit.patch_embed(image[None]).flatten(1, 2)[0] + vit.pos_embed[0, 1:]
        rows = [vit.cls_token[0, 0] + vit.pos_embed[0, 0], *(patches[i] for i in order[:KEPT])]
        tokens.append(vit.norm(vit.blocks(torch.stack(rows)[None]))[0, 0])
    return torch.stack(tokens)


def slow_terms(method: MSN, images: list[Tensor]) -> dict[str, Tensor]:
    orders = torch.rand(12, PATCHES, generator=seeded()).argsort(dim=1)
    dropped = slow_dropped(method.anchor_trunk, torch.cat(images[:2]), orders)
    focal = method.anchor_trunk(images[3])  # timm's own pass: nothing is dropped
    anchors = [*method.anchor_projector(dropped).split(6), method.anchor_projector(focal)]
    with torch.no_grad():
        target = method.target_projector(method.trunk(images[2]))
    terms = msn_terms(torch.stack(anchors), target, method.prototypes, **SETTINGS)
    weights = {"assignment": 1.0, "mean_entropy": 2.0, "entropy": 0.5}
    return {name: weights[name] * term for name, term in terms.items()}


def test_loss_and_gradients(moved: Callable, images: list, same_step: Callable) -> None:
    method = build(moved)
    same_step(
        method,
        lambda m: m(images, BRANCHES, generator=seeded())["loss"],
        lambda m: sum(slow_terms(m, images).values()),
    )
    for name, parameter in method.named_parameters():
        trained = name.startswith(("anchor_", "prototypes"))
        assert (parameter.grad is not None) == parameter.requires_grad == trained, name


def test_terms_and_features(moved: Callable, images: list) -> None:
    method = build(moved)
    result = method(images, BRANCHES, generator=seeded())
    expected = {name: term.detach() for name, term in slow_terms(method, images).items()}
    torch.testing.assert_close(result["terms"], expected)
    torch.testing.assert_close(result["loss"].detach(), sum(expected.values()))
    # What transfers is the target network, and its features are what is watched.
    torch.testing.assert_close(result["features"], method.trunk(images[2]).detach())
    assert not torch.equal(method.trunk(images[2]), method.anchor_trunk(images[2]))


def test_patches_are_dropped_from_anchors_alone(images: list) -> None:
    method, seen = build(), {"anchor_trunk": [], "trunk": []}
    for name, shapes in seen.items():
        blocks = getattr(method, name).blocks
        blocks.register_forward_pre_hook(lambda _, args, to=shapes: to.append(args[0].shape[:2]))
    method(images, BRANCHES)
    assert seen == {"anchor_trunk": [(12, 1 + KEPT), (6, 1 + 4)], "trunk": [(6, 1 + PATCHES)]}


def test_without_drop_and_focal_views_all_is_seen(images: list) -> None:
    method = build()
    method.patch_drop = 0.0
    loss = method(images[:3], [0, 0, 1])["loss"]
    anchors = method.anchor_projector(method.anchor_trunk(torch.cat(images[:2])))
    target = method.target_projector(method.trunk(images[2]))
    terms = msn_terms(anchors.unflatten(0, (2, 6)), target, method.prototypes, **SETTINGS)
    expected = terms["assignment"] + 2 * terms["mean_entropy"] + 0.5 * terms["entropy"]
    torch.testing.assert_close(loss, expected)


def test_the_target_follows_linearly(moved: Callable) -> None:
    method = build(moved)
    before = copy.deepcopy(method)
    method.after_step(5, 10)
    momentum = 0.9 + 0.1 * 5 / 12.5
    for ours, source in (("trunk", "anchor_trunk"), ("target_projector", "anchor_projector")):
        olds, news = getattr(before, ours).parameters(), getattr(method, ours).parameters()
        for new, old, anchor in zip(news, olds, getattr(before, source).parameters()):
            torch.testing.assert_close(new, momentum * old + (1 - momentum) * anchor)
    assert torch.equal(method.prototypes, before.prototypes)
    assert method.without_decay() == [method.prototypes] and method.constant_rate() == []


def test_initial_weights() -> None:
    # src/deit.py and init_model of src/msn_train.py
    trunk = VisionTransformer(img_size=16, patch_size=4, embed_dim=96, depth=1, num_heads=2)
    head = build_projector(96, hidden_dim=64, out_dim=64, style="msn")
    method = MSN(trunk, head, Momentum(0.9), num_prototypes=50)
    layers = [m for net in (trunk.blocks, head) for m in net.modules() if isinstance(m, nn.Linear)]
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05) and not layer.bias.any()
    patches = trunk.patch_embed.proj
    assert patches.weight.std().item() == pytest.approx(math.sqrt(2 / (3 * 16)), rel=0.05)
    assert not patches.bias.any()
    assert trunk.cls_token.std().item() == pytest.approx(0.02, rel=0.3)
    assert trunk.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    bound = 64**-0.5
    assert 0.98 * bound < method.prototypes.abs().max() <= bound
    for ours, target in ((trunk, method.trunk), (head, method.target_projector)):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), target.parameters()))
