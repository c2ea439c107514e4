"""ViTDet's ViT against attention written token by token, and against timm where both are equal."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from transfer.detection.torchvision_engine.vit import Attention, Block, ViT, ViTSpec

SMALL = {
    "width": 12,
    "depth": 3,
    "heads": 3,
    "patch_size": 4,
    "image_size": 24,
    "pretrain_image_size": 16,
    "window_size": 4,
    "global_blocks": (1,),
    "drop_path": 0.0,
    "relative_positions": True,
}


def make_vit(**changes: object) -> ViT:
    torch.manual_seed(0)
    return randomised(ViT(ViTSpec(**{**SMALL, **changes})).eval())


def randomised(vit: ViT) -> ViT:
    with torch.no_grad():
        for name, parameter in vit.named_parameters():
            if "rel_pos" in name or name.endswith("bias"):
                parameter.normal_(std=0.5)  # zero at the start
    return vit


def slow_attention(attention: Attention, tokens: Tensor) -> Tensor:
    """Attention over tokens (H, W, D), one query, head and key at a time."""
    height, width, dim = tokens.shape
    heads, size = attention.heads, dim // attention.heads
    flat = tokens.reshape(-1, dim)
    query, key, value = (flat @ attention.qkv.weight.T + attention.qkv.bias).split(dim, dim=1)
    out = torch.zeros_like(flat)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for q in range(height * width):
            scores = torch.zeros(height * width)
            for k in range(height * width):
                scores[k] = query[q, part] @ key[k, part] / math.sqrt(size)
                if attention.relative:
                    dy, dx = q // width - k // width, q % width - k % width
                    rows, columns = attention.rel_pos_h, attention.rel_pos_w
                    along = rows[dy + len(rows) // 2] + columns[dx + len(columns) // 2]
                    scores[k] += query[q, part] @ along
            out[q, part] = scores.softmax(dim=0) @ value[:, part]
    return (out @ attention.proj.weight.T + attention.proj.bias).view(height, width, dim)


def slow_block(block: Block, tokens: Tensor) -> Tensor:
    """A block on tokens (H, W, D), window after window."""
    height, width, dim = tokens.shape
    x = F.layer_norm(tokens, (dim,), block.norm1.weight, block.norm1.bias, 1e-6)
    if block.window:
        side, attended = block.window, torch.zeros_like(x)
        for top in range(0, height, side):
            for left in range(0, width, side):
                window = torch.zeros(side, side, dim)  # tokens beyond the image are zeros, and keys
                part = x[top : top + side, left : left + side]
                window[: part.shape[0], : part.shape[1]] = part
                window = slow_attention(block.attn, window)
                kept = window[: part.shape[0], : part.shape[1]]
                attended[top : top + side, left : left + side] = kept
    else:
        attended = slow_attention(block.attn, x)
    tokens = tokens + attended
    x = F.layer_norm(tokens, (dim,), block.norm2.weight, block.norm2.bias, 1e-6)
    hidden = block.mlp.fc1(x)
    gelu = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return tokens + block.mlp.fc2(gelu)


@torch.no_grad()
def test_against_loops() -> None:
    vit = make_vit()
    image = torch.randn(1, 3, 24, 24)
    tokens = torch.zeros(6, 6, 12)
    kernel, bias = vit.patch_embed.proj.weight, vit.patch_embed.proj.bias
    for y in range(6):
        for x in range(6):
            patch = image[0, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
            tokens[y, x] = (kernel * patch).sum(dim=(1, 2, 3)) + bias
    grid = vit.pos_embed[:, 1:].view(1, 4, 4, 12).permute(0, 3, 1, 2)
    tokens = tokens + F.interpolate(grid, (6, 6), mode="bicubic")[0].permute(1, 2, 0)
    for block in vit.blocks:
        tokens = slow_block(block, tokens)
    assert [block.window for block in vit.blocks] == [4, 0, 4]
    assert [len(block.attn.rel_pos_h) for block in vit.blocks] == [7, 11, 7]
    found = vit(image)
    assert found.shape == (1, 12, 6, 6)
    torch.testing.assert_close(found[0].permute(1, 2, 0), tokens, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_without_windows_and_relative_positions_it_is_timms() -> None:
    from timm.models.vision_transformer import VisionTransformer

    timm = VisionTransformer(16, 4, embed_dim=12, depth=3, num_heads=3, num_classes=0).eval()
    vit = make_vit(global_blocks=(0, 1, 2), relative_positions=False, image_size=16)
    missing, _ = vit.load_state_dict(timm.state_dict(), strict=False)
    assert not missing
    image = torch.randn(2, 3, 16, 16)
    x = timm.patch_embed(image) + timm.pos_embed[:, 1:]
    for block in timm.blocks:  # on patches alone: a detector drops the class token
        x = block(x)
    torch.testing.assert_close(vit(image).flatten(2).transpose(1, 2), x, rtol=1e-4, atol=1e-5)


def test_drop_path_rises_and_is_for_training() -> None:
    vit = make_vit(drop_path=0.4)
    assert [getattr(b.drop_path, "drop_prob", 0.0) for b in vit.blocks] == pytest.approx(
        [0.0, 0.2, 0.4]
    )
    image = torch.randn(8, 3, 24, 24)
    assert torch.equal(vit(image), vit(image))
    vit.train()
    assert not torch.equal(vit(image), vit(image))
