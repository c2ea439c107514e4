"""ViTs: encoding of all or some patches against timm's pass and a slow loop, resampled and
sine-cosine positions, and which of timm's models are accepted.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pretrain.backbones.vit import (
    check_patches,
    encode_tokens,
    is_vit,
    patch_side,
    position_embedding,
    random_orders,
    sine_cosine_positions,
    take_tokens,
)
from pretrain.common.errors import InputError


def build(**options: object) -> VisionTransformer:
    """Patches of 4 px, made for images of 16 px; every weight and bias drawn at random."""
    torch.manual_seed(0)
    small = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
    vit = VisionTransformer(**small, num_classes=0, dynamic_img_size=True, **options)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.normal_(std=0.3)
    return vit.double()


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", [(16, 16), (24, 24), (8, 8), (8, 32), (12, 20)])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_all_patches_are_timms_own_pass(size: tuple[int, int], pre_norm: bool) -> None:
    vit, images = build(pre_norm=pre_norm), draw(2, 3, *size)
    tokens = encode_tokens(vit, images)
    torch.testing.assert_close(tokens, vit.forward_features(images), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(tokens[:, 0], vit(images), rtol=1e-9, atol=1e-9)


def test_a_real_model_is_encoded_as_timm_does() -> None:
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, dynamic_img_size=True)
    images = draw(2, 3, 64, 64).float()
    with torch.no_grad():
        tokens = encode_tokens(vit, images)
        torch.testing.assert_close(tokens, vit.forward_features(images), rtol=1e-5, atol=1e-6)


def slow_encode(vit: VisionTransformer, image: Tensor, keep: list[int]) -> Tensor:
    """One image: each kept patch embedded by hand and put behind the class token."""
    tokens = [vit.cls_token[0, 0] + vit.pos_embed[0, 0]]
    for place in keep:
        y, x = 4 * (place // 4), 4 * (place % 4)
        pixels = image[:, y : y + 4, x : x + 4]
        embedded = (vit.patch_embed.proj.weight * pixels).sum(dim=(1, 2, 3))
        tokens.append(embedded + vit.patch_embed.proj.bias + vit.pos_embed[0, 1 + place])
    return vit.norm(vit.blocks(torch.stack(tokens)[None]))[0]


def test_kept_patches_equal_the_loop_with_gradients() -> None:
    keep = torch.tensor([[3, 0, 15, 6, 9], [8, 2, 1, 14, 7]])
    results = []
    for slow in (False, True):
        vit, images = build(), draw(2, 3, 16, 16).requires_grad_()
        if slow:
            tokens = torch.stack([slow_encode(vit, i, k) for i, k in zip(images, keep.tolist())])
        else:
            tokens = encode_tokens(vit, images, keep)
        (tokens * draw(2, 6, 16, seed=2)).sum().backward()
        gradients = {name: p.grad for name, p in vit.named_parameters()}
        results.append({"tokens": tokens.detach(), "images": images.grad, **gradients})
    assert results[0]["tokens"].shape == (2, 6, 16)
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], msg=lambda m: f"{name}: {m}")


def test_keeping_all_patches_in_any_order_changes_no_class_token() -> None:
    vit, images = build(), draw(2, 3, 16, 16)
    order = random_orders(2, 16, torch.Generator().manual_seed(0), images.device)
    tokens, everything = encode_tokens(vit, images, order), encode_tokens(vit, images)
    torch.testing.assert_close(tokens[:, 0], everything[:, 0])
    torch.testing.assert_close(tokens[:, 1:], take_tokens(everything[:, 1:], order))


def test_positions_are_resampled_bicubically() -> None:
    vit = build()
    assert torch.equal(position_embedding(vit, 4, 4), vit.pos_embed)
    grid = vit.pos_embed[:, 1:].view(1, 4, 4, 16).permute(0, 3, 1, 2).float()
    for rows, columns in ((6, 6), (2, 2), (2, 8)):
        resized = nn.functional.interpolate(
            grid, size=(rows, columns), mode="bicubic", antialias=True
        )
        position = position_embedding(vit, rows, columns)
        expected = resized.permute(0, 2, 3, 1).reshape(1, rows * columns, 16).double()
        torch.testing.assert_close(position[:, 1:], expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(position[:, :1], vit.pos_embed[:, :1]), "the class token keeps its own"


def test_take_tokens_is_a_lookup_in_each_image() -> None:
    tokens, index = draw(2, 5, 3), torch.tensor([[4, 0], [1, 1]])
    expected = [[tokens[n, i].tolist() for i in row] for n, row in enumerate(index.tolist())]
    assert take_tokens(tokens, index).tolist() == expected


def test_orders_are_permutations_of_their_own() -> None:
    orders = random_orders(200, 10, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert orders.sort(dim=1).values.tolist() == [list(range(10))] * 200
    again = random_orders(200, 10, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert torch.equal(orders, again) and len(set(map(tuple, orders.tolist()))) > 190
    # Each patch is among the first five of half of the images: 100, give or take 4 sigma (7.1).
    first = torch.bincount(orders[:, :5].flatten(), minlength=10)
    assert first.min() > 70 and first.max() < 130
    torch.manual_seed(3)
    unseeded = random_orders(2, 10, None, torch.device("cpu"))
    assert not torch.equal(unseeded, random_orders(2, 10, None, torch.device("cpu")))


def test_sine_cosine_positions_match_a_loop() -> None:
    dim, rows, columns = 12, 3, 4
    table = np.zeros((1 + rows * columns, dim))
    for y in range(rows):
        for x in range(columns):
            for half, place in enumerate((x, y)):
                for i in range(dim // 4):
                    angle = place / 10000 ** (2 * i / (dim / 2))
                    column = half * dim // 2 + i
                    table[1 + y * columns + x, column] = math.sin(angle)
                    table[1 + y * columns + x, column + dim // 4] = math.cos(angle)
    ours = sine_cosine_positions(dim, rows, columns)
    assert ours.dtype == torch.float32 and ours.shape == (1, 13, dim)
    np.testing.assert_allclose(ours[0].numpy(), table, rtol=0, atol=1e-7)


def mae_positions(dim: int, side: int) -> np.ndarray:
    """The formula of MAE's util/pos_embed.py: sines and cosines of x, then those of y."""
    x, y = np.meshgrid(np.arange(side, dtype=np.float32), np.arange(side, dtype=np.float32))
    omega = 1 / 10000 ** (np.arange(dim // 4, dtype=np.float64) / (dim / 4))
    angles = [np.outer(place.reshape(-1), omega) for place in (x, y)]
    halves = [np.concatenate([np.sin(a), np.cos(a)], axis=1) for a in angles]
    return np.concatenate([np.zeros((1, dim)), np.concatenate(halves, axis=1)])


def test_sine_cosine_positions_are_maes() -> None:
    ours = sine_cosine_positions(768, 14, 14)[0].numpy()
    np.testing.assert_allclose(ours, mae_positions(768, 14), rtol=0, atol=1e-7)
    utils = pytest.importorskip(
        "lightly.models.utils", reason="lightly (extra `test`) is not installed"
    )
    theirs = utils.get_2d_sine_cosine_positional_embedding(64, 5)  # angles in float32
    np.testing.assert_allclose(sine_cosine_positions(64, 5, 5)[0], theirs, rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="a multiple of 4, got 10"):
        sine_cosine_positions(10, 2, 2)


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("vit_small_patch16_224", True),
        ("deit_tiny_patch16_224", True),
        ("vit_xsmall_patch16_clip_224", True),
        ("deit3_small_patch16_224", False),  # the class token has no position
        ("deit_tiny_distilled_patch16_224", False),  # two tokens before the patches
        ("vit_wee_patch16_reg1_gap_256", False),  # a register, no class token
        ("eva_large_patch14_196", False),  # pools the patches
        ("vit_tiny_r_s16_p8_224", False),  # patches of a ConvNet's map
        ("convnext_atto", False),
    ],
)
def test_which_models_can_leave_patches_out(name: str, wanted: bool) -> None:
    with torch.device("meta"):
        assert is_vit(timm.create_model(name, num_classes=0)) is wanted


def test_patches_must_tile_the_images() -> None:
    vit = build()
    assert patch_side(vit) == 4
    check_patches(vit, {"VIEWS.SIZE": 16, "VIEWS.FOCAL.SIZE": 8})
    with pytest.raises(InputError, match="VIEWS.FOCAL.SIZE 10 must be a multiple .* 4 px patches"):
        check_patches(vit, {"VIEWS.SIZE": 16, "VIEWS.FOCAL.SIZE": 10})
