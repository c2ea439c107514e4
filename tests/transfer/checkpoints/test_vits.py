"""ViTs of many projects: read from their names, and equal to what their own classes computed.

`data/vits.json.gz` was recorded from instantiated classes of dinov2, dinov3, ibot, ijepa, deit,
mae, torchvision, timm 1.0.31 and transformers 5.24 (with the names of version 4, which its
`save_pretrained` writes). It has tiny networks, their names and shapes, and 48 features of one
image, at the size of the positions and, if the class accepts it, at another size. The values of a
tensor are drawn from its name.
"""

from __future__ import annotations

import gzip
import json
import zlib
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pretrain.common.errors import InputError
from transfer.checkpoints.build import build_frozen_backbone
from transfer.checkpoints.convert import check, write_proven
from transfer.checkpoints.formats.all_formats import FORMATS
from transfer.checkpoints.formats.key_format import match
from transfer.checkpoints.read import read_weights

CASES: dict[str, Any] = json.loads(
    gzip.decompress(Path(__file__).with_name("data").joinpath("vits.json.gz").read_bytes())
)
ONE = torch.zeros(1)
# What else is in files of the format.
AROUND = {
    "ibot": {"student": {"module.backbone.x": ONE}, "ibot_loss": {"center": ONE}, "epoch": 5},
    "ijepa": {"encoder": {"module.x": ONE}, "predictor": {"module.y": ONE}, "epoch": 7},
    "dinov2_train": {},
    "deit": {"model_ema": {"head.bias": ONE}, "epoch": 299},
}


def value(name: str, shape: list[int]) -> Tensor:
    """A tensor's values, as in the recording."""
    if name.endswith("bias_mask"):
        third = shape[0] // 3
        return torch.cat([torch.ones(third), torch.zeros(third), torch.ones(third)])
    if name.endswith("periods"):
        return 100.0 ** (torch.arange(shape[0]) / shape[0])
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if name.endswith(".weight") and len(shape) == 1:
        return 1 + 0.2 * drawn
    if len(shape) >= 2 and name.endswith("weight"):
        return drawn * (2 / prod(shape[1:]) ** 0.5)
    return 0.3 * drawn


def state_of(case: str) -> dict[str, Tensor]:
    return {name: value(name, shape) for name, shape in CASES[case]["shapes"].items()}


def write(case: str, folder: Path, state: dict[str, Tensor] | None = None) -> Path:
    entry = CASES[case]
    content: dict[str, Any] = state or state_of(case)
    for key in reversed(entry["container"]):
        content = {key: content}
    torch.save({**content, **AROUND.get(entry["format"], {})}, folder / "w.pth")
    for name, text in entry["files"].items():
        (folder / name).write_text(json.dumps(text))
    return folder / "w.pth"


