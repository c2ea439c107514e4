"""Views on a pretended GPU: views that are made together equal those that are made one by one, and
torch's own CUDA backend finds no place where the host waits.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pretrain.common.device_copy import send
from pretrain.data import augment, masking
from pretrain.data.augment import ViewRecipe
from pretrain.data.build import build_view_maker, view_sizes
from pretrain.data.highpass import HighPass
from pretrain.data.loader import Batch
from pretrain.data.masking import MaskRecipe
from pretrain.data.views import ViewMaker
from pretrain.engine.checks import load_checked
from tests.gpu.pretend_cuda import CUDA, PretendCuda

RECIPE = ViewRecipe(solarize_prob=0.2)
PLAIN = ViewRecipe.none()
GENTLE = replace(RECIPE, solarize_prob=0.0, blur_prob=0.1)  # shares RECIPE's operations


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def one_by_one(maker: ViewMaker, crops: list[Tensor], draws: torch.Generator) -> list[Tensor]:
    """The slow twin: each view from its own draws, before the next view draws."""
    pixels: list[Tensor] = []
    views: list[Tensor] = []
    for view, crop in enumerate(crops):
        source, recipe = maker.same_view[view], maker.recipes[view]
        highpass, mask = maker.highpasses[view], maker.masks[view]
        if source is None:
            params = augment.sample_params(recipe, len(crop), draws)
            images = crop.to(torch.float32, memory_format=torch.contiguous_format).div_(255.0)
            pixels.append(augment.apply_augment(images, params, recipe))
        else:
            pixels.append(pixels[source])
        images = maker.preprocess.normalise(pixels[view])
        if highpass is not None:
            images = highpass.apply(images)
        if mask is not None:
            n, c, h, w = images.shape
            drawn = masking.sample_params(mask, (n, c, h, w), draws, images.device)
            images = masking.apply_mask(images, drawn)
        views.append(images)
    return views


@pytest.mark.parametrize("noise", ["iid", "none", "cell", "patch"])
def test_views_made_together_are_those_made_one_by_one(noise: str) -> None:
    """Equal recipes, different probabilities, a strength and a size of their own, a view of a
    different one's pixels: bit for bit."""
    relative = noise in ("cell", "patch")
    mask = MaskRecipe(
        grid_size=8, ratio=0.4, noise=noise, random_phase=noise == "cell", noise_relative=relative
    )
    maker = ViewMaker(
        [RECIPE, RECIPE, replace(RECIPE, hue=0.1), RECIPE, RECIPE, GENTLE, PLAIN, RECIPE],
        highpasses=[HighPass(5, 2.0), None, None, HighPass(5, 2.0), None, None, None, None],
        masks=[mask, replace(mask, apply_prob=0.5), mask, mask, None, None, None, mask],
        same_view=[None, None, None, None, 0, None, None, 4],
    )
    sizes = [24, 24, 24, 16, 24, 24, 24, 24]
    crops = [
        torch.randint(0, 256, (6, size, size, 3), generator=generator()).byte().permute(0, 3, 1, 2)
        for size in sizes
    ]
    with PretendCuda(values=True) as cuda:
        on_device = [crop.to(CUDA) for crop in crops]
        cuda.reset()
        views = [view.cpu() for view in maker(on_device, generator())]
        together = sum(cuda.kernels.values())
        cuda.reset()
        twins = [view.cpu() for view in one_by_one(maker, on_device, generator())]
        assert together < 0.8 * sum(cuda.kernels.values())
    assert [view.shape[-1] for view in views] == sizes
    for view, (ours, twin) in enumerate(zip(views, twins, strict=True)):
        assert torch.equal(ours, twin), f"view {view}"
    if noise == "none":  # the noise is drawn on the device
        torch.testing.assert_close(views, maker(crops, generator()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("number", [2**14, 2**14 + 1, 2**20])
def test_draws_of_any_size_are_sent_without_a_wait(number: int) -> None:
    """Beyond 64 KiB CUDA would wait for pageable memory."""
    values = torch.rand(number)
    with PretendCuda(values=True) as cuda:
        sent = send(values, CUDA)
        assert not cuda.synchronisations and not cuda.large_pageable and sum(cuda.copies.values())
        assert sent.device == CUDA and torch.equal(sent.cpu(), values)
    assert send(values, torch.device("cpu")) is values


@pytest.mark.parametrize(
    "config, words",
    [
        *((f"{name}.yaml", "") for name in ("simclr_r50", "mscn_r50", "msn_vits16")),
        ("mscn_r50.yaml", "MASK.NOISE cell MASK.NOISE_RELATIVE True MASK.RANDOM_PHASE True"),
        ("mscn_r50.yaml", "MASK.NOISE patch"),
    ],
)
def test_torchs_own_backend_finds_no_synchronisation(config: str, words: str) -> None:
    """Without `PretendCuda`: tensors of torch's CUDA backend, whose kernels do nothing here."""
    cfg = load_checked(config, words.split(), 1)
    maker, images = build_view_maker(cfg), 8
    crops = [
        torch.zeros(images, size, size, 3, dtype=torch.uint8).pin_memory().permute(0, 3, 1, 2)
        for size in view_sizes(cfg)
    ]
    labels = torch.zeros(images, dtype=torch.long).pin_memory()
    batch = Batch(crops, labels, labels)
    torch.zeros(1, device=CUDA)
    try:
        torch.cuda.set_sync_debug_mode("error")
        with pytest.raises(RuntimeError, match="synchronizing"):
            torch.zeros(2).to(CUDA)
        views = maker(batch.to(CUDA).crops, generator())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(view.device == CUDA for view in views)
