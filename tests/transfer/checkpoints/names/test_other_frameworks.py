"""Names of other frameworks, against files that are written as their projects write them, and the
order of the network against torchvision's."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from tests.transfer.checkpoints import formats_foreign as written
from transfer.checkpoints.names import other_frameworks as foreign
from transfer.checkpoints.names.other_frameworks import BLOCKS, table, to_torch, walk

DEPTHS = {53: "resnet50", 104: "resnet101", 155: "resnet152"}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """A ResNet-50's names; a different number in each tensor, which is as small as it can be."""
    with torch.device("meta"):
        shapes = torchvision.models.resnet50().state_dict()
    names = [name for name in shapes if not name.startswith("fc.")]
    return {
        name: torch.full([1] * shapes[name].dim(), float(number))
        for number, name in enumerate(names)
    }


def flat(parts: tuple[dict, dict]) -> dict[str, Any]:
    return {
        f"{module.removeprefix('res_net50/~/')}/{leaf}": value
        for part in parts
        for module, leaves in part.items()
        for leaf, value in leaves.items()
    }


FILES = {
    "simclr": lambda s: {k.removeprefix("base_model/"): v for k, v in written.simclr(s).items()},
    "simclr_tf2": lambda s: {
        k.removeprefix("model/resnet_model/"): v for k, v in written.simclr_tf2(s).items()
    },
    "byol": lambda s: flat(written.byol_modules(s)),
    "msra": lambda s: written.caffe2(s, folded=False),
    "msra_folded": lambda s: written.caffe2(s, folded=True),
    "separius": lambda s: written.separius(s)["resnet"],
}
LACKS = {"msra_folded": r"running_|num_batches", "separius": "none"}


@pytest.mark.parametrize("name", FILES)
def test_each_tensor_is_found_in_the_projects_file(name: str, state: dict[str, Tensor]) -> None:
    file = FILES[name](state)
    names = table(getattr(foreign, name), file)
    lacks = LACKS.get(name, "num_batches")
    assert set(names) == {one for one in state if not re.search(lacks, one)}
    for canonical, stored in names.items():
        value = torch.as_tensor(file[stored])
        assert value.item() == state[canonical].item(), (canonical, stored)


@pytest.mark.parametrize("convolutions", BLOCKS)
def test_the_order_and_the_depth(convolutions: int) -> None:
    with torch.device("meta"):
        network = getattr(torchvision.models, DEPTHS[convolutions])()
    kinds = {name: type(module) for name, module in network.named_modules()}
    order = list(walk(BLOCKS[convolutions]))
    assert sorted(c.conv for c in order) == sorted(n for n in kinds if kinds[n] is nn.Conv2d)
    assert sorted(c.norm for c in order) == sorted(n for n in kinds if kinds[n] is nn.BatchNorm2d)
    assert [conv.place for conv in order] == list(range(convolutions))
    assert order[0] == ("conv1", "bn1", 0, -1, 0, "stem")
    places = [
        (conv.stage, conv.block, "shortcut 1 2 3".split().index(conv.part)) for conv in order[1:]
    ]
    assert places == sorted(places), "a shortcut is before its block's convolutions"
    for conv, (stage, block, part) in zip(order[1:], places):
        own, norm = f"conv{part}", f"bn{part}"
        if part == 0:
            own, norm = "downsample.0", "downsample.1"
        head = f"layer{stage + 1}.{block}."
        assert (conv.conv, conv.norm) == (head + own, head + norm)
    for name in FILES:
        stored = getattr(foreign, name)
        names = {one for conv in order for one in (stored(conv)[0], *stored(conv)[1])}
        found = table(stored, sorted(names)[: len(names) * 9 // 10])  # of a file that lost some
        assert set(found.values()) == names and len(
            {n.rpartition(".")[0] for n in found}
        ) == 2 * len(order)


def test_shapes_become_torchs() -> None:
    kernel = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5)  # height, width, in, out
    turned = to_torch("layer1.0.downsample.0.weight", kernel)
    assert turned.shape == (5, 4, 2, 3) and turned[4, 1, 0, 2] == kernel[0, 2, 1, 4]
    assert torch.equal(to_torch("conv1.weight", kernel), turned)
    for norm in ("bn1.weight", "layer1.0.bn2.running_var", "layer1.0.downsample.1.bias"):
        assert to_torch(norm, torch.ones(1, 1, 1, 6)).shape == (6,)
        assert to_torch(norm, torch.ones(6)).shape == (6,)
