"""A convolution with its norm and ReLU as one module, and the initialisations of Detectron2."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from transfer.detection.torchvision_engine.batchnorm import make_norm


class ConvNorm(nn.Conv2d):
    """Applies a convolution (its padding keeps the size at stride 1), then a norm and ReLU, which
    are optional. The names in the state dict are `weight`, `bias`, `norm.*`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        norm: str = "",
        bias: bool = False,
        relu: bool = False,
    ) -> None:
        super().__init__(
            inputs,
            outputs,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2 * dilation,
            dilation=dilation,
            groups=groups,
            bias=bias,
        )
        self.norm = make_norm(norm, outputs)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """Returns (N, outputs, ceil(H / stride), ceil(W / stride)) of (N, inputs, H, W)."""
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        return F.relu_(x) if self.relu else x


def init_msra(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    """Initialises with kaiming_normal, with fan_out for ReLU, bias 0 (fvcore `nn/weight_init.py`,
    c2_msra_fill).
    """
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def init_xavier(layer: nn.Conv2d | nn.Linear) -> None:
    """Initialises with Caffe2's XavierFill: kaiming_uniform with a = 1, bias 0 (c2_xavier_fill)."""
    # Not torch's xavier_uniform_, which also counts the outputs.
    nn.init.kaiming_uniform_(layer.weight, a=1)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def init_normal(layer: nn.Conv2d | nn.Linear, std: float) -> None:
    """Draws the weights from N(0, std); the bias is 0."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
