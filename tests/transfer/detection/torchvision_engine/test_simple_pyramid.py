"""The simple feature pyramid against its levels written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.common.errors import InputError
from tests.transfer.detection import specs
from tests.transfer.detection.torchvision_engine.test_vit import SMALL, randomised
from transfer.detection.torchvision_engine.simple_pyramid import SimplePyramidSpec
from transfer.detection.torchvision_engine.vit import ViTSpec


def slow_norm(x: Tensor, norm: nn.Module) -> Tensor:
    """Over the channels of each place, through torch's channels-last layer norm."""
    moved = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), norm.weight, norm.bias, 1e-6)
    return moved.permute(0, 3, 1, 2)


def slow_deconvolution(x: Tensor, layer: nn.ConvTranspose2d) -> Tensor:
    """Each place becomes 2 x 2 places: a product with the kernel's four corners."""
    count, _, height, width = x.shape
    out = torch.zeros(count, layer.out_channels, 2 * height, 2 * width)
    for dy in range(2):
        for dx in range(2):
            part = torch.einsum("nchw,cd->ndhw", x, layer.weight[:, :, dy, dx])
            out[:, :, dy::2, dx::2] = part + layer.bias[:, None, None]
    return out


@torch.no_grad()
def test_levels() -> None:
    torch.manual_seed(0)
    vit_spec = ViTSpec(**{**SMALL, "patch_size": 16, "image_size": 64, "pretrain_image_size": 64})
    pyramid = SimplePyramidSpec(vit=vit_spec, out_channels=8, norm="LN").build().eval()
    vit = randomised(pyramid.net)
    for name, parameter in pyramid.named_parameters():
        if parameter.ndim == 1 and not name.startswith("net."):
            parameter.uniform_(0.5, 1.5)
    x = torch.randn(1, 3, 64, 64)
    found, features = pyramid(x), vit(x)

    def outputs(y: Tensor, reduce: nn.Module, smooth: nn.Module) -> Tensor:
        y = slow_norm(F.conv2d(y, reduce.weight), reduce.norm)
        return slow_norm(F.conv2d(y, smooth.weight, padding=1), smooth.norm)

    first, norm, _, second, *rest = pyramid.simfp_2
    four_times = F.gelu(slow_norm(slow_deconvolution(features, first), norm))
    expected = {"p2": outputs(slow_deconvolution(four_times, second), *rest)}
    expected["p3"] = outputs(slow_deconvolution(features, pyramid.simfp_3[0]), *pyramid.simfp_3[1:])
    expected["p4"] = outputs(features, *pyramid.simfp_4)
    halved = features.unfold(2, 2, 2).unfold(3, 2, 2).amax(dim=(4, 5))
    expected["p5"] = outputs(halved, *pyramid.simfp_5[1:])
    expected["p6"] = expected["p5"][:, :, ::2, ::2]
    assert list(found) == list(expected) == list(pyramid.out_features)
    assert pyramid.strides == {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    assert pyramid.simfp_4[0].bias is None, "a norm follows"


def test_images_are_padded_to_the_square() -> None:
    vit = {**SMALL, "patch_size": 16, "image_size": 64, "pretrain_image_size": 32}
    keys = {f"TRANSFER.VIT.{name.upper()}": value for name, value in vit.items()}
    keys |= {"MODEL.FPN.NORM": "LN", "MODEL.FPN.OUT_CHANNELS": 8, "MODEL.ROI_BOX_HEAD.NUM_FC": 1}
    detector = specs.make_detector({**specs.VIT, **keys})
    image = torch.full((3, 20, 64), 200.0)
    batch, sizes = detector.preprocess([image, image[:, :, :40]])
    assert batch.shape == (2, 3, 64, 64) and sizes == [(20, 64), (20, 40)]
    assert batch[0, :, 20:].abs().max() == 0 and batch[1, :, :, 40:].abs().max() == 0
    with pytest.raises(InputError, match="20 x 65 does not fit the backbone's square of 64 px"):
        detector.preprocess([torch.zeros(3, 20, 65)])
