"""Dilated trunks, heads, loss and input of the segmenter against slow versions or other libraries.

N images, C channels, K classes.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from pretrain.backbones.resnet import build_resnet
from pretrain.common.errors import InputError
from pretrain.data.highpass import HighPass
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.build import stride_in_1x1
from transfer.segmentation.dilation import dilate, total_stride
from transfer.segmentation.fcn import (
    FcnHead,
    Segmenter,
    build_segmenter,
    load_backbone,
    pixel_loss,
)

ARGUMENTS = {
    "backbone": "tiny_resnet",
    "architecture": {},
    "preprocess": Preprocess(),
    "num_classes": 3,
    "output_stride": 8,
    "contract_dilation": False,
    "head_convs": 2,
    "head_channels": 4,
    "head_dilation": 2,
    "head_concat": False,
    "dropout": 0.0,
    "aux_weight": 0.0,
    "aux_channels": 5,
    "crop_size": 32,
    "align_corners": False,
    "loss_over": "labelled",
}


@torch.no_grad()
def last_map(trunk: nn.Module, image: Tensor) -> Tensor:
    return trunk.eval().forward_stages(image)[trunk.stages[-1]]


@pytest.mark.parametrize(
    "output_stride, replaced", [(16, (False, False, True)), (8, (False, True, True))]
)
def test_contracted_is_torchvisions(output_stride: int, replaced: tuple[bool, ...]) -> None:
    torch.manual_seed(0)
    trunk = build_resnet("resnet50")
    theirs = torchvision.models.resnet50(replace_stride_with_dilation=list(replaced))
    theirs.load_state_dict(trunk.state_dict(), strict=False)
    dilate(trunk, output_stride, contract=True)
    image = torch.randn(1, 3, 65, 49)
    x = theirs.eval().maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
    x = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(x))))
    assert torch.equal(last_map(trunk, image), x)


def test_uncontracted_dilates_every_3x3_of_the_stage() -> None:
    """MoCo's words: the 3x3 convolutions in conv5 blocks have dilation 2 and stride 1."""
    trunk = build_resnet("resnet50")
    dilate(trunk, 16, contract=False)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        for index, block in enumerate(getattr(trunk, name)):
            dilation = (2, 2) if name == "layer4" else (1, 1)
            strided = index == 0 and name in ("layer2", "layer3")
            conv = block.conv2
            assert (conv.dilation, conv.padding) == (dilation, dilation)
            assert conv.stride == ((2, 2) if strided else (1, 1))
    assert total_stride(build_resnet("resnet50")) == 32
    assert last_map(trunk, torch.zeros(1, 3, 65, 65)).shape[-2:] == (5, 5)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "msra50", "tiny_resnet"])
def test_contracted_keeps_the_old_features(name: str) -> None:
    """The features of the strided trunk are every n-th of the dilated one, away from no border:
    padding is of zeros in both, so they agree everywhere."""
    torch.manual_seed(1)
    make = build_resnet("resnet50" if name == "msra50" else name)
    dilated = build_resnet("resnet50" if name == "msra50" else name)
    if name == "msra50":
        stride_in_1x1(make)
        stride_in_1x1(dilated)
    dilated.load_state_dict(make.state_dict())
    total = total_stride(make)
    dilate(dilated, total // 4, contract=True)
    image = torch.randn(1, 3, 4 * total + 1, 3 * total + 1)
    coarse, fine = last_map(make, image), last_map(dilated, image)
    assert fine.shape[-1] > 3 * coarse.shape[-1]
    assert torch.allclose(fine[..., ::4, ::4], coarse, rtol=1e-4, atol=1e-4 * coarse.abs().max())


def test_a_stride_that_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="OUTPUT_STRIDE 64 is not possible.*32, 16, 8, 4"):
        dilate(build_resnet("resnet18"), 64, contract=True)


@torch.no_grad()
def test_head_by_hand() -> None:
    """Each convolution as a sum over its nine taps, BN from its definition."""
    torch.manual_seed(2)
    head = FcnHead(3, 4, 2, num_convs=2, dilation=2, concat=True, dropout=0.5).eval()
    for norm in (m for m in head.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    nn.init.normal_(head.classifier.weight)
    nn.init.normal_(head.classifier.bias)
    x = torch.randn(2, 3, 7, 9)

    def layer(x: Tensor, block: nn.Sequential, dilation: int) -> Tensor:
        conv, norm, _ = block
        padded = F.pad(x, (dilation,) * 4)
        height, width = x.shape[-2:]
        total = torch.zeros(x.shape[0], conv.out_channels, height, width)
        for i in range(3):
            for j in range(3):
                rows, columns = i * dilation, j * dilation
                window = padded[:, :, rows : rows + height, columns : columns + width]
                total += torch.einsum("oc,nchw->nohw", conv.weight[:, :, i, j], window)
        shape = (1, -1, 1, 1)
        scale = norm.weight / (norm.running_var + 1e-5).sqrt()
        shifted = (total - norm.running_mean.view(shape)) * scale.view(shape)
        return (shifted + norm.bias.view(shape)).clamp(min=0)

    y = layer(layer(x, head.convs[0], 2), head.convs[1], 2)
    y = layer(torch.cat([x, y], dim=1), head.conv_cat, 1)
    weight = head.classifier.weight[:, :, 0, 0]
    wanted = torch.einsum("kc,nchw->nkhw", weight, y) + head.classifier.bias.view(1, -1, 1, 1)
    assert torch.allclose(head(x), wanted, atol=1e-5)


@pytest.mark.parametrize("over", ["labelled", "all"])
def test_loss_by_a_loop_over_pixels(over: str) -> None:
    torch.manual_seed(3)
    scores, masks = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    masks[0, 1:] = 255
    total, count = 0.0, 0
    for n in range(2):
        for y in range(4):
            for x in range(5):
                label = int(masks[n, y, x])
                if label != 255:
                    parts = [math.exp(float(s)) for s in scores[n, :, y, x]]
                    total -= math.log(parts[label] / sum(parts))
                count += label != 255 or over == "all"
    assert pixel_loss(scores, masks, over).item() == pytest.approx(total / count, rel=1e-5)


def test_loss_without_labels_is_zero_with_a_gradient() -> None:
    scores = torch.randn(1, 3, 2, 2, requires_grad=True)
    pixel_loss(scores, torch.full((1, 2, 2), 255), "labelled").backward()
    assert torch.equal(scores.grad, torch.zeros_like(scores))


def item(height: int, width: int, seed: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8),
        "mask": torch.randint(0, 3, (height, width), generator=generator, dtype=torch.uint8),
        "height": height,
        "width": width,
    }


