"""A picture of the first layer's kernels of any checkpoint."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from pretrain.backbones.first_layer_kernels import judge_kernels, kernel_sheet
from transfer.checkpoints.first_layer import first_layer_of, read_first_layer
from transfer.checkpoints.weights import Weights


def draw_kernels(weights: Weights | str | Path) -> Image.Image:
    """Returns the kernels twice, as a PIL image: each on a scale of its own, and all on one scale,
    on which a blank kernel is grey. Blank ones are framed and counted.

    Args:
        weights: what `transfer.read_weights` returns, or a file.

    Raises:
        InputError: the file cannot be read, or has no layer that reads colours.

    Example:
        >>> import transfer
        >>> weights = transfer.read_weights("random", backbone="tiny_resnet")
        >>> transfer.draw_kernels(weights).save("kernels.png")
    """
    if isinstance(weights, Weights):
        layer, title = first_layer_of(weights), str(weights.provenance["name"])
    else:
        layer, title = read_first_layer(str(weights)), str(weights)
    facts = judge_kernels(layer.kernels)
    return kernel_sheet(layer.kernels, facts, f"{title}: {layer.name}")
