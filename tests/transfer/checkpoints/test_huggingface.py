"""Folders of `save_pretrained`: what config.json and the processor's file say, and equal features.

`data/hf_golden.json.gz` has, for classes of transformers 5.24, the names and shapes of their
tensors, and the first features of one input if each tensor is drawn as in `drawn`.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pretrain.common.errors import InputError
from pretrain.data.preprocess import IMAGENET_MEAN
from tests.transfer.checkpoints import formats_convnets as nets
from transfer.checkpoints.build import build_frozen_backbone
from transfer.checkpoints.files import source_stem
from transfer.checkpoints.folder import preprocess_in
from transfer.checkpoints.read import read_weights

GOLDEN = json.loads(
    gzip.decompress(Path(__file__).with_name("data").joinpath("hf_golden.json.gz").read_bytes())
)
BACKBONES = {
    "resnet18": "resnet18",
    "resnet50_1x1": "resnet50",
    "convnext_atto": "convnext_atto",
    "convnextv2_atto": "convnextv2_atto",
    "dinov3_convnext_atto": "convnext_atto",
}
STATED = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}


def drawn(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """A state whose values do not depend on torch."""
    random, state = np.random.RandomState(0), {}
    for name in sorted(shapes):
        shape = shapes[name]
        value = torch.from_numpy(random.standard_normal(shape)).float()
        if name.endswith("running_var"):
            value = value.abs() + 0.5
        elif len(shape) == 1:
            value = 0.1 * value + (0 if name.endswith(("bias", "running_mean")) else 1)
        else:
            value = value / max(1, int(np.prod(shape[1:]))) ** 0.5
        state[name] = value
    return state


def folder_of(path: Path, state: dict[str, Tensor], **files: dict[str, Any]) -> Path:
    path.mkdir(exist_ok=True)
    save_file(state, path / "model.safetensors")
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("name", GOLDEN)
def test_features_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    case = GOLDEN[name]
    config = case["config"]
    folder = folder_of(
        tmp_path / "net", drawn(case["shapes"]), config=config, preprocessor_config=STATED
    )
    weights = read_weights(str(folder))
    assert weights.backbone == BACKBONES[name]
    assert weights.preprocess.mean == (0.1, 0.2, 0.3) and weights.preprocess.std == (0.4, 0.5, 0.6)
    assert not any("preprocessor_config" in line for line in weights.warnings)
    image = torch.from_numpy(np.random.RandomState(1).uniform(size=(1, 3, 64, 96))).float()
    with torch.no_grad():
        features = build_frozen_backbone(weights)(image).flatten()[:8]
    assert torch.allclose(features, torch.tensor(case["features"]), rtol=1e-3, atol=2e-5)
    stride = bool(weights.architecture.get("stride_in_1x1"))
    assert stride == (name == "resnet50_1x1")


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    from transfer.checkpoints.build import build_trunk

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nets.hf_resnet(build_trunk("tiny_resnet", {}).state_dict())


RESNET = {"model_type": "resnet", "architectures": ["ResNetModel"]}


def test_without_the_processors_file_the_class_default_is_said(tmp_path: Path, state: dict) -> None:
    weights = read_weights(str(folder_of(tmp_path / "a", state, config=RESNET)))
    assert weights.preprocess.mean == (0.5, 0.5, 0.5)
    assert any("no preprocessor_config.json" in line for line in weights.warnings)
    save_file(state, tmp_path / "bare.safetensors")
    weights = read_weights(str(tmp_path / "bare.safetensors"))
    assert weights.preprocess.mean == (0.5, 0.5, 0.5) and weights.provenance["name"] == "bare"
    assert source_stem(tmp_path / "a" / "model.safetensors") == source_stem(tmp_path / "a") == "a"


def test_a_file_elsewhere_does_not_take_a_neighbours_word(tmp_path: Path, state: dict) -> None:
    """A config.json of a different tool does not say anything about networks."""
    other = {"learning_rate": 0.1}
    folder = folder_of(tmp_path / "a", state, config=other, preprocessor_config=STATED)
    assert read_weights(str(folder)).preprocess.mean == (0.5, 0.5, 0.5)


PROCESSORS = {
    "old extractor": ({**STATED, "do_normalize": True}, (0.0, 1.0), (0.1, 0.2, 0.3)),
    "without normalisation": ({"do_rescale": True, "do_normalize": False}, (0.0, 1.0), (0, 0, 0)),
    "without rescaling": ({**STATED, "do_rescale": False}, (0.0, 255.0), (0.1, 0.2, 0.3)),
    "half": ({**STATED, "rescale_factor": 1 / 127.5}, (0.0, 2.0), (0.1, 0.2, 0.3)),
    "with offset": (
        {**STATED, "rescale_factor": 1 / 127.5, "rescale_offset": True},
        (-1.0, 1.0),
        (0.1, 0.2, 0.3),
    ),
    "one number": (
        {"image_mean": 0.5, "image_std": 0.5, "rescale_factor": 0.00392156862745098},
        (0.0, 1.0),
        (0.5, 0.5, 0.5),
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_what_processors_files_say(name: str, tmp_path: Path) -> None:
    content, values, mean = PROCESSORS[name]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    found = preprocess_in(tmp_path)
    assert found.value_range == pytest.approx(values) and found.mean == mean


def test_version_5s_processor_and_flipped_channels(tmp_path: Path) -> None:
    inner = {**STATED, "do_flip_channel_order": True}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": inner}))
    found = preprocess_in(tmp_path)
    assert found.channel_order == "BGR" and found.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    "files, message",
    [
        ({"config": {**RESNET, "downsample_in_first_stage": True}}, "downsample_in_first_stage"),
        (
            {"config": {**RESNET, "hidden_act": "silu"}},
            "hidden_act 'silu'; only 'relu' is supported",
        ),
        (
            {"config": RESNET, "preprocessor_config": {"image_mean": [0.5], "image_std": [1]}},
            "preprocessor_config.json.*image_mean is .0.5., not three numbers",
        ),
    ],
)
def test_what_is_not_read_is_refused(
    files: dict, message: str, tmp_path: Path, state: dict
) -> None:
    folder = folder_of(tmp_path / "a", state, **files)
    with pytest.raises(InputError, match=message):
        read_weights(str(folder))


def test_broken_json_and_models_in_several_files(tmp_path: Path, state: dict) -> None:
    folder = folder_of(tmp_path / "a", state)
    (folder / "config.json").write_text('{"model_type": ')
    with pytest.raises(InputError, match="config.json, next to the weights, is not JSON"):
        read_weights(str(folder))
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match="in several files.*max_shard_size"):
        read_weights(str(parts))


def test_a_folder_of_timms_hub(tmp_path: Path, builders: Any) -> None:
    stated = {"mean": [0.5] * 3, "std": [0.25] * 3}
    config = {"architecture": "tiny_resnet", "pretrained_cfg": stated}
    state = builders.trained_state("tiny_resnet")
    folder = folder_of(tmp_path / "a", state, config=config)
    weights = read_weights(str(folder))
    assert weights.preprocess.std == (0.25, 0.25, 0.25) and weights.provenance["name"] == "a"
    wrapped = nets.put("timm_model.", state)
    wrapped |= {"timm_model.fc.weight": torch.zeros(7, 128), "timm_model.fc.bias": torch.zeros(7)}
    inside = {**config, "model_type": "timm_wrapper"}
    again = read_weights(str(folder_of(tmp_path / "wrapped", wrapped, config=inside)))
    assert again.sha256 == weights.sha256 and again.preprocess == weights.preprocess
    for name, message in (
        ("densenet121", "config.json is a densenet121, which is not supported"),
        ("resnetblur50", "says it is a resnetblur50, but its tensors are a tiny_resnet's"),
    ):
        other = {**config, "architecture": name}
        with pytest.raises(InputError, match=message):
            read_weights(str(folder_of(tmp_path / name, state, config=other)))
    assert not any("states no preprocessing" in line for line in weights.warnings)
    bare = read_weights(str(folder_of(tmp_path / "b", builders.trained_state("tiny_resnet"))))
    assert bare.preprocess.mean == IMAGENET_MEAN
