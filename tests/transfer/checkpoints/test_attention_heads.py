"""The number of a ViT's attention heads: what a file shows, what is assumed, what a user says.

The reference for features is timm's own ViT with that number of heads.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from pretrain.common.errors import InputError
from tests.transfer.checkpoints.formats import linear, put
from tools.convert_weights import main
from transfer.checkpoints.attention_heads import fixed_table
from transfer.checkpoints.build import build_frozen_backbone
from transfer.checkpoints.read import read_weights
from transfer.checkpoints.weights import Weights

State = dict[str, Tensor]
LIGHTNING = {"pytorch-lightning_version": "2.4.0", "epoch": 9}


def slow_table(width: int, side: int, row_first: bool) -> Tensor:
    """MoCo v3's table (the row first) or MAE's (the column first), number by number."""
    rows = [[0.0] * width]  # the class token's
    for row in range(side):
        for column in range(side):
            numbers: list[float] = []
            for place in (row, column) if row_first else (column, row):
                angles = [place / 10000 ** (k / (width // 4)) for k in range(width // 4)]
                numbers += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            rows.append(numbers)
    return torch.tensor([rows])


def network(heads: int, positions: Tensor | None = None) -> nn.Module:
    """Returns timm's ViT-Ti for images of 32 px, with this number of heads."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, num_heads=heads, num_classes=0
        )
        for tensor in made.parameters():
            tensor.data += 0.05 * torch.randn_like(tensor)
    if positions is not None:
        made.pos_embed.data = positions.clone()
    return made.eval()


def features(weights: Weights) -> Tensor:
    return build_frozen_backbone(weights)(IMAGES)


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
MOCO, MAE = slow_table(192, 2, row_first=True), slow_table(192, 2, row_first=False)


@pytest.mark.parametrize("width, side", [(192, 2), (384, 14)])
def test_the_two_fixed_tables_are_told_apart(width: int, side: int) -> None:
    for row_first, whose in ((True, "moco_v3"), (False, "mae")):
        table = slow_table(width, side, row_first)
        assert fixed_table(table) == whose
        assert fixed_table(table.half()) == whose
        assert fixed_table(table[:, 1:]) == whose  # without a class token
        assert fixed_table(table + 0.02) is None
    assert fixed_table(None) is None and fixed_table(torch.zeros(1, 1, width)) is None


def test_what_is_no_table_is_none() -> None:
    """Such values of a file are refused later, with the tensor's name."""
    for odd in ("text", MAE.to_sparse(), MAE.to("meta"), MAE.int(), MAE[0]):
        assert fixed_table(odd) is None


def moco_files(state: State) -> dict[str, Any]:
    return {
        "linear probe": {"arch": "vit_small", "state_dict": put("module.", state)},
        "convert_to_deit.py": {"model": state},
        "fine-tuned by DeiT": {"model": state | linear("head", 9, 192), "epoch": 149},
        "bare": state,
        "Lightning": LIGHTNING | {"state_dict": put("model.", state)},
    }


@pytest.mark.parametrize("name", moco_files({}))
def test_moco_v3s_table_means_twelve_heads(name: str, tmp_path: Path) -> None:
    original = network(12, MOCO)
    torch.save(moco_files(dict(original.state_dict()))[name], tmp_path / "file.pth")
    weights = read_weights(tmp_path / "file.pth")
    assert weights.architecture["num_heads"] == 12
    assert any("MoCo v3's, so 12 are assumed" in line for line in weights.warnings)
    assert torch.allclose(features(weights), original(IMAGES), atol=1e-5)
    if name == "convert_to_deit.py":
        assert weights.provenance["method"] == "moco_v3"


def test_solo_learns_mae_has_twelve_heads_too(tmp_path: Path) -> None:
    original = network(12, MAE)
    content = put("backbone.", dict(original.state_dict())) | linear("decoder.decoder_pred", 9, 9)
    torch.save(LIGHTNING | {"state_dict": content}, tmp_path / "mae.ckpt")
    weights = read_weights(tmp_path / "mae.ckpt")
    assert weights.provenance["source"] == "solo_learn"
    assert torch.allclose(features(weights), original(IMAGES), atol=1e-5)


