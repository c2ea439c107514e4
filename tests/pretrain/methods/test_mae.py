"""MAE against a forward pass image by image with the same modules: what the encoder sees, where the
decoder puts it, which patches count. Also the initial weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pretrain.backbones.vit import sine_cosine_positions
from pretrain.losses.reconstruction import patchify
from pretrain.methods.mae import MAE

SIDE, PATCH, PATCHES, KEPT = 16, 4, 16, 6  # int(16 * (1 - 0.6))


def build(**options: object) -> MAE:
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
    options = {"mask_ratio": 0.6, "decoder_dim": 8, "decoder_depth": 2, **options}
    return MAE(trunk, image_size=SIDE, decoder_heads=2, **options).double()


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn_orders(images: int) -> Tensor:
    """The orders that a method with generator `seeded()` draws."""
    return torch.rand(images, PATCHES, generator=seeded()).argsort(dim=1)


def slow_loss(method: MAE, images: Tensor, normalize: bool) -> Tensor:
    """Each image alone: its kept patches encoded, all places decoded, the removed ones compared."""
    trunk, decoder = method.trunk, method.decoder
    errors = []
    for image, order in zip(images, drawn_orders(len(images)).tolist()):
        kept, removed = order[:KEPT], order[KEPT:]
        tokens = [trunk.cls_token[0, 0] + trunk.pos_embed[0, 0]]
        for place in kept:
            y, x = PATCH * (place // 4), PATCH * (place % 4)
            pixels = image[:, y : y + PATCH, x : x + PATCH]
            embedded = (trunk.patch_embed.proj.weight * pixels).sum(dim=(1, 2, 3))
            embedded = embedded + trunk.patch_embed.proj.bias
            tokens.append(embedded + trunk.pos_embed[0, 1 + place])
        encoded = trunk.norm(trunk.blocks(torch.stack(tokens)[None]))[0]
        decoded = [decoder.mask_token[0, 0]] * (1 + PATCHES)
        decoded[0] = decoder.embed(encoded[0])
        for number, place in enumerate(kept):
            decoded[1 + place] = decoder.embed(encoded[1 + number])
        everything = torch.stack(decoded) + decoder.position[0]
        predicted = decoder.predict(decoder.norm(decoder.blocks(everything[None])))[0, 1:]
        targets = patchify(image[None], PATCH)[0]
        for place in removed:
            target = targets[place]
            if normalize:
                target = (target - target.mean()) / torch.sqrt(target.var() + 1e-6)
            errors.append((predicted[place] - target).square().mean())
    return sum(errors) / len(errors)


@pytest.mark.parametrize("normalize", [True, False])
def test_loss_and_gradients(normalize: bool, views: Callable, same_step: Callable) -> None:
    method, (images,) = build(normalize_pixels=normalize), views(1, side=SIDE)
    with torch.no_grad():
        method.trunk.patch_embed.proj.bias.normal_()
    same_step(
        method,
        lambda m: m([images], [0], generator=seeded())["loss"],
        lambda m: slow_loss(m, images, normalize),
    )
    frozen = {name for name, p in method.named_parameters() if p.grad is None}
    assert frozen == {"trunk.pos_embed", "decoder.position"}


def changed(images: Tensor, places: Tensor) -> Tensor:
    """The images with noise in the patches `places` (N, K)."""
    noise = torch.randn(images.shape, generator=seeded(9), dtype=images.dtype)
    mask = torch.zeros(len(images), PATCHES, dtype=torch.bool).scatter(1, places, True)
    pixels = mask.view(-1, 1, 4, 4).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    return torch.where(pixels, noise, images)


def test_the_encoder_sees_the_kept_patches_only(views: Callable) -> None:
    method, (images,) = build(), views(1, side=SIDE)
    order = drawn_orders(6)
    features = [
        method([changed(images, places)], [0], generator=seeded())["features"]
        for places in (order[:, :0], order[:, KEPT:], order[:, KEPT - 1 : KEPT])
    ]
    assert torch.equal(features[0], features[1]), "removed pixels"
    assert (features[0] - features[2]).abs().amin(dim=0).max() > 1e-4, "one kept patch"


class Constant(nn.Module):
    """Predicts the same, whatever the tokens."""

    def forward(self, tokens: Tensor, restore: Tensor) -> Tensor:
        return tokens.new_full((*restore.shape, PATCH * PATCH * 3), 0.5)


def test_visible_patches_play_no_part_in_the_loss(views: Callable) -> None:
    method, (images,) = build(), views(1, side=SIDE)
    method.decoder = Constant()
    order = drawn_orders(6)
    losses = [
        method([changed(images, places)], [0], generator=seeded())["loss"]
        for places in (order[:, :0], order[:, :KEPT], order[:, KEPT : KEPT + 1])
    ]
    assert losses[0] == losses[1] and losses[0] != losses[2]


@pytest.mark.parametrize("ratio", [0.25, 0.6, 0.75, 0.9])
def test_as_many_patches_are_kept_as_in_lightly(ratio: float, views: Callable) -> None:
    utils = pytest.importorskip(
        "lightly.models.utils", reason="lightly (extra `test`) is not installed"
    )
    method, (images,) = build(mask_ratio=ratio), views(1, side=SIDE)
    seen = []
    method.trunk.blocks.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    method([images], [0])
    kept, _ = utils.random_token_mask((6, 1 + PATCHES), mask_ratio=ratio)
    assert seen == [(6, kept.shape[1], 16)]


def test_initial_weights() -> None:
    # models_mae.py: Xavier-uniform matrices, biases 0, norms 1, fixed positions.
    method = build().float()
    layers = [m for m in method.modules() if isinstance(m, nn.Linear)]
    assert len(layers) == 4 * 4 + 2
    for layer in layers:
        bound = math.sqrt(6 / sum(layer.weight.shape))
        assert 0.9 * bound < layer.weight.abs().max() <= bound and not layer.bias.any()
    patches = method.trunk.patch_embed.proj.weight
    bound = math.sqrt(6 / (16 + 3 * PATCH**2))
    assert 0.9 * bound < patches.abs().max() <= bound
    for norm in (m for m in method.modules() if isinstance(m, nn.LayerNorm)):
        assert norm.eps == 1e-6 and (norm.weight == 1).all() and not norm.bias.any()
    assert torch.equal(method.trunk.pos_embed, sine_cosine_positions(16, 4, 4))
    assert torch.equal(method.decoder.position, sine_cosine_positions(8, 4, 4))
    tokens = torch.cat([method.trunk.cls_token.flatten(), method.decoder.mask_token.flatten()])
    assert 0.01 < tokens.std() < 0.03
