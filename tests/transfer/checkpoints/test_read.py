"""Every format is detected, every key is accounted for, and no incomplete file is accepted."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from types import ModuleType

import pytest
import torch
from fvcore.common.config import CfgNode

from pretrain.common.config import config_sha256
from pretrain.common.errors import InputError
from transfer.checkpoints.build import build_frozen_backbone
from transfer.checkpoints.networks.architectures import expected_shapes
from transfer.checkpoints.read import random_weights, read, read_weights

FILES = ("mscn", "moco_v1", "moco_v2", "torchvision", "safetensors", "detectron2")


@pytest.fixture(scope="module")
def state(builders: ModuleType) -> dict[str, torch.Tensor]:
    return builders.trained_state("tiny_resnet")


@pytest.fixture(scope="module")
def files(builders: ModuleType, state: dict, tmp_path_factory: pytest.TempPathFactory) -> dict:
    return builders.every_format(tmp_path_factory.mktemp("formats"), state, "tiny_resnet")


@pytest.mark.parametrize("name", FILES)
def test_detected_and_bit_equal(name: str, files: dict, state: dict) -> None:
    weights = read_weights(str(files[name]))
    assert weights.backbone == "tiny_resnet"
    assert weights.provenance["source"] == ("torchvision" if name == "safetensors" else name)
    assert sorted(weights.state) == sorted(state)
    assert all(torch.equal(weights.state[key], tensor) for key, tensor in state.items())
    assert all(value.is_contiguous() for value in weights.state.values())


def test_same_identity_from_every_format(files: dict) -> None:
    assert len({read_weights(str(path)).sha256 for path in files.values()}) == 1


def test_account_of_moco(files: dict, state: dict) -> None:
    account = read_weights(str(files["moco_v2"])).account
    assert len(account.used) == account.expected == len(state)
    counts = {rule: len(keys) for rule, keys in account.dropped.items()}
    assert counts == {"momentum copy": len(state) + 4, "queue": 2, "projector": 4}


def test_our_provenance(files: dict, builders: ModuleType) -> None:
    known = read_weights(str(files["mscn"])).provenance
    config = CfgNode({"SEED": 3, "SOLVER": {"EPOCHS": 2}, "OUTPUT_DIR": "elsewhere"})
    assert known["pretrain_config_sha256"] == config_sha256(config)
    assert known["name"] == "mscn_tiny_resnet_2ep"
    expected = {"method": "mscn", "epochs": 2, "pretrain_seed": 3, "pretrain_views": 160}
    assert {key: known[key] for key in expected} == expected


def test_unfinished_pretraining_is_said(tmp_path: Path, builders: ModuleType, state: dict) -> None:
    path = builders.mscn(tmp_path / "c.pth", state, "tiny_resnet", step=7)
    weights = read_weights(str(path))
    assert weights.provenance["epochs"] == 1.4
    assert weights.provenance["name"] == "mscn_tiny_resnet_1.4ep"
    assert any("step 7 of 10" in warning for warning in weights.warnings)


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": {}},
        {"schedule": {"steps_per_epoch": 0}},
        {"config": "a: [b"},
        {"config": None},
        {"preprocess": None},
        {"preprocess": {"mean": 1}},
        {"step": "x"},
    ],
)
def test_damaged_checkpoint_of_ours(
    tmp_path: Path, builders: ModuleType, state: dict, changes: dict
) -> None:
    path = builders.mscn(tmp_path / "c.pth", state, "tiny_resnet", **changes)
    with pytest.raises(InputError, match="c.pth"):
        read_weights(str(path))


def test_counts_of_resnet50() -> None:
    assert len(expected_shapes("resnet50", counters=True)) == 318
    assert len(expected_shapes("resnet50", counters=False)) == 265


def test_counters_may_be_absent_altogether(
    tmp_path: Path, builders: ModuleType, state: dict
) -> None:
    bare = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    weights = read_weights(str(builders.torchvision(tmp_path / "w.pth", bare)))
    assert weights.account.expected == len(bare)
    assert (
        weights.sha256 == read_weights(str(builders.torchvision(tmp_path / "v.pth", state))).sha256
    )
    build_frozen_backbone(weights)


def test_forced_source(files: dict) -> None:
    assert read_weights(str(files["moco_v1"]), source="moco_v1").backbone == "tiny_resnet"
    with pytest.raises(InputError, match="not in moco_v1's format"):
        read_weights(str(files["torchvision"]), source="moco_v1")
    with pytest.raises(InputError, match="unknown source"):
        read_weights(str(files["torchvision"]), source="mocov1")


def test_only_a_files_own_project_states_its_preprocessing(tmp_path: Path, state: dict) -> None:
    """Anybody's training loop saves `model_state_dict`; only VISSL's has `_feature_blocks`."""
    plain = {"model_state_dict": dict(state), "epoch": 3, "loss": 0.5}
    vissl = {"model_state_dict": {f"_feature_blocks.{k}": v for k, v in state.items()}}
    read = []
    for number, (content, source) in enumerate(
        ((plain, "model_state_dict"), (vissl, "vissl_converted"))
    ):
        path = tmp_path / f"{number}.pth"
        torch.save(content, path)
        read.append(read_weights(str(path)))
        assert read[-1].provenance["source"] == source
        silent = any("the file states no preprocessing" in w for w in read[-1].warnings)
        assert silent == (source == "model_state_dict")
    assert read[0].sha256 == read[1].sha256


def test_a_vit_is_called_maes_only_if_the_file_shows_it(tmp_path: Path) -> None:
    """MAE's class token has position 0, which is not trained; a DeiT without its head has not."""
    state = random_weights("vit_tiny_patch16_224", seed=0).state
    learned = torch.ones_like(state["pos_embed"])
    fixed = learned.clone()
    fixed[:, 0] = 0
    decoder = {"decoder_pos_embed": torch.zeros(1, 197, 8)}
    for content, method in (
        ({"model": {**state, "pos_embed": fixed}}, "mae"),
        ({"model": {f"module.{k}": v for k, v in {**state, "pos_embed": fixed}.items()}}, "mae"),
        ({"model": {**state, "pos_embed": learned, **decoder}}, "mae"),
        ({"model": {**state, "pos_embed": learned}, "epoch": 7}, None),
    ):
        torch.save(content, tmp_path / "x.pth")
        weights = read_weights(str(tmp_path / "x.pth"))
        assert weights.provenance["source"] == "mae" and weights.provenance["method"] == method
        assert weights.provenance["epochs"] is None
        silent = any("the file states no preprocessing" in line for line in weights.warnings)
        assert silent == (method is None)
    for value, message in (
        (learned.to_sparse(), "pos_embed is a sparse tensor"),
        (torch.empty_like(learned, device="meta"), "pos_embed has no values"),
        (torch.quantize_per_tensor(learned, 0.1, 0, torch.qint8), "pos_embed is torch.qint8"),
    ):
        torch.save({"model": {**state, "pos_embed": value}}, tmp_path / "x.pth")
        with pytest.raises(InputError, match=message):
            read_weights(str(tmp_path / "x.pth"))