def test_an_assumed_number_is_said_and_the_option_sets_it(tmp_path: Path) -> None:
    """MAE-Lite's ViT-Ti has MAE's keys and 12 heads."""
    original = network(12, MAE)
    path = tmp_path / "mae_tiny.pth"
    torch.save({"model": dict(original.state_dict())}, path)
    assumed = read_weights(path)
    assert any("3 are assumed" in line and "--num-heads" in line for line in assumed.warnings)
    assert not torch.allclose(features(assumed), original(IMAGES), atol=1e-3)

    output = tmp_path / "converted.safetensors"
    assert main([str(path), str(output), "--num-heads", "12"]) == 0
    for weights in (read_weights(path, num_heads=12), read_weights(output)):
        assert torch.allclose(features(weights), original(IMAGES), atol=1e-5)
        assert not any("heads" in line for line in weights.warnings)
    assert read_weights(output).sha256 == assumed.sha256


def test_the_users_number_is_taken_before_the_tables(tmp_path: Path) -> None:
    """MAE-Lite's ViT-S of MoCo v3 has 6 heads and MoCo v3's table."""
    original = network(3, MOCO)
    path, output = tmp_path / "a.pth", tmp_path / "b.pth"
    torch.save(dict(original.state_dict()), path)
    assert main([str(path), str(output), "--num-heads", "3"]) == 0
    assert torch.allclose(features(read_weights(output)), original(IMAGES), atol=1e-5)


def test_projects_with_the_usual_number_are_not_doubted(tmp_path: Path) -> None:
    state = dict(network(3).state_dict())
    copies = {"student": put("module.backbone.", state), "teacher": put("backbone.", state)}
    args = argparse.Namespace(arch="vit_tiny")
    torch.save({**copies, "args": args, "epoch": 1}, tmp_path / "dino.pth")
    weights = read_weights(tmp_path / "dino.pth")
    assert weights.provenance["method"] == "dino"
    assert not any("heads" in line for line in weights.warnings)


def hub_folder(folder: Path, heads: int, **args: Any) -> Path:
    """What timm's push_to_hf_hub writes for a network that was built with these arguments."""
    folder.mkdir()
    stated = {"mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": stated, "model_args": args}
    (folder / "config.json").write_text(json.dumps(config))
    state = {name: tensor.contiguous() for name, tensor in network(heads).state_dict().items()}
    safetensors.torch.save_file(state, folder / "model.safetensors")
    return folder


def test_arguments_in_timms_config(tmp_path: Path) -> None:
    """Arguments that no tensor shows are used, or refused by name."""
    found = read_weights(hub_folder(tmp_path / "a", 12, num_heads=12, img_size=32, drop_rate=0.1))
    assert torch.allclose(features(found), network(12)(IMAGES), atol=1e-5)
    assert not found.warnings
    plain = read_weights(hub_folder(tmp_path / "b", 3, img_size=32, global_pool="token"))
    assert torch.allclose(features(plain), network(3)(IMAGES), atol=1e-5) and not plain.warnings
    for number, (args, said) in enumerate(
        (
            ({"act_layer": "quick_gelu"}, "model_args act_layer 'quick_gelu', which changes what"),
            ({"output_stride": 8}, "model_args output_stride 8"),
            ({"global_pool": "max"}, "model_args global_pool 'max'"),
            ({"num_heads": "12"}, "num_heads '12', not a number"),
            ({"num_heads": 5}, "which 5 attention heads do not divide"),
        )
    ):
        with pytest.raises(InputError, match=said):
            read_weights(hub_folder(tmp_path / str(number), 3, **args))


@pytest.mark.parametrize(
    "heads, message", [(5, "192 wide, which 5 attention heads"), (0, "192 wide, which 0")]
)
def test_a_number_that_cannot_be(heads: int, message: str, tmp_path: Path) -> None:
    torch.save(dict(network(3).state_dict()), tmp_path / "vit.pth")
    with pytest.raises(InputError, match=f"vit.pth: .*{message}"):
        read_weights(tmp_path / "vit.pth", num_heads=heads)


def test_only_a_vit_has_heads(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    resnet = timm.create_model("resnet18", num_classes=0)
    torch.save(resnet.state_dict(), tmp_path / "resnet.pth")
    assert main([str(tmp_path / "resnet.pth"), "--check", "--num-heads", "12"]) == 2
    assert "it is a resnet18; only a ViT has" in capsys.readouterr().err
