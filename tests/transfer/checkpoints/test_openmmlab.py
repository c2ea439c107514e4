"""OpenMMLab's files: stride, channel order, mean and std are those of the stored config."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torchvision

from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.build import build_frozen_backbone
from transfer.checkpoints.convert import check
from transfer.checkpoints.formats.mm_config import parse_config
from transfer.checkpoints.formats.openmmlab import facts_of_mm
from transfer.checkpoints.provenance import Facts

BGR_MEAN, RGB_MEAN = [103.53, 116.28, 123.675], [123.675, 116.28, 103.53]
RGB_STD = [58.395, 57.12, 57.375]
CAFFE = "model = dict(\n    type='DenseCL',\n    backbone=dict(type='ResNet', style='caffe'))\n"
STATE = {"backbone.layer1.0.conv3.weight": torch.zeros(1)}
BGR = Preprocess(tuple(BGR_MEAN), (1.0, 1.0, 1.0), "BGR", (0.0, 255.0))


def facts(config: Any, place: str = "config", **tensors: torch.Tensor) -> Facts:
    state = {**STATE, **{k.replace("__", "."): v for k, v in tensors.items()}}
    if place == "message_hub":
        return facts_of_mm({"message_hub": {"runtime_info": {"cfg": config}}, "state_dict": state})
    return facts_of_mm({"meta": {"epoch": 200, place: config}, "state_dict": state})


def test_the_features_are_those_of_openmmlab_s_caffe_resnet(
    builders: ModuleType, tmp_path: Path
) -> None:
    state = builders.trained_state("resnet50")
    path = tmp_path / "mm.pth"
    content = {"backbone." + name: tensor for name, tensor in state.items()}
    torch.save({"meta": {"epoch": 200, "config": CAFFE}, "state_dict": content}, path)
    report = check(str(path), [".pkl"])
    assert not report.failures and report.weights.provenance["method"] == "densecl"
    network = torchvision.models.resnet50().eval()
    network.load_state_dict(state, strict=False)
    network.fc = torch.nn.Identity()
    for stage in (network.layer2, network.layer3, network.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(build_frozen_backbone(report.weights)(x), network(x))


TEXTS = {
    "mmengine": CAFFE + f"data_preprocessor = dict(mean={BGR_MEAN}, std=[1.0, 1, 1], to_rgb=False)",
    "mmengine, inside the model": CAFFE.replace(
        "model = dict(", f"model = dict(data_preprocessor=dict(mean={BGR_MEAN}, std=[1, 1, 1]), "
    ),
    "mmdet 2": CAFFE + f"img_norm_cfg = dict(mean={BGR_MEAN}, std=[1.0, 1.0, 1.0], to_rgb=False)",
    "mmdet 2, in the pipeline": CAFFE + "train_pipeline = [dict(type='LoadImageFromFile'), dict("
    f"type='Normalize', mean={BGR_MEAN}, std=[1.0, 1.0, 1.0], to_rgb=False)]",
    "raw text of several files": "configs/base.py\n"
    + CAFFE.replace("caffe", "pytorch")
    + "configs/own.py\nmodel = dict(backbone=dict(style='caffe'))\n"
    + f"norm = dict(mean={BGR_MEAN}, std=[1.0, 1.0, 1.0], to_rgb=False)\n"
    + "train_pipeline = [dict(type='Normalize', **norm)]",
    "YAML": "model:\n  type: DenseCL\n  backbone: {type: ResNet, style: caffe}\nimg_norm_cfg:\n"
    f"  mean: {BGR_MEAN}\n  std: [1.0, 1.0, 1.0]\n  to_rgb: false\n",
    "JSON": '{"model": {"type": "DenseCL", "backbone": {"style": "caffe"}}, "img_norm_cfg": '
    f'{{"mean": {BGR_MEAN}, "std": [1, 1, 1], "to_rgb": false}}}}',
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("place", ["config", "cfg", "message_hub"])
def test_style_and_statistics_in_every_place(text: str, place: str) -> None:
    found = facts(TEXTS[text], place)
    assert found.architecture == {"stride_in_1x1": True}
    assert found.preprocess == BGR and not found.warnings
    assert found.known["method"] == "densecl"


def test_a_config_stored_as_a_mapping() -> None:
    config = {
        "model": {"type": "MoCo", "backbone": {"type": "mmpretrain.ResNet", "style": "caffe"}},
        "data_preprocessor": {"mean": RGB_MEAN, "std": RGB_STD, "bgr_to_rgb": True},
    }
    found = facts(config, "cfg")
    assert found.architecture == {"stride_in_1x1": True} and found.preprocess == Preprocess()
    detector = {"model": {"detector": {"backbone": {"style": "caffe"}}}}
    assert facts(detector).architecture == {"stride_in_1x1": True}


@pytest.mark.parametrize(
    "entry, wanted",
    [
        (f"data_preprocessor = dict(mean={RGB_MEAN}, std={RGB_STD}, to_rgb=True)", Preprocess()),
        (f"img_norm_cfg = dict(mean={RGB_MEAN}, std={RGB_STD}, to_rgb=True)", Preprocess()),
        (f"img_norm_cfg = dict(mean={RGB_MEAN}, std={RGB_STD})", Preprocess()),
        (
            "img_norm_cfg = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])\n"
            "p = [dict(type='ToTensor'), dict(type='Normalize', **img_norm_cfg)]",
            Preprocess(),
        ),
        (
            "p = [dict(type='ToTensor'), dict(type='Normalize', mean=[0, 0, 0], std=[1, 1, 1])]",
            Preprocess((0.0,) * 3, (1.0,) * 3),
        ),
        (
            "data_preprocessor = dict(mean=[0, 0, 0], std=[255, 255, 255], to_rgb=True)",
            Preprocess((0.0,) * 3, (255.0,) * 3, value_range=(0.0, 255.0)),
        ),
        (
            "data_preprocessor = dict(mean=[127.5] , std=[127.5], to_rgb=True)\n"
            "img_norm_cfg = dict(mean=[0.5 * 255] * 3, std=[1.0, 2.0, 4.0])\n"
            "other = dict(type='Normalize', mean=[0.5 * 255, 127, 126], std=[1.0, 2.0, 4.0])",
            Preprocess((127.5, 127.0, 126.0), (1.0, 2.0, 4.0), value_range=(0.0, 255.0)),
        ),
    ],
)
def test_units_and_channel_order(entry: str, wanted: Preprocess) -> None:
    found = facts(CAFFE + entry)
    assert found.preprocess == wanted and not found.warnings


def test_the_tensors_win_over_the_config() -> None:
    mean, std = torch.tensor(BGR_MEAN).view(3, 1, 1), torch.ones(3, 1, 1)
    tensors = {"data_preprocessor__mean": mean, "data_preprocessor__std": std}
    found = facts(CAFFE + f"img_norm_cfg = dict(mean={RGB_MEAN}, std={RGB_STD})", **tensors)
    assert found.preprocess.mean == pytest.approx(BGR_MEAN)
    alone = facts("", **tensors)
    assert alone.preprocess == BGR
    assert "no channel order: BGR" in alone.warnings[0]
    assert "style" in alone.warnings[1]


@pytest.mark.parametrize("text", ["", "def f(: not python", "@@"])
def test_what_is_not_stated_is_assumed_aloud(text: str) -> None:
    found = facts(text)
    assert found.preprocess == Preprocess() and not found.architecture
    assert len(found.warnings) == 1 and "style='pytorch'" in found.warnings[0]
    assert "pixel statistics" in facts(CAFFE).warnings[0]


def test_other_strides_are_warned_of_and_basic_blocks_have_none() -> None:
    text = CAFFE.replace("style=", "strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), style=")
    assert "strides (1, 2, 1, 1) and dilations (1, 1, 2, 4)" in facts(text).warnings[-1]
    content = {"meta": {"config": CAFFE}, "state_dict": {"backbone.conv1.weight": torch.zeros(1)}}
    assert not facts_of_mm(content).architecture


def test_nothing_of_a_config_is_run() -> None:
    text = "import os\na = __import__('os').getcwd()\nb = [x for x in ()]\nc = dict(d=1, e=open)"
    assert parse_config(text) == {"a": None, "b": None, "c": {"d": 1, "e": None}}
    assert parse_config("a = " + "[" * 5000) == {}


def test_a_yaml_config_unfolds_nothing() -> None:
    assert parse_config("a: 1\nb: {c: x}") == {"a": 1, "b": {"c": "x"}}
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [" + ",".join([f"*a{n - 1}"] * 10) + "]" for n in range(1, 9)]
    assert parse_config("\n".join(lines)) == {}  # a hundred million values
    assert parse_config("a: 2020-99-99") == {}
    assert parse_config("a: !!python/object/apply:eval ['1']") == {}