def test_wanted_backbone(files: dict) -> None:
    with pytest.raises(InputError, match="tiny_resnet, but a resnet18 is needed"):
        read_weights(str(files["torchvision"]), backbone="resnet18")


def test_declared_backbone_must_fit(tmp_path: Path, builders: ModuleType, state: dict) -> None:
    path = builders.moco(tmp_path / "m.pth", state, "resnet50")
    with pytest.raises(InputError, match="says it is a resnet50"):
        read_weights(str(path))


def test_half_precision_and_integers(tmp_path: Path, builders: ModuleType, state: dict) -> None:
    half = {k: t.half() if t.is_floating_point() else t for k, t in state.items()}
    weights = read_weights(str(builders.torchvision(tmp_path / "h.pth", half)))
    assert any("float16" in warning for warning in weights.warnings)
    assert torch.equal(weights.state["conv1.weight"], half["conv1.weight"].float())
    broken = {**state, "conv1.weight": state["conv1.weight"].int()}
    with pytest.raises(InputError, match="conv1.weight is torch.int32"):
        read_weights(str(builders.torchvision(tmp_path / "i.pth", broken)))


@pytest.mark.parametrize(
    "name, what",
    [
        ("vit.embeddings.cls_token", "Hugging Face"),
        ("conv1.0.weight", "deep stem.*give it as timm:NAME"),
        ("layer1.0.se.fc1.weight", "squeeze and excitation.*give it as timm:NAME"),
        ("module.visual.attnpool.positional_embedding", "CLIP's ResNet"),
        ("visual.trunk.stem.0.weight", "OpenCLIP"),
        ("layer1.0.downsample.2.weight", "ResNet-D.*give it as timm:NAME"),
        ("layer1.0.conv2.fc1.weight", "ResNeSt"),
        ("stages.1.blocks.2.xca.qkv.weight", "EdgeNeXt"),
        ("blocks.0.0.conv_dw.weight", "EfficientNet"),
        ("s1.b1.conv1.conv.weight", "RegNet"),
        ("features.denseblock1.denselayer1.norm1.weight", "DenseNet"),
        ("module.encoder1.conv1.weight", "CMC"),
        ("conv1_w", "Caffe2"),
        ("fc_norm.weight", "fine-tuned"),
    ],
)
def test_other_networks_are_named(tmp_path: Path, name: str, what: str) -> None:
    torch.save({"model": {key: torch.zeros(1) for key in (name, *"abcd")}}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=f"x.pth: in none of the known formats.*{what}"):
        read_weights(str(tmp_path / "x.pth"))


