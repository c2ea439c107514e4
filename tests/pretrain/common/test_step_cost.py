"""Bytes and FLOPs of a step on fake tensors, against real tensors and counts by hand."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from pretrain.common.step_cost import LiveBytes, StepCost, cost_of_step, fake_tensors, make_fake


def cost_of_network(fake: bool) -> StepCost:
    """A training step of a small network with Adam, which has two states for each parameter."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5)
    )
    if fake:
        make_fake(network)
    images, optimizer = torch.empty(4, 3, 8, 8), torch.optim.Adam(network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        network(images).sum().backward()
        optimizer.step()

    return cost_of_step(step, [list(network.parameters()), list(network.buffers()), images])


def test_fake_tensors_cost_what_real_ones_do() -> None:
    real = cost_of_network(fake=False)
    with fake_tensors():
        assert cost_of_network(fake=True) == real
    convolution, linear = 4 * 8 * 64 * 27, 4 * 512 * 5  # multiplications of the forward pass
    # The backward pass computes both gradients; the images need none.
    assert real.flops == 2 * (2 * convolution + 3 * linear)


def test_the_peak_holds_what_is_alive_together() -> None:
    memory = LiveBytes()
    with memory:
        first = torch.empty(1024)
        second = first + 1
        del first
        third = second + 1
        view = third.view(2, 512)
        assert (memory.live, memory.peak) == (8192, 8192)
        del second, third
        assert memory.live == 4096, "a view keeps its storage"
        del view
    assert (memory.live, memory.peak) == (0, 8192)
    with memory:
        small = torch.empty(1)
    assert memory.live == 512, small.shape


def test_precision_is_that_of_autocast_on_a_gpu() -> None:
    with fake_tensors():
        x, weight = torch.empty(2, 8), torch.empty(8, 8)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            product = x @ weight
            assert product.dtype == torch.bfloat16
            assert layer_norm(product, (8,)).dtype == torch.float32
            assert product.softmax(dim=-1).dtype == product.sum().dtype == torch.float32
            assert torch.relu(product).dtype == torch.bfloat16
        assert product.softmax(dim=-1).dtype == torch.bfloat16


def test_attention_is_counted() -> None:
    with fake_tensors():
        query = torch.empty(1, 2, 16, 8, requires_grad=True)

        def step() -> None:
            scaled_dot_product_attention(query, query, query).sum().backward()

        product = 2 * 2 * 16 * 16 * 8  # of queries and keys, of both heads
        assert cost_of_step(step, query).flops == (2 + 5) * product
