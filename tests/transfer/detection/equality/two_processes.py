"""A norm layer in two gloo processes whose batches differ in size: outputs, gradients, statistics.

The inputs are a function that makes the layer (found by name in the new processes) and a folder for
the exchange of files. The outputs are arrays by name and rank.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.two_processes import run_in_two

CHANNELS = 3
SHAPES = ((2, CHANNELS, 4, 4), (1, CHANNELS, 5, 6))  # by rank


def over_two_processes(
    make_layer: Callable[[int], nn.Module], folder: Path
) -> dict[str, np.ndarray]:
    """Two training passes and one backward pass through the layer, on both ranks."""
    run_in_two(_run, folder, make_layer)
    arrays = {}
    for rank in range(2):
        with np.load(folder / f"{rank}.npz") as found:
            arrays |= {f"{rank}/{name}": found[name] for name in found.files}
    return arrays


def _run(rank: int, folder: str, make_layer: Callable[[int], nn.Module]) -> None:
    rng = np.random.default_rng(4 + rank)
    layer = make_layer(CHANNELS)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.0, 1.5]))
        layer.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    layer(torch.from_numpy(rng.random(SHAPES[rank], dtype=np.float32) * 3 + 1))
    x = torch.from_numpy(rng.random(SHAPES[rank], dtype=np.float32) * 2 - 1).requires_grad_()
    y = layer(x)
    (y.square() * torch.from_numpy(rng.random(SHAPES[rank], dtype=np.float32))).sum().backward()
    arrays = {"y": y, "x_grad": x.grad, "weight_grad": layer.weight.grad}
    arrays |= {"bias_grad": layer.bias.grad}
    arrays |= {name: getattr(layer, name) for name in ("running_mean", "running_var")}
    np.savez(Path(folder) / f"{rank}.npz", **{k: v.detach().numpy() for k, v in arrays.items()})
