"""Checkpoints of every pretraining method: the trunk is transferred, other keys have a rule."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from fvcore.common.config import CfgNode

from pretrain.common.config import load_config
from pretrain.common.errors import InputError
from pretrain.defaults import get_defaults
from pretrain.methods.all_methods import METHODS
from pretrain.methods.build import build_method
from transfer.checkpoints.build import build_frozen_backbone
from transfer.checkpoints.convert import check, write_proven
from transfer.checkpoints.read import read, read_weights

SMALL = ("BACKBONE.NAME", "tiny_resnet", "METHOD.QUEUE_SIZE", "512")
EXPECTED_DROPS = {
    "simclr": {"projector"},
    "moco_v1": {"projector", "momentum copy", "queue"},
    "moco_v2": {"projector", "momentum copy", "queue"},
    "moco_v3": {"projector", "predictor", "momentum copy"},
    "simsiam": {"projector", "predictor"},
    "byol": {"projector", "predictor", "momentum copy"},
    "vicreg": {"projector"},
    "barlow": {"projector"},
    "supervised": {"classifier"},
    "mscn": {"projector"},
    "mscn_moco_v2": {"projector", "momentum copy", "queue"},
    "msn": {"anchor network", "momentum copy", "prototypes"},
    "mae": {"decoder"},
}
VITS = [name for name, needs in METHODS.items() if needs.vit]


def config(name: str, *overrides: str) -> CfgNode:
    kind = "vitt" if name in VITS else "r18"
    return load_config(f"{name}_{kind}_tiny100.yaml", get_defaults(), overrides)


def test_no_method_is_missing() -> None:
    assert METHODS.keys() <= EXPECTED_DROPS.keys()


@pytest.mark.parametrize("name", EXPECTED_DROPS)
def test_the_trunk_is_read_and_every_key_explained(
    name: str, tmp_path: Path, builders: ModuleType
) -> None:
    torch.manual_seed(0)
    cfg = config(name, *(() if name in VITS else SMALL))
    method = build_method(cfg, num_classes=10)
    backbone, model = cfg.BACKBONE.NAME, method.state_dict()
    path = builders.mscn(tmp_path / "checkpoint.pth", {}, backbone, model=model, method=name)
    reading = read(str(path))
    trunk = method.trunk.state_dict()
    assert reading.weights.state.keys() == trunk.keys()
    assert all(torch.equal(reading.weights.state[key], trunk[key]) for key in trunk)
    account = reading.weights.account
    assert set(account.dropped) == EXPECTED_DROPS[name]
    kept = len(account.used) + sum(len(keys) for keys in account.dropped.values())
    assert kept == len(method.state_dict())
    assert reading.weights.provenance["method"] == name


def test_a_convnext_of_ours_is_read(tmp_path: Path, builders: ModuleType) -> None:
    torch.manual_seed(0)
    name = "convnext_atto"
    method = build_method(config("mscn", *SMALL, "BACKBONE.NAME", name), num_classes=10)
    path = builders.mscn(tmp_path / "checkpoint.pth", {}, name, model=method.state_dict())
    weights = read(str(path)).weights
    trunk = method.trunk.state_dict()
    assert weights.backbone == name and weights.state.keys() == trunk.keys()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = method.trunk.eval()(images)
        assert torch.equal(build_frozen_backbone(weights)(images), expected)


def test_other_backbones_are_refused_by_name(tmp_path: Path, builders: ModuleType) -> None:
    backbone = "mobilenetv3_large_100"
    path = builders.mscn(
        tmp_path / "checkpoint.pth", {}, backbone, model={"trunk.norm.weight": torch.ones(3)}
    )
    with pytest.raises(InputError, match=f"is a {backbone}; only ResNets, ViTs, ConvNeXts, "):
        read(str(path))


def test_precise_bn_is_part_of_the_default_name(builders: ModuleType, tmp_path: Path) -> None:
    state = builders.trained_state("tiny_resnet")
    names = {}
    for file, changes in (("checkpoint", {}), ("checkpoint_precise_bn", {"optimizer": None})):
        path = builders.mscn(tmp_path / f"{file}.pth", state, "tiny_resnet", **changes)
        report = check(str(path), [".pkl"])
        assert report.headline.startswith("format mscn (this project), method mscn, tiny_resnet, ")
        names[file] = report.to_dict()["name"]
        write_proven(report, tmp_path / f"{file}.pkl")
        again = read_weights(str(tmp_path / f"{file}.pkl"))
        assert again.provenance["name"] == names[file]
    assert names == {
        "checkpoint": "mscn_tiny_resnet_2ep",
        "checkpoint_precise_bn": "mscn_tiny_resnet_2ep_precise_bn",
    }