def image(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randn(2, 3, height, width, generator=generator)[:1]


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_features_are_those_of_the_projects_own_class(case: str, tmp_path: Path) -> None:
    entry = CASES[case]
    weights = read_weights(str(write(case, tmp_path)))
    assert weights.backbone == entry["variant"]
    assert weights.provenance["source"] == entry["format"]
    network = build_frozen_backbone(weights)
    assert entry["features"]
    for size, expected in entry["features"].items():
        found = network(image(*map(int, size.split("x"))))[0, : len(expected)]
        assert torch.allclose(found, torch.tensor(expected), atol=2e-4), size


PROVEN = [
    *("dinov2 registers", "dinov2 training, chunks, SwiGLU", "deit distilled", "dinov3"),
    *("deit3", "mae fine-tuned, pooled", "torchvision", "ijepa"),
    *("transformers ViT classifier, names of 4", "transformers DINOv2 gated, names of 5"),
    "transformers DINOv3, names of 4",
]


@pytest.mark.parametrize("case", PROVEN)
def test_proven_written_and_read_back(case: str, tmp_path: Path) -> None:
    report = check(str(write(case, tmp_path)), [".pth", ".pkl"])
    assert report.proofs["timm"] and not report.failures
    plain = report.weights.backbone == "vit_tiny_patch8_32"
    assert ("vitdet" in report.proofs) == plain
    assert plain or any("no .pkl for ViTDet" in note for note in report.notes)
    if not plain:
        with pytest.raises(
            InputError, match="cannot become ViTDet's .pkl: a vit_tiny.* has .*, but ViTDet"
        ):
            write_proven(report, tmp_path / "out.pkl")
    write_proven(report, tmp_path / "out.pth")
    again = read_weights(str(tmp_path / "out.pth"))
    assert again.sha256 == report.weights.sha256
    assert dict(again.architecture) == dict(report.weights.architecture)
    assert again.preprocess == report.weights.preprocess


def test_one_network_in_three_spellings_is_one_identity(tmp_path: Path) -> None:
    """DINOv2 with registers in its own names, in timm's and in transformers'."""
    state = state_of("dinov2 registers")
    first = read_weights(str(write("dinov2 registers", tmp_path, state)))
    write_as_timm = {**first.state, "head.weight": torch.zeros(5, 192), "head.bias": torch.zeros(5)}
    torch.save(write_as_timm, tmp_path / "timm.pth")
    assert read_weights(str(tmp_path / "timm.pth")).sha256 == first.sha256
    theirs: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".attn.qkv." in name:
            for part, piece in zip("qkv", tensor.chunk(3)):
                theirs[hugging_face(name.replace(".attn.qkv.", f".attn.{part}."))] = piece.clone()
        else:
            theirs[hugging_face(name)] = tensor
    torch.save(theirs, tmp_path / "hf.pth")
    third = read_weights(str(tmp_path / "hf.pth"))
    assert third.provenance["source"] == "hf_dinov2" and third.sha256 == first.sha256


def hugging_face(name: str) -> str:
    for ours, theirs in (
        ("blocks.", "encoder.layer."),
        *((f".attn.{part}.", f".attention.{part}_proj.") for part in "qkv"),
        (".attn.proj.", ".attention.o_proj."),
        *((f".ls{i}.gamma", f".layer_scale{i}.lambda1") for i in (1, 2)),
        ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
        ("pos_embed", "embeddings.position_embeddings"),
    ):
        name = name.replace(ours, theirs)
    if name in ("cls_token", "register_tokens", "mask_token"):
        return f"embeddings.{name}"
    return f"layer{name}" if name.startswith("norm.") else name


LOST = {
    "dinov2": ("pos_embed", "blocks.3.ls1.gamma", "blocks.11.mlp.fc2.weight"),
    "dinov2 training, chunks, SwiGLU": ("backbone.blocks.1.4.mlp.w12.bias", "backbone.norm.bias"),
    "dinov3": ("blocks.5.attn.qkv.bias_mask", "cls_token", "rope_embed.periods"),
    "deit3": ("blocks.7.gamma_2", "pos_embed"),
    "deit distilled": ("pos_embed", "cls_token"),
    "torchvision": ("encoder.layers.encoder_layer_2.self_attention.in_proj_bias", "class_token"),
    "transformers ViT classifier, names of 4": (
        "vit.encoder.layer.6.attention.attention.key.bias",
        "vit.embeddings.position_embeddings",
    ),
    "transformers DINOv2 gated, names of 5": (
        "encoder.layer.0.mlp.gate_proj.bias",
        "encoder.layer.9.attention.q_proj.weight",
    ),
    "transformers DINOv3, names of 5": ("model.layer.2.attention.v_proj.bias",),
}


@pytest.mark.parametrize("case", LOST)
def test_a_lost_a_renamed_and_a_turned_tensor_are_named(case: str, tmp_path: Path) -> None:
    state = state_of(case)
    for key in LOST[case]:
        lost = {name: tensor for name, tensor in state.items() if name != key}
        for wrong in (lost, {**lost, f"{key}x": state[key]}):
            with pytest.raises(InputError, match=rf"1 missing: {key.replace('.', '.')}"):
                read_weights(str(write(case, tmp_path, wrong)))
        if state[key].dim() == 2:
            with pytest.raises(InputError, match=f"1 wrong shape: {key}"):
                turned = {**state, key: state[key].T[:-1].contiguous()}
                read_weights(str(write(case, tmp_path, turned)))


def test_what_is_dropped_is_named_and_methods_are_told_apart(tmp_path: Path) -> None:
    dropped = {
        "dinov2": {"mask token"},
        "ibot teacher": {"student copy", "loss centre"},
        "ibot student extracted": {"mask token"},
        "ijepa": {"online copy", "predictor"},
        "deit distilled": {"classifier", "moving average copy"},
        "transformers ViT-MAE, names of 4": {"decoder"},
        "transformers DeiT distilled, names of 4": {"pooler"},
    }
    methods = {
        "deit distilled": ("deit", 300),
        "deit3": ("deit3", 300),
        "mae linear probe": ("mae", 300),
        "ijepa": ("ijepa", 7),
        "transformers ViT-MSN, names of 4": ("msn", None),
        "transformers ViT classifier, names of 5": (None, None),
    }
    for case in dropped.keys() | methods.keys():
        weights = read_weights(str(write(case, tmp_path)))
        if case in dropped:
            assert set(weights.account.dropped) == dropped[case], case
        found = (weights.provenance["method"], weights.provenance["epochs"])
        assert found == methods.get(case, found), case


def test_a_classifier_says_that_labels_were_used(tmp_path: Path) -> None:
    for case, labels in (("deit", True), ("mae fine-tuned, pooled", True), ("ijepa", False)):
        warnings = " ".join(read_weights(str(write(case, tmp_path))).warnings)
        assert ("trained with labels" in warnings) == labels
    probe = read_weights(str(write("mae linear probe", tmp_path)))
    # MAE has no network of this width, so only the number of its heads is an assumption
    assert [line[:43] for line in probe.warnings] == ["the file does not state its number of atten"]


REFUSED = {
    "visual.ln_pre.weight": "CLIP ViT",
    "vision_model.pre_layrnorm.weight": "CLIP ViT",
    "blocks.0.attn.relative_position_bias_table": "relative position bias",
    "encoder.rel_pos_bias.relative_position_bias_table": "relative position bias",
    "layers.0.blocks.0.attn.relative_position_bias_table": "Swin",
    "blocks.0.attn.q_norm.weight": "normalises queries and keys",
    "attn_pool.latent": "attention pooling",
    "cls_norm.weight": "separate norm for the class token",
    "blocks.0.attn.temperature": "XCiT",
    "blocks.0.mlp.norm.weight": "EVA-02",
}


@pytest.mark.parametrize("key", REFUSED)
def test_other_vits_are_refused_by_name(key: str, tmp_path: Path) -> None:
    state = {**state_of("deit"), key: torch.zeros(192)}
    torch.save({"model": state, "epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=f"{REFUSED[key]}.*{key}"):
        read_weights(str(tmp_path / "w.pth"))


def test_preprocessing_beside_a_file_of_transformers(tmp_path: Path) -> None:
    case = "transformers ViT classifier, names of 5"
    path = str(write(case, tmp_path))
    without = read_weights(path)
    assert without.preprocess.mean == (0.5, 0.5, 0.5)
    assert any("no preprocessor_config.json" in line for line in without.warnings)
    config = tmp_path / "preprocessor_config.json"
    for text, mean, high in (
        ({"image_mean": [0.485, 0.456, 0.406], "image_std": [0.2] * 3}, (0.485, 0.456, 0.406), 1),
        ({"do_normalize": False, "image_mean": [9] * 3, "image_std": [1] * 3}, (0, 0, 0), 1),
        ({"image_mean": [1] * 3, "image_std": [1] * 3, "rescale_factor": 1 / 127.5}, (1,) * 3, 2),
        ({"image_mean": [1] * 3, "image_std": [1] * 3, "do_rescale": False}, (1,) * 3, 255),
    ):
        config.write_text(json.dumps(text))
        found = read_weights(path)
        assert found.preprocess.mean == mean and found.preprocess.value_range == (0, high)
        assert not any("preprocessor" in line for line in found.warnings)
    config.write_text('{"image_mean": [1, 2], "image_std": [1, 1, 1]}')
    with pytest.raises(InputError, match="preprocessor_config.json"):
        read_weights(path)
    config.unlink()
    (tmp_path / "config.json").write_text('{"model_type": "vit", "hidden_act": "quick_gelu"}')
    with pytest.raises(InputError, match="config.json says hidden_act 'quick_gelu'"):
        read_weights(path)
    (tmp_path / "config.json").write_text('{"hidden_size": 192, "num_attention_heads": 6}')
    assert read_weights(path).architecture["num_heads"] == 6


def test_satellite_weights_are_known_by_the_name_of_the_file(tmp_path: Path) -> None:
    path = write("dinov3", tmp_path)
    assert any("sat493m" in line for line in read_weights(str(path)).warnings)
    other = path.rename(tmp_path / "dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth")
    weights = read_weights(str(other))
    assert weights.preprocess.mean == (0.430, 0.411, 0.296) and not weights.warnings


def test_simmims_encoder_is_the_plain_one(tmp_path: Path) -> None:
    plain = {k: v for k, v in state_of("deit").items() if not k.startswith("head")}
    torch.save(plain, tmp_path / "timm.pth")
    encoder = {f"encoder.{name}": tensor for name, tensor in plain.items()}
    more = {"encoder.mask_token": torch.zeros(1, 1, 192), "decoder.0.weight": torch.zeros(8, 192)}
    torch.save({"model": {**encoder, **more}, "epoch": 799}, tmp_path / "simmim.pth")
    found = read_weights(str(tmp_path / "simmim.pth"))
    assert found.sha256 == read_weights(str(tmp_path / "timm.pth")).sha256
    assert found.provenance["source"] == "simmim" and found.provenance["epochs"] == 800
    assert set(found.account.dropped) == {"mask token", "decoder"}


def test_what_is_not_the_named_format_is_not_taken_for_it(tmp_path: Path) -> None:
    for case in ("dinov2", "dinov2 registers"):
        assert match(FORMATS["mae"], {"model": state_of(case)}) is None
    odd = {**state_of("ijepa"), "module.pos_embed": torch.zeros(1, 17, 192)}
    with pytest.raises(InputError, match="no class token, but 17 positions"):
        read_weights(str(write("ijepa", tmp_path, odd)))
    # DINOv3 without masks of the biases is another training's: its biases are taken as they are.
    bare = {k: v for k, v in state_of("dinov3").items() if "bias_mask" not in k}
    found = read_weights(str(write("dinov3", tmp_path, bare)))
    assert torch.equal(found.state["blocks.3.attn.qkv.bias"], bare["blocks.3.attn.qkv.bias"])