def test_another_resnext_is_refused(tmp_path: Path) -> None:
    import torchvision

    path = tmp_path / "next.pth"
    with torch.device("meta"):  # groups that no resnext50 here has
        network = torchvision.models.resnet50(groups=16, width_per_group=8)
    small = {k: torch.zeros(()).expand(v.shape) for k, v in network.state_dict().items()}
    torch.save(small, path)
    with pytest.raises(InputError, match="not a complete .*wrong shape: layer1.0.conv"):
        read_weights(str(path))


@pytest.mark.parametrize(
    "content, message",
    [
        ([1, 2], "has a list"),
        ({}, "none of the known formats"),
        ({"conv1.weight": 3}, "not a tensor"),
    ],
)
def test_other_contents(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(InputError, match=message):
        read_weights(str(tmp_path / "x.pth"))


def test_newer_version_is_refused(tmp_path: Path) -> None:
    torch.save({"format": "mscn-checkpoint", "version": 99, "model": {"x": 1}}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="version 99"):
        read_weights(str(tmp_path / "x.pth"))


@pytest.mark.parametrize("text", ["{", "[]", '{"preprocess": 3}', '{"provenance": {"x": 1}}', "3"])
def test_broken_facts(tmp_path: Path, state: dict, text: str) -> None:
    flat = OrderedDict(state)
    flat._metadata = OrderedDict(transfer=text)
    torch.save(flat, tmp_path / "x.pth")
    with pytest.raises(InputError, match="x.pth: its 'transfer' facts"):
        read_weights(str(tmp_path / "x.pth"))


def test_random_is_seeded_and_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    first = read_weights("random", backbone="tiny_resnet", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.sha256 == read_weights("random", backbone="tiny_resnet", seed=1).sha256
    assert first.sha256 != read_weights("random", backbone="tiny_resnet", seed=2).sha256
    assert first.preprocess.highpass is None and first.account is None
    with pytest.raises(InputError, match="need a backbone"):
        read_weights("random")


def test_frozen_backbone(files: dict) -> None:
    backbone = build_frozen_backbone(read_weights(str(files["mscn"])))
    assert not backbone.training and not any(p.requires_grad for p in backbone.parameters())
    assert backbone(torch.zeros(2, 3, 32, 32)).shape == (2, 128)


@pytest.mark.parametrize("name", ["layer1.0.bn1.bias", "bn1.num_batches_tracked"])
def test_tensors_larger_than_their_values_and_quantised_ones(
    name: str, state: dict, tmp_path: Path
) -> None:
    """Two copies of the trunk are compared; 10^12 values would take hours."""
    huge = torch.zeros(1).expand(10**6, 10**6)
    quantised = torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)
    for tensor, words in ((huge, "wrong shape"), (quantised, "not a complete|not floating point")):
        changed = {**state, name: tensor}
        content = {f"{copy}.{key}": one for copy in ("a", "b") for key, one in changed.items()}
        for number, saved in enumerate((content, {"state_dict": changed})):
            torch.save(saved, tmp_path / f"{number}.pth", _use_new_zipfile_serialization=False)
            with pytest.raises(InputError, match="pth") as refused:
                read(tmp_path / f"{number}.pth")
            assert number == 0 or re.search(words, str(refused.value)), refused.value
