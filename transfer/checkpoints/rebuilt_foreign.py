"""Networks of other frameworks filled from their own names, to prove a conversion against.

Each goes over its network in the order in which that framework builds it and spells the names as
the framework does; nothing here uses the converter's tables (`names_foreign`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from transfer.checkpoints.rebuilt import Detectron2ResNet, NormedConv

Tensors = Mapping[str, Tensor]
# (network, its tensors) -> for each convolution: itself, its kernel as (out, in, h, w), and the
# norm's scale, offset, mean and variance, the last two None where they are folded into the others.
Rows = Iterator[tuple[NormedConv, Tensor, tuple[Tensor, Tensor, Tensor | None, Tensor | None]]]


def fill(network: Detectron2ResNet, tensors: Tensors, rows: Callable[..., Rows]) -> nn.Module:
    """Puts each convolution's and norm's values into the network, in eval mode.

    Raises:
        KeyError: a tensor is not there.
    """
    for conv, kernel, (scale, offset, mean, variance) in rows(network, tensors):
        norm = conv.norm
        state = {
            "weight": kernel.float(),
            "norm.weight": scale.float(),
            "norm.bias": offset.float(),
            "norm.running_mean": torch.zeros_like(norm.running_mean) if mean is None else mean,
            "norm.running_var": torch.ones_like(norm.running_var) if variance is None else variance,
        }
        conv.load_state_dict(state, strict=False, assign=True)
        if variance is None:
            norm.eps = 0.0
    return network.eval()


def simclr_rows(network: Detectron2ResNet, tensors: Tensors) -> Rows:
    """TensorFlow 1 numbers layers in the order in which they are made: shortcuts first."""
    order = [network.stem.conv1]
    for stage in _stages(network):
        for block in stage:
            convs = (block.shortcut, block.conv1, block.conv2, block.conv3)
            order += [conv for conv in convs if conv is not None]
    for number, conv in enumerate(order):
        end = f"_{number}" if number else ""
        norm = [
            tensors[f"batch_normalization{end}/{leaf}"]
            for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
        ]
        yield conv, _from_hwio(tensors[f"conv2d{end}/kernel"]), tuple(norm)


def simclr_tf2_rows(network: Detectron2ResNet, tensors: Tensors) -> Rows:
    """TensorFlow 2 numbers the layers of each list: convolution, norm, dropblock, ..."""

    def row(conv: NormedConv, layers: str, at: int, norm_at: int) -> tuple:
        end = ".ATTRIBUTES/VARIABLE_VALUE"
        norm = [
            tensors[f"{layers}/{norm_at}/bn/{leaf}/{end}"]
            for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
        ]
        return conv, _from_hwio(tensors[f"{layers}/{at}/conv2d/kernel/{end}"]), tuple(norm)

    yield row(network.stem.conv1, "initial_conv_relu_max_pool", 0, 2)
    for group, stage in enumerate(_stages(network)):
        for number, block in enumerate(stage):
            path = f"block_groups/{group}/layers/{number}"
            if block.shortcut is not None:
                yield row(block.shortcut, f"{path}/projection_layers", 0, 1)
            for at, conv in zip((0, 3, 6), (block.conv1, block.conv2, block.conv3)):
                yield row(conv, f"{path}/conv_relu_dropblock_layers", at, at + 1)


def byol_rows(network: Detectron2ResNet, tensors: Tensors) -> Rows:
    """haiku's modules; evaluation uses the debiased `average` of the norms' moving averages."""

    def row(conv: NormedConv, kernel: str, norm: str) -> tuple:
        values = [tensors[f"{norm}/{leaf}"] for leaf in ("scale", "offset")]
        values += [tensors[f"{norm}/~/{kind}_ema/average"] for kind in ("mean", "var")]
        flat = tuple(value.flatten() for value in values)
        return conv, _from_hwio(tensors[f"{kernel}/w"]), flat

    yield row(network.stem.conv1, "initial_conv", "initial_batchnorm")
    for group, stage in enumerate(_stages(network)):
        for number, block in enumerate(stage):
            path = f"block_group_{group}/~/block_{number}/~"
            if block.shortcut is not None:
                yield row(block.shortcut, f"{path}/shortcut_conv", f"{path}/shortcut_batchnorm")
            for place, conv in enumerate((block.conv1, block.conv2, block.conv3)):
                yield row(conv, f"{path}/conv_{place}", f"{path}/batchnorm_{place}")


def msra_rows(network: Detectron2ResNet, tensors: Tensors, folded: bool = False) -> Rows:
    """Caffe2's blobs."""
    leaves = ("s", "b") if folded else ("gamma", "beta", "running_mean", "running_var")

    def row(conv: NormedConv, kernel: str, norm: str) -> tuple:
        values = [tensors[f"{norm}_bn_{leaf}"] for leaf in leaves]
        return conv, tensors[f"{kernel}_w"], (*values, *[None] * (4 - len(values)))

    yield row(network.stem.conv1, "conv1", "res_conv1")
    for group, stage in enumerate(_stages(network)):
        for number, block in enumerate(stage):
            head = f"res{group + 2}_{number}_branch"
            if block.shortcut is not None:
                yield row(block.shortcut, f"{head}1", f"{head}1")
            for letter, conv in zip("abc", (block.conv1, block.conv2, block.conv3)):
                yield row(conv, f"{head}2{letter}", f"{head}2{letter}")


def msra_folded_rows(network: Detectron2ResNet, tensors: Tensors) -> Rows:
    """Caffe2's blobs with a scale and a bias for each norm."""
    return msra_rows(network, tensors, folded=True)


def separius_rows(network: Detectron2ResNet, tensors: Tensors) -> Rows:
    """`nn.Sequential`s of convolution and (norm, ReLU)."""

    def row(conv: NormedConv, kernel: str, norm: str) -> tuple:
        leaves = ("weight", "bias", "running_mean", "running_var")
        return conv, tensors[f"{kernel}.weight"], tuple(tensors[f"{norm}.{x}"] for x in leaves)

    yield row(network.stem.conv1, "net.0.0", "net.0.1.0")
    for group, stage in enumerate(_stages(network)):
        for number, block in enumerate(stage):
            path = f"net.{group + 1}.blocks.{number}"
            if block.shortcut is not None:
                yield row(block.shortcut, f"{path}.projection.shortcut", f"{path}.projection.bn.0")
            for at, conv in zip((0, 2, 4), (block.conv1, block.conv2, block.conv3)):
                yield row(conv, f"{path}.net.{at}", f"{path}.net.{at + 1}.0")


def _stages(network: Detectron2ResNet) -> list[nn.Sequential]:
    return [getattr(network, f"res{index + 2}") for index in range(len(network.stages))]


def _from_hwio(kernel: Tensor) -> Tensor:
    """(height, width, in, out) -> (out, in, height, width)."""
    return kernel.movedim(3, 0).movedim(3, 1).contiguous()


ROWS: dict[str, Callable[..., Rows]] = {
    "simclr": simclr_rows,
    "simclr_tf2": simclr_tf2_rows,
    "byol": byol_rows,
    "msra": msra_rows,
    "msra_folded": msra_folded_rows,
    "separius": separius_rows,
}
