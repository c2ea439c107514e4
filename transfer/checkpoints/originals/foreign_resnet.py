"""ResNets filled from the names of other frameworks, to prove a conversion against.

Each goes over its network in the order in which that framework builds it and spells the names as
the framework does. The converter's tables (`names/other_frameworks.py`) are not used here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from transfer.checkpoints.originals.resnet import Detectron2ResNet, NormedConv

Tensors = Mapping[str, Tensor]
# A norm's scale, offset, mean and variance; the last two are None if they are folded into the first
# two
Norm = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
# For each convolution: the module, its kernel as (out, in, h, w), its norm.
Rows = Iterator[tuple[NormedConv, Tensor, Norm]]

TENSORFLOW = ("gamma", "beta", "moving_mean", "moving_variance")  # a norm's


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
            "norm.running_mean": torch.zeros(norm.num_features) if mean is None else mean,
            "norm.running_var": torch.ones(norm.num_features) if variance is None else variance,
        }
        conv.load_state_dict(state, strict=False, assign=True)
        if variance is None:
            norm.eps = 0.0
    return network.eval()


def simclr_rows(network: Detectron2ResNet, tensors: Tensors) -> Rows:
    """Yields each convolution of `network` with its kernel and norm in the file.

    TensorFlow 1 numbers layers in the order in which they are made: shortcuts first.
    """
    for number, (conv, *_) in enumerate(_walk(network)):
        end = f"_{number}" if number else ""
        names = [f"batch_normalization{end}/{leaf}" for leaf in TENSORFLOW]
        kernel = _from_hwio(tensors[f"conv2d{end}/kernel"])
        yield conv, kernel, _norm(*(tensors[name] for name in names))


def simclr_tf2_rows(network: Detectron2ResNet, tensors: Tensors) -> Rows:
    """Yields each convolution with its kernel and norm in the file. TensorFlow 2 numbers the layers
    of each list: convolution, norm, dropblock, ...
    """
    end = ".ATTRIBUTES/VARIABLE_VALUE"
    for conv, group, number, part in _walk(network):
        layers, at, norm_at = "initial_conv_relu_max_pool", 0, 2
        if part != "stem":
            own = "projection_layers" if part == "shortcut" else "conv_relu_dropblock_layers"
            layers = f"block_groups/{group}/layers/{number}/{own}"
            at = {"conv2": 3, "conv3": 6}.get(part, 0)
            norm_at = at + 1
        norm = [tensors[f"{layers}/{norm_at}/bn/{leaf}/{end}"] for leaf in TENSORFLOW]
        yield conv, _from_hwio(tensors[f"{layers}/{at}/conv2d/kernel/{end}"]), _norm(*norm)


def byol_rows(network: Detectron2ResNet, tensors: Tensors) -> Rows:
    """Yields rows of haiku's modules; evaluation uses the debiased `average` of the moving
    averages.
    """
    names = {
        "stem": ("initial_conv", "initial_batchnorm"),
        "shortcut": ("shortcut_conv", "shortcut_batchnorm"),
        **{f"conv{n + 1}": (f"conv_{n}", f"batchnorm_{n}") for n in range(3)},
    }
    for conv, group, number, part in _walk(network):
        path = "" if part == "stem" else f"block_group_{group}/~/block_{number}/~/"
        kernel, norm = (path + name for name in names[part])
        values = [tensors[f"{norm}/{leaf}"] for leaf in ("scale", "offset")]
        values += [tensors[f"{norm}/~/{kind}_ema/average"] for kind in ("mean", "var")]
        flat = (value.flatten() for value in values)
        yield conv, _from_hwio(tensors[f"{kernel}/w"]), _norm(*flat)


def msra_rows(network: Detectron2ResNet, tensors: Tensors, folded: bool = False) -> Rows:
    """Yields each convolution with its kernel and norm, from Caffe2's blobs."""
    leaves = ("s", "b") if folded else ("gamma", "beta", "running_mean", "running_var")
    branches = {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}
    for conv, group, number, part in _walk(network):
        kernel, norm = "conv1", "res_conv1"
        if part != "stem":
            kernel = norm = f"res{group + 2}_{number}_branch{branches[part]}"
        values = [tensors[f"{norm}_bn_{leaf}"] for leaf in leaves]
        yield conv, tensors[f"{kernel}_w"], _norm(*values)


def msra_folded_rows(network: Detectron2ResNet, tensors: Tensors) -> Rows:
    """Yields each convolution with its kernel and norm, from Caffe2's blobs with a scale and a bias
    for each norm.
    """
    return msra_rows(network, tensors, folded=True)


def separius_rows(network: Detectron2ResNet, tensors: Tensors) -> Rows:
    """Yields each convolution with its kernel and norm, from `nn.Sequential`s of convolution and
    (norm, ReLU).
    """
    leaves = ("weight", "bias", "running_mean", "running_var")
    for conv, group, number, part in _walk(network):
        path = f"net.{group + 1}.blocks.{number}"
        if part == "stem":
            kernel, norm = "net.0.0", "net.0.1.0"
        elif part == "shortcut":
            kernel, norm = f"{path}.projection.shortcut", f"{path}.projection.bn.0"
        else:
            at = 2 * (int(part[-1]) - 1)
            kernel, norm = f"{path}.net.{at}", f"{path}.net.{at + 1}.0"
        values = (tensors[f"{norm}.{leaf}"] for leaf in leaves)
        yield conv, tensors[f"{kernel}.weight"], _norm(*values)


def _norm(
    scale: Tensor, offset: Tensor, mean: Tensor | None = None, variance: Tensor | None = None
) -> Norm:
    return scale, offset, mean, variance


def _walk(network: Detectron2ResNet) -> Iterator[tuple[NormedConv, int, int, str]]:
    """Yields (convolution, stage from 0, block, part) in the order in which all of them build
    it.
    """
    yield network.stem.conv1, -1, 0, "stem"
    for group in range(len(network.stages)):
        for number, block in enumerate(getattr(network, f"res{group + 2}")):
            if block.shortcut is not None:
                yield block.shortcut, group, number, "shortcut"
            for part in ("conv1", "conv2", "conv3"):
                yield getattr(block, part), group, number, part


def _from_hwio(kernel: Tensor) -> Tensor:
    """Returns the kernel (out, in, height, width) of one (height, width, in, out)."""
    return kernel.movedim(3, 0).movedim(3, 1).contiguous()


ROWS: dict[str, Callable[..., Rows]] = {
    "simclr": simclr_rows,
    "simclr_tf2": simclr_tf2_rows,
    "byol": byol_rows,
    "msra": msra_rows,
    "msra_folded": msra_folded_rows,
    "separius": separius_rows,
}