def test_input_is_filtered_before_it_is_padded() -> None:
    """Each image on its own, with a reflecting border; the padding is 0 and carries no label."""
    highpass = HighPass(5, 2.0)
    for preprocess in (Preprocess(), Preprocess(highpass=highpass)):
        model = build_segmenter(**{**ARGUMENTS, "preprocess": preprocess})
        batch = [item(20, 32, 0), item(32, 17, 1)]
        images, masks = model.collate(batch)
        assert images.shape == (2, 3, 32, 32) and masks.shape == (2, 32, 32)
        for index, one in enumerate(batch):
            mean = torch.tensor(preprocess.mean).view(3, 1, 1)
            std = torch.tensor(preprocess.std).view(3, 1, 1)
            wanted = (one["image"] / 255 - mean) / std
            if preprocess.highpass is not None:
                blurred = gaussian_blur(wanted, [5, 5], [2.0])
                wanted = wanted - blurred
            height, width = wanted.shape[-2:]
            assert torch.allclose(images[index, :, :height, :width], wanted, atol=1e-5)
            assert images[index, :, height:].abs().sum() == 0
            assert images[index, :, :, width:].abs().sum() == 0
            assert torch.equal(masks[index, :height, :width], one["mask"].long())
            assert (masks[index, height:] == 255).all() and (masks[index, :, width:] == 255).all()


def test_bgr_weights_see_bgr() -> None:
    theirs = Preprocess((103.53, 116.28, 123.675), (1.0,) * 3, "BGR", (0.0, 255.0))
    model = build_segmenter(**{**ARGUMENTS, "preprocess": theirs})
    one = item(32, 32, 0)
    images, _ = model.collate([one])
    blue = one["image"][2].float() - 103.53
    assert torch.allclose(images[0, 0], blue, atol=1e-4)


def test_training_and_prediction_shapes() -> None:
    model = build_segmenter(**{**ARGUMENTS, "aux_weight": 0.4, "output_stride": 4})
    batch = [item(20, 32, 0), item(32, 17, 1)]
    losses = model.train()(batch)
    assert set(losses) == {"loss_sem_seg", "loss_aux"}
    # Scores start near 0: the loss near log K, the second one 0.4 times as much.
    assert losses["loss_sem_seg"].item() == pytest.approx(math.log(3), abs=0.2)
    assert losses["loss_aux"].item() == pytest.approx(0.4 * math.log(3), abs=0.1)
    model.eval()
    big = {**batch[0], "height": 41, "width": 63}
    with torch.no_grad():
        found = model([batch[1], big])
    assert [tuple(f.shape) for f in found] == [(32, 17), (41, 63)]
    assert all(f.dtype == torch.uint8 and f.max() < 3 for f in found)


@torch.no_grad()
@pytest.mark.parametrize("align", [True, False])
def test_upsampling_by_hand(align: bool) -> None:
    model: Segmenter = build_segmenter(**{**ARGUMENTS, "align_corners": align})
    row = torch.tensor([0.0, 1.0, 4.0]).view(1, 1, 1, 3)
    found = model._upsample(row, (1, 5)).flatten().tolist()
    wanted = []
    for i in range(5):
        place = i * 2 / 4 if align else max((i + 0.5) * 3 / 5 - 0.5, 0.0)
        left = min(int(place), 2)
        right = min(left + 1, 2)
        a, b = row.flatten()[left].item(), row.flatten()[right].item()
        wanted.append(a + (place - left) * (b - a))
    assert found == pytest.approx(wanted, abs=1e-6)


def test_every_tensor_of_the_backbone_is_loaded() -> None:
    model = build_segmenter(**ARGUMENTS)
    state = build_resnet("tiny_resnet").state_dict()
    load_backbone(model, state, "w.pth")
    assert all(torch.equal(model.backbone.state_dict()[key], state[key]) for key in state)
    lacking = {key: value for key, value in state.items() if key != "conv1.weight"}
    with pytest.raises(InputError, match="w.pth lacks .'conv1.weight'."):
        load_backbone(model, lacking, "w.pth")
    with pytest.raises(InputError, match="w.pth: size mismatch for conv1.weight"):
        load_backbone(model, {**state, "conv1.weight": torch.zeros(1)}, "w.pth")
