"""What files of small SimCLR projects and of Lightning's toolboxes say about their input."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from pretrain.common.errors import InputError
from tests.transfer.checkpoints import formats_convnets as nets
from transfer.checkpoints.read import read_weights

UNIT = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(scope="module")
def state(builders: ModuleType) -> dict[str, Tensor]:
    return builders.trained_state("tiny_resnet")


def with_options(content: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {**content, "opt": argparse.Namespace(**options)}


def bolts(state: dict, **settings: Any) -> dict[str, Any]:
    return {**nets.bolts_simclr(state), "hyper_parameters": settings}


def bolts_byol(state: dict) -> dict[str, Any]:
    content = nets.put("online_network.encoder.", state) | nets.other(
        "target_network.encoder.", state
    )
    content |= nets.mlp("online_network.projector.model", (0, 1)) | nets.mlp(
        "predictor.model", (0,)
    )
    return nets.lightning(content, hyper_parameters={"dataset": "imagenet2012"})


def bolts_swav(state: dict) -> dict[str, Any]:
    content = nets.put("model.", state) | nets.mlp("model.projection_head", (0, 1, 3))
    return nets.lightning(content | {"model.prototypes.weight": torch.zeros(30, 8)})


# by file: its format, what it says of mean and std, and the method
INPUTS: dict[str, tuple[Callable[[dict], Any], str, tuple, str | None]] = {
    "sthalles": (nets.sthalles, "sthalles_simclr", UNIT, "simclr"),
    "sthalles, several GPUs": (
        lambda s: {
            **nets.sthalles(s),
            "state_dict": nets.put("module.", nets.sthalles(s)["state_dict"]),
        },
        "sthalles_simclr",
        UNIT,
        "simclr",
    ),
    "Spijkervet": (nets.spijkervet, "spijkervet_simclr", UNIT, "simclr"),
    "SupContrast": (
        nets.supcontrast,
        "supcontrast",
        ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
        "supcon",
    ),
    "SupContrast, one GPU, own data": (
        lambda s: with_options(
            nets.supcontrast(s, ""),
            dataset="path",
            mean="(0.1, 0.2, 0.3)",
            std="(0.4, 0.5, 0.6)",
            method="SimCLR",
        ),
        "supcontrast",
        ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        "simclr",
    ),
    "SupContrast, silent": (
        lambda s: with_options(nets.supcontrast(s), dataset="path", model="resnet18"),
        "supcontrast",
        IMAGENET,
        "supcon",
    ),
    "bolts, STL-10": (
        nets.bolts_simclr,
        "bolts",
        ((0.43, 0.42, 0.39), (0.27, 0.26, 0.27)),
        None,
    ),
    "bolts, silent": (lambda s: bolts(s, gpus=1), "bolts", IMAGENET, None),
    "bolts BYOL": (bolts_byol, "bolts", IMAGENET, None),
    "bolts SwAV": (bolts_swav, "bolts", IMAGENET, None),
    "stable-pretraining": (nets.stable_pretraining, "stable_pretraining", IMAGENET, None),
    "lightly-train": (
        lambda s: nets.lightly_train(s, ("",), "_features."),
        "lightly_train",
        ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3)),
        None,
    ),
}
SILENT = {"SupContrast, silent", "bolts, silent", "bolts SwAV", "stable-pretraining"}


@pytest.mark.parametrize("name", INPUTS)
def test_the_input_is_what_the_file_says(name: str, state: dict, tmp_path: Path) -> None:
    make, form, (mean, std), method = INPUTS[name]
    torch.save(make(state), tmp_path / "w.ckpt")
    weights = read_weights(str(tmp_path / "w.ckpt"))
    assert weights.provenance["source"] == form and weights.provenance["method"] == method
    assert weights.preprocess.mean == mean and weights.preprocess.std == std
    assert weights.preprocess.value_range == (0.0, 1.0)
    silent = any("states no preprocessing" in line for line in weights.warnings)
    assert silent == (name in SILENT)
    assert all(torch.equal(weights.state[key], state[key]) for key in state)


@pytest.mark.parametrize(
    "source, taken",
    [("auto", "teacher"), ("stable_pretraining_student", "student")],
)
def test_which_of_two_copies_is_read_is_said(
    source: str, taken: str, state: dict, tmp_path: Path
) -> None:
    content = nets.stable_pretraining_twice(state, "teacher", "student")
    torch.save(content, tmp_path / "last.ckpt")
    weights = read_weights(str(tmp_path / "last.ckpt"), source)
    assert any(taken in line and "--source" in line for line in weights.warnings)
    own = torch.equal(weights.state["conv1.weight"], state["conv1.weight"])
    assert own == (taken == "teacher")
    dropped = weights.account.dropped
    assert len(dropped["student copy" if taken == "teacher" else "teacher copy"]) == len(state)


def test_lightly_train_says_that_it_took_the_teacher(state: dict, tmp_path: Path) -> None:
    content = nets.lightly_train(state, ("teacher_", "student_"), "_model.")
    torch.save(content, tmp_path / "last.ckpt")
    weights = read_weights(str(tmp_path / "last.ckpt"))
    assert any("the teacher" in line for line in weights.warnings)
    assert torch.equal(weights.state["conv1.weight"], state["conv1.weight"])


def test_of_a_distillation_the_student_is_read(state: dict, tmp_path: Path) -> None:
    """Its teacher is another network and has no head."""
    content = nets.lightly_train(state, ("student_", "teacher_"), "_model.")
    names = content["state_dict"]
    content["state_dict"] = {k: v for k, v in names.items() if "teacher_projection" not in k}
    torch.save(content, tmp_path / "last.ckpt")
    weights = read_weights(str(tmp_path / "last.ckpt"))
    assert weights.provenance["source"] == "lightly_train_student"
    assert torch.equal(weights.state["conv1.weight"], state["conv1.weight"])
    assert len(weights.account.dropped["teacher copy"]) == len(state)
    assert any("the student is read" in line for line in weights.warnings)


def cifar_net(state: dict) -> dict[str, Any]:
    """SupContrast's own ResNet calls its shortcuts `shortcut`."""
    own = {name.replace("downsample", "shortcut"): value for name, value in state.items()}
    return nets.supcontrast(own)


@pytest.mark.parametrize(
    "make, message",
    [
        (cifar_net, "SupContrast's own ResNet, which has a 3x3 stem"),
        (lambda s: bolts(s, maxpool1=False, first_conv=True), "maxpool1 False"),
    ],
)
def test_stems_for_small_images_are_refused(
    make: Callable[[dict], Any], message: str, state: dict, tmp_path: Path
) -> None:
    torch.save(make(state), tmp_path / "w.pth")
    with pytest.raises(InputError, match=message):
        read_weights(str(tmp_path / "w.pth"))
