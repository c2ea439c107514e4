"""Names and shapes that the projects' own classes gave: each list is detected, every key explained.

`data/keys.json.gz` was recorded from instantiated classes of moco, moco-v3, simsiam, swav,
barlowtwins, vicreg, VICRegL, dino, mae, msn, vissl, google-research/simclr (TensorFlow 1 and 2),
deepmind-research/byol, SimCLRv2-Pytorch, lightly 1.6.6's benchmarks, mmpretrain 1.2.0's configs
and transformers 5.24.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.transfer.checkpoints import test_vits
from transfer.checkpoints.formats.all_formats import FORMATS
from transfer.checkpoints.formats.find_format import find_format
from transfer.checkpoints.read import _check_agrees, _check_declared
from transfer.checkpoints.readers.raw import RawFile
from transfer.checkpoints.unmatched_keys import sort_keys

LISTS: dict[str, Any] = json.loads(
    gzip.decompress(Path(__file__).with_name("data").joinpath("keys.json.gz").read_bytes())
)
BACKBONES = {
    "swav_resnet50w2": "resnet50w2",
    "swav_resnet50w4": "resnet50w4",
    "vicreg_resnet50x2": "resnet50w2",
    "mocov3_vit_small": "vit_small_patch16_224",
    "mocov3_vit_base": "vit_base_patch16_224",
    "mae_vit_base_patch16": "vit_base_patch16_224",
    "mae encoder": "vit_base_patch16_224",
    "mae_vit_large_patch16": "vit_large_patch16_224",
    "mae_vit_huge_patch14": "vit_huge_patch14_224",
    "dino_vit_small": "vit_small_patch16_224",
    "dino_vit_small_p8": "vit_small_patch8_224",
    "dino_vit_base": "vit_base_patch16_224",
    "dino backbone vit": "vit_small_patch16_224",
    "msn_deit_small": "vit_small_patch16_224",
    "msn_deit_base": "vit_base_patch16_224",
    "msn_deit_large": "vit_large_patch16_224",
    "msn_deit_large_p7": "vit_large_patch7_224",
    "hf TimmWrapperForImageClassification": "resnet18",
    "hf ConvNextModel": "convnext_tiny",
    "hf ConvNextForImageClassification": "convnext_tiny",
    "hf ConvNextV2ForImageClassification": "convnextv2_tiny",
    "hf DINOv3ConvNextModel": "convnext_tiny",
    "mm mae_vit-base-p16": "vit_base_patch16_224",
    "mm mocov3_vit-small-p16": "vit_small_patch16_224",
}


def zeros(shape: list[int], kind: str = "f") -> Tensor:
    return torch.zeros((), dtype=torch.int64 if kind == "i" else torch.float32).expand(shape)


def haiku(lists: dict[str, Any]) -> dict[str, Any]:
    """Flat names back into haiku's two levels."""
    parts: dict[str, dict] = {"params": {}, "state": {}}
    for name, shape in lists["params"].items():
        module, _, leaf = name.rpartition("/")
        parts["params"].setdefault(module, {})[leaf] = zeros(shape)
    for name, (shape, kind) in lists["state"].items():
        module, _, leaf = name.rpartition("/")
        parts["state"].setdefault(module, {})[leaf] = zeros(shape, kind)
    fields = {"online_params": parts["params"], "online_state": parts["state"]}
    return {"experiment_state": {**fields, "target_params": parts["params"]}}


def file_of(name: str) -> RawFile:
    entry = LISTS[name]
    if "haiku" in entry:
        return RawFile(Path(name), "pickle", haiku(entry["haiku"]), None)
    content: dict[str, Any] = dict(entry["top"])
    for path, tensors in entry["parts"]:
        inner = content
        for key in path:
            inner = inner.setdefault(key, {})
        inner.update({key: zeros(*value) for key, value in tensors.items()})
    kind = "tensorflow" if entry["format"] in ("simclr", "simclr_tf2") else "torch"
    return RawFile(Path(name), kind, content, None)


@pytest.mark.parametrize("name", LISTS)
def test_detected_and_every_key_explained(name: str) -> None:
    found = find_format(file_of(name))
    assert found.format.name == LISTS[name]["format"]
    facts = found.format.facts(found.content)
    _check_declared(facts.backbone, name)
    account, state, backbone = sort_keys(found, name)
    _check_agrees(facts.backbone, backbone, name)
    assert backbone == BACKBONES.get(name, "resnet50")
    assert len(account.used) == account.expected == len(state)
    kept = len(account.used) + sum(len(keys) for keys in account.dropped.values())
    assert kept == len(found.tensors)
    assert facts.architecture.get("num_heads") == (
        12 if "v3_vit-s" in name.replace("_s", "-s") else None
    )


def test_evidence_is_what_the_table_says() -> None:
    """A format of the kind CLASS has a list here, or a test on the project's own objects."""
    listed = {entry["format"] for entry in LISTS.values()}
    listed |= {entry["format"] for entry in test_vits.CASES.values()}
    proven = {name for name, entry in FORMATS.items() if entry.evidence == "model class"}
    # In test_our_methods.py, test_facts.py, test_in_detectron2.py and the tests of ConvNets; others
    # differ from a listed one in where the same names are.
    elsewhere = {"mscn", "torchvision", "timm", "vitdet", "detectron2", "convnext"}
    elsewhere |= {"dino_student", "deepcluster_v2_bare", "timm_convnet"}
    assert proven - listed <= elsewhere
