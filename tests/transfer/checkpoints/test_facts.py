"""What a format states in addition to tensors: preprocessing, heads, strides, padding; its use."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from pretrain.backbones.resnet import BACKBONES
from pretrain.data.preprocess import IMAGENET_STD, Preprocess
from transfer.checkpoints.build import build_frozen_backbone, build_trunk
from transfer.checkpoints.convert import check
from transfer.checkpoints.formats.all_formats import FORMATS
from transfer.checkpoints.formats.facebookresearch import _facts_of_moco_v3
from transfer.checkpoints.formats.other_frameworks import _facts_of_msra
from transfer.checkpoints.formats.toolboxes import _facts_of_vissl, facts_of_lightning
from transfer.checkpoints.networks.architectures import nearest_backbone
from transfer.checkpoints.networks.vit_architectures import parse_vit
from transfer.checkpoints.networks.vit_trunk import build_vit
from transfer.checkpoints.originals.resnet import Detectron2ResNet, pad_same
from transfer.checkpoints.originals.vit import PlainVit
from transfer.checkpoints.weights import Weights, make_provenance
from transfer.checkpoints.writers import write_weights


@pytest.fixture(scope="module")
def resnet50(builders: ModuleType) -> dict[str, Tensor]:
    """A state that no test changes."""
    return builders.trained_state("resnet50")


def test_preprocessing_by_project() -> None:
    swav = FORMATS["swav"].facts({}).preprocess
    assert swav.std == (0.228, 0.224, 0.225)
    grey = torch.full((1, 3, 2, 2), 128, dtype=torch.uint8)
    simclr = FORMATS["simclr"].facts({})
    assert torch.allclose(simclr.preprocess.apply(grey), torch.full((1, 3, 2, 2), 128 / 255))
    assert simclr.architecture == {"padding": "same_pool"}
    byol = FORMATS["byol"].facts({})
    assert byol.preprocess.std == IMAGENET_STD and byol.architecture == {"padding": "same"}


def test_msra_is_bgr_on_255_and_strides_early() -> None:
    facts = _facts_of_msra({"conv1_b": torch.tensor([0.0, 0.5])})
    red = torch.zeros(1, 3, 1, 1)
    red[:, 0] = 1.0
    assert facts.preprocess.apply(red).flatten().tolist() == pytest.approx(
        [-103.53, -116.28, 255 - 123.675]
    )
    assert facts.architecture == {"stride_in_1x1": True}
    assert "up to 5.0e-01" in facts.warnings[0]
    assert not _facts_of_msra({"conv1_b": torch.zeros(2)}).warnings


def test_moco_v3s_small_vit_has_twelve_heads() -> None:
    for width, heads in ((384, {"num_heads": 12}), (768, {})):
        content = {"state_dict": {"module.base_encoder.cls_token": torch.zeros(1, 1, width)}}
        assert dict(_facts_of_moco_v3(content).architecture) == heads


def test_methods_and_epochs() -> None:
    loss = {"swav_criterion.num_iteration": 1}
    content = {"classy_state_dict": {"loss": loss}, "train_phase_idx": 399}
    assert _facts_of_vissl(content).known == {"method": "swav", "epochs": 400}
    assert _facts_of_vissl({"classy_state_dict": {"loss": {"momentum_teacher.x": 1}}}).warnings
    for version, epochs in (("1.5.10", 99), ("1.6.0", 100), ("2.1.2", 100)):
        known = facts_of_lightning({"epoch": 99, "pytorch-lightning_version": version}).known
        assert known["epochs"] == epochs


@pytest.mark.parametrize("size, kernel, stride", [(224, 7, 2), (112, 3, 2), (113, 3, 2), (7, 3, 1)])
def test_padding_same(size: int, kernel: int, stride: int) -> None:
    """TensorFlow: ceil(size / stride) windows; the padding's odd pixel comes last."""
    x = torch.arange(1.0, size + 1).expand(1, 1, size, size)
    windows = F.unfold(pad_same(x, kernel, stride), kernel, stride=stride)
    assert windows.shape[2] == (-(-size // stride)) ** 2
    total = (-(-size // stride) - 1) * stride + kernel - size
    first = pad_same(x, kernel, stride)[0, 0, size // 2, :kernel].tolist()
    left = total // 2
    assert first == [0.0] * left + [float(v) for v in range(1, kernel - left + 1)]


class Slow(nn.Module):
    """ResNet-50's stem and first two blocks of layer2, padded by hand, with the given strides."""

    def __init__(self, net: nn.Module, padding: str | None, early: bool) -> None:
        super().__init__()
        self.net, self.padding, self.early = net, padding, early

    def _conv(self, x: Tensor, conv: nn.Conv2d, stride: int) -> Tensor:
        kernel = conv.weight.shape[-1]
        if self.padding == "same":
            return F.conv2d(pad_same(x, kernel, stride), conv.weight, stride=stride)
        return F.conv2d(x, conv.weight, stride=stride, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        net = self.net
        x = F.relu(net.bn1(self._conv(x, net.conv1, 2)))
        if self.padding is None:
            x = F.max_pool2d(x, 3, 2, 1)
        else:
            x = F.max_pool2d(pad_same(x, 3, 2), 3, 2)
        for layer, first in ((net.layer1, 1), (net.layer2, 2), (net.layer3, 2), (net.layer4, 2)):
            for number, block in enumerate(layer):
                stride = first if number == 0 else 1
                strides = (stride, 1) if self.early else (1, stride)
                y = F.relu(block.bn1(self._conv(x, block.conv1, strides[0])))
                y = F.relu(block.bn2(self._conv(y, block.conv2, strides[1])))
                y = block.bn3(self._conv(y, block.conv3, 1))
                if number == 0:
                    x = block.downsample[1](self._conv(x, block.downsample[0], stride))
                x = F.relu(x + y)
        return x.mean(dim=(2, 3))


@pytest.mark.parametrize("padding, early", [(None, True), ("same", False), ("same_pool", False)])
def test_a_frozen_backbone_computes_as_its_architecture(
    padding: str | None, early: bool, resnet50: dict[str, Tensor]
) -> None:
    state = resnet50
    architecture = {"stride_in_1x1": True} if early else {"padding": padding}
    weights = Weights(state, "resnet50", Preprocess(), make_provenance(), architecture=architecture)
    with torch.device("meta"):
        network = torchvision.models.resnet50().eval()
    network.load_state_dict(state, strict=False, assign=True)
    x = torch.randn(1, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = build_frozen_backbone(weights)(x), Slow(network, padding, early)(x)
        plain = build_frozen_backbone(Weights(state, "resnet50", Preprocess(), {}))(x)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert not torch.allclose(plain, expected, rtol=1e-3)


def test_the_two_frames_agree_on_padding(resnet50: dict[str, Tensor], builders: ModuleType) -> None:
    """`build_trunk`'s and the proof's networks, which pad independently, on even sides."""
    with torch.device("meta"):
        trunk = build_trunk("resnet50", {"padding": "same"}).eval()
        frame = Detectron2ResNet("resnet50", padding="same").eval()
    trunk.load_state_dict(resnet50, assign=True)
    renamed = {builders.detectron2_name(name): tensor for name, tensor in resnet50.items()}
    frame.load_state_dict(renamed, assign=True)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = trunk.forward_stages(x), frame.forward_stages(x)
    for stage, map_ in first.items():
        assert torch.allclose(map_, second[stage], rtol=1e-4, atol=1e-4 * float(map_.abs().max()))


@pytest.mark.parametrize("heads", [3, 12])
def test_a_plain_vit_equals_timms(heads: int, builders: ModuleType) -> None:
    vit = parse_vit("vit_tiny_patch16_64")
    torch.manual_seed(0)
    network = build_vit(vit, {"num_heads": heads}).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network.forward_features(x)
        found = PlainVit(network.state_dict(), "canonical", heads, 12).forward_stages(x)["norm"]
    assert torch.allclose(found, expected, atol=1e-5)
    other = PlainVit(network.state_dict(), "canonical", 6, 12).forward_stages(x)["norm"]
    assert not torch.allclose(other, expected, atol=1e-2)


@pytest.mark.parametrize(
    "name",
    [
        *("vit_small_patch8_224", "vit_base_patch16_384", "vit_large_patch14_224"),
        *("vit_giant2_patch14_ls_swiglu4096_reg4_518", "vit_giant_patch16_mlp6144_nocls_224"),
        *("vit_hugeplus_patch16_ls_swiglu5120_reg4_rope_224", "vit_base_patch16_ls_clsfree_384"),
    ],
)
def test_vits_are_known_by_their_shapes(name: str) -> None:
    with torch.device("meta"):
        state = build_trunk(name, {}).state_dict()
    assert nearest_backbone(state) == (name, 1.0)


@pytest.mark.parametrize("name", BACKBONES)
def test_resnets_are_known_by_their_shapes(name: str) -> None:
    with torch.device("meta"):
        state = build_trunk(name, {}).state_dict()
    assert nearest_backbone(state) == (name, 1.0)


# Groups and wide bottlenecks are proven by the smallest network that has both; the names and shapes
# of all of them are compared in names/test_layouts.py.
@pytest.mark.parametrize(
    "name",
    [
        "resnext50_32x4d",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("wide_resnet50_2", "resnet50w2")),
    ],
)
def test_wide_resnets_and_resnexts_are_known_and_proven(
    name: str, builders: ModuleType, tmp_path
) -> None:
    path = builders.torchvision(tmp_path / "w.pth", builders.trained_state(name))
    report = check(str(path), (".pkl", ".pth"))
    assert report.weights.backbone == name and not report.failures


def test_notes_say_what_readers_must_do(resnet50: dict[str, Tensor], tmp_path) -> None:
    architecture = {"padding": "same", "stride_in_1x1": True}
    weights = Weights(resnet50, "resnet50", Preprocess(), make_provenance(), None, (), architecture)
    write_weights(weights, tmp_path / "w.pth")
    report = check(str(tmp_path / "w.pth"), [".pkl"])
    assert not report.failures, "a file with torchvision's names strides early, too"
    notes = " ".join(report.notes)
    assert "STRIDE_IN_1X1 True" in notes and "TensorFlow's padding (same)" in notes
