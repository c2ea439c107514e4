"""Files of no known format: their only complete trunk is read, or the message gives a reason."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from tests.transfer.checkpoints import formats
from tests.transfer.checkpoints.builders import detectron2_name, trained_state
from tests.transfer.checkpoints.formats import linear, mlp, norm, put
from tools.convert_weights import main
from transfer.checkpoints.convert import check
from transfer.checkpoints.read import read_weights
from transfer.checkpoints.weights import Weights

State = dict[str, Tensor]
HEAD = mlp("projection.model", (128, 64, 32))
LIGHTNING = {"pytorch-lightning_version": "2.4.0", "epoch": 9, "callbacks": {"a": {"best": 0.5}}}


@pytest.fixture(scope="module")
def state() -> State:
    return trained_state("tiny_resnet")


@pytest.fixture(scope="module")
def copy() -> State:
    return trained_state("tiny_resnet", seed=1)


def written(content: Mapping, folder: Path) -> str:
    torch.save(content, folder / "file.pth")
    return str(folder / "file.pth")


def check_equal(weights: Weights, state: State) -> None:
    assert set(weights.state) == set(state)
    assert all(torch.equal(weights.state[key], state[key]) for key in state)


def files(s: State) -> dict[str, tuple[dict, int]]:
    """Returns by name a file, and how many tensors in it are outside the trunk."""
    fc = linear("fc", 10, 128)
    return {
        **{
            f"container {key}": ({key: {**s, **fc}, "epoch": 3}, 2)
            for key in ("net", "backbone", "encoder", "network", "params", "weights", "model_ema")
        },
        **{
            f"Lightning {key}": ({**LIGHTNING, "state_dict": put(f"{key}.", {**s, **fc})}, 2)
            for key in ("model", "net", "resnet", "encoder", "backbone", "module.encoder")
        },
        "Lightning and a head": ({**LIGHTNING, "state_dict": put("net.", s) | HEAD}, len(HEAD)),
        "head of layers": ({"state_dict": put("backbone.", {**s, **mlp("fc", (4, 4))})}, 2),
        "flat": (put("trunk.", s), 0),
        "flat with a projector": ({**s, **put("", HEAD)}, len(HEAD)),
        "two containers deep": ({"checkpoint": {"model": put("net.", s)}, "n": 1}, 0),
        "DeepSpeed": ({"module": {**s, **fc}, "ds_version": "0.14", "global_steps": 3}, 2),
        "encoder under DDP": ({"model": put("encoder.module.", s) | linear("h", 2, 2)}, 2),
        "Sequential of children": (
            {"state": put("features.", {numbered(k): v for k, v in s.items()}) | HEAD},
            len(HEAD),
        ),
        "another convolution elsewhere": (
            {"net": put("image.", s) | {"audio.conv1.0.weight": torch.zeros(2, 2, 3)}},
            1,
        ),
    }


def numbered(name: str) -> str:
    head, _, rest = name.partition(".")
    return f"{({'conv1': 0, 'bn1': 1} | {f'layer{i}': i + 3 for i in range(1, 5)})[head]}.{rest}"


@pytest.mark.parametrize("name", files({}))
def test_the_one_whole_trunk(name: str, state: State, tmp_path: Path) -> None:
    content, outside = files(state)[name]
    report = check(written(content, tmp_path), [".pkl", ".pth"])
    assert report.format == "generic" and not report.failures
    check_equal(report.weights, state)
    dropped = report.weights.account.dropped.get("outside the trunk", ())
    assert len(dropped) == outside
    assert any("no known format" in warning for warning in report.weights.warnings)
    assert any("ImageNet's mean and std" in warning for warning in report.weights.warnings)
    assert report.weights.preprocess == Preprocess()


def test_a_vit_and_a_larger_resnet(builders: ModuleType, tmp_path: Path) -> None:
    vit = builders.trained_state("vit_tiny_patch16_224")
    extra = {"encoder.mask_token": torch.zeros(1, 1, 192), "decoder.0.weight": torch.zeros(8, 192)}
    weights = read_weights(written({"model": put("encoder.", vit) | extra}, tmp_path))
    check_equal(weights, vit)
    resnet = builders.trained_state("resnet18")
    check_equal(read_weights(written({"net": put("a.b.", resnet)}, tmp_path)), resnet)


def test_known_facts_stay_where_a_known_format_has_more(state: State, tmp_path: Path) -> None:
    content = formats.CASES["swav"].make(state)
    content["state_dict"]["module.extra_buffer"] = torch.zeros(3)
    weights = read_weights(written(content, tmp_path))
    check_equal(weights, state)
    assert weights.provenance["source"] == "generic" and weights.provenance["method"] == "swav"
    assert weights.preprocess.std == (0.228, 0.224, 0.225) and weights.provenance["epochs"] == 800


RULE = [
    ("teacher.", "student.", "teacher."),
    ("student_net.", "teacher_net.", "teacher_net."),
    ("encoder_k.", "encoder_q.", "encoder_q."),
    ("target_encoder.net.", "online_encoder.net.", "online_encoder.net."),
    ("net_ema.", "net.", "net."),
    ("modelEma.", "model_state.", "model_state."),
    ("params_polyak.", "params.", "params."),
    ("momentum_encoder.", "encoder.", "encoder."),
    ("ema.ema_model.", "ema.online_model.", "ema.online_model."),  # ema-pytorch
]


@pytest.mark.parametrize("first, second, taken", RULE)
def test_of_two_copies_the_rule_takes_one_and_says_so(
    first: str, second: str, taken: str, state: State, copy: State, tmp_path: Path
) -> None:
    left = first if taken == second else second
    for content in (
        {"learner": put(taken, state) | put(left, copy)},
        {taken.rstrip("."): state, left.rstrip("."): copy, "n": 1},
    ):
        weights = read_weights(written(content, tmp_path))
        check_equal(weights, state)
        note = weights.account.notes[-1]
        assert re.fullmatch(
            rf"read: `\S*{taken}`; not read, as copies: `\S*{left}` .different.", note
        )


def test_equal_copies_are_one_trunk(state: State, tmp_path: Path) -> None:
    content = put("a.", state) | put("b.net.", state) | put("target.", state)
    weights = read_weights(written(content, tmp_path))
    check_equal(weights, state)
    assert (
        "`b.net.`; not read, as copies: `a.` (equal), `target.` (equal)"
        in weights.account.notes[-1]
    )


def test_two_networks_need_a_prefix(
    state: State, copy: State, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = written({"model": put("image.", state) | put("depth.", copy)}, tmp_path)
    with pytest.raises(InputError, match=r"2 different networks.*`model.image.`.*--prefix"):
        read_weights(path)
    for prefix, wanted in (("model.image", state), ("depth", copy), ("depth.", copy)):
        check_equal(read_weights(path, prefix=prefix), wanted)
    output = tmp_path / "out.pth"
    assert main([path, str(output), "--prefix", "model.depth"]) == 0
    check_equal(read_weights(str(output)), copy)
    assert main([path, "--check", "--prefix", "depht"]) == 2
    said = "no known backbone is below the prefix 'depht'; give --prefix "
    text = capsys.readouterr().err
    assert said in text and "--prefix model.image" in text and "--prefix model.depth" in text
    with pytest.raises(InputError, match="generic, not for moco_v2"):
        read_weights(path, source="moco_v2", prefix="depth")


def test_a_prefix_forces_what_would_be_refused(state: State, copy: State, tmp_path: Path) -> None:
    content = put("student.", state) | put("teacher.", copy)
    check_equal(read_weights(written(content, tmp_path), prefix="student"), state)
    detector = put("backbone.", state) | {"rpn_head.conv.weight": torch.zeros(3)}
    path = written({"state_dict": detector, "meta": {}}, tmp_path)
    with pytest.raises(InputError, match="detector.*rpn_head.*--prefix state_dict.backbone"):
        read_weights(path)
    check_equal(read_weights(path, prefix="state_dict.backbone"), state)
    wrapped = written(put("_orig_mod.a.module.", state), tmp_path)
    check_equal(read_weights(wrapped, prefix="a"), state)


REFUSED = {
    "squeeze and excitation": (
        {"net.layer1.0.se.fc1.weight": torch.zeros(2, 2)},
        "a ResNet with squeeze and excitation",
    ),
    "a bias": ({"net.layer1.0.conv1.bias": torch.zeros(2)}, "1 unexplained"),
    "a stem": ({"net.stem.weight": torch.zeros(2)}, "may belong to it .net.stem.weight"),
    "blur": ({"net.maxpool.1.filt": torch.zeros(2)}, "may belong to it"),
    "parametrized": (
        {"net.conv1.parametrizations.weight.original": torch.zeros(2)},
        "parametrized .net.conv1.*remove_parametrizations",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_be_another_network_is_refused(name: str, state: State, tmp_path: Path) -> None:
    extra, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        read_weights(written({**put("net.", state), **extra}, tmp_path))


def test_a_damaged_trunk_is_not_replaced_by_its_copy(state: State, tmp_path: Path) -> None:
    key = "layer2.0.conv1.weight"
    moco = formats.CASES["moco_v2"].make(state)
    moco["state_dict"].pop(f"module.encoder_q.{key}")
    online = put("online.", state) | put("target.", state)
    online.pop(f"online.{key}")
    for content in (moco, online):
        with pytest.raises(InputError, match=rf"1 missing: \S+{key}"):
            read_weights(written(content, tmp_path))


def test_the_pair_of_known_formats_is_said(state: State, copy: State, tmp_path: Path) -> None:
    averaged = {"n_averaged": torch.tensor(5), **put("module.", copy)}
    weights = read_weights(written({"model": state, "model_ema": averaged, "epoch": 5}, tmp_path))
    check_equal(weights, state)
    wanted = "read: `model.`; not read, as copies: `model_ema.module.` (different)"
    assert weights.account.notes == (wanted,)
    weights = read_weights(written(formats.CASES["moco_v2"].make(state), tmp_path))
    assert "state_dict.module.encoder_q.`; not read" in weights.account.notes[-1]
    assert not read_weights(written(state, tmp_path)).account.notes


def test_the_last_message_saves_the_backbone(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"epoch": 3, "names": ["a"] * 9}
    odd = {k.replace("layer", "lvl"): v for k, v in state.items()}
    path = written({"weights": put("net.", odd), **extra}, tmp_path)
    with pytest.raises(InputError, match="none of the known formats") as caught:
        read_weights(path)
    code = str(caught.value).partition("prefix: ")[2]
    assert code.count(";") == 2 and "\n" not in code
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert set(torch.load("backbone.pth", weights_only=True)) == set(odd)


def test_norms_beside_the_trunk(state: State, tmp_path: Path) -> None:
    """Outside the trunk's prefix a norm is a head's; inside it may be the network's."""
    weights = read_weights(written({"model": put("net.", state) | norm("bn", 8)}, tmp_path))
    check_equal(weights, state)
    with pytest.raises(InputError, match="may belong to it"):
        read_weights(written({"model": put("net.", {**state, **norm("bn", 8)})}, tmp_path))


def test_the_backbone_of_a_detectron2_detector(state: State, tmp_path: Path) -> None:
    """Refused, and by the user's word taken, with what the file does not say."""
    model = {f"backbone.bottom_up.{detectron2_name(k)}": v.numpy() for k, v in state.items()}
    model["roi_heads.box_predictor.cls_score.weight"] = torch.zeros(2, 2).numpy()
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": model, "__author__": "Detectron2 Model Zoo"}))
    with pytest.raises(InputError, match="detector.*--prefix model.backbone.bottom_up"):
        read_weights(str(path))
    weights = read_weights(str(path), prefix="backbone.bottom_up")
    check_equal(weights, state)
    assert any("BGR on 0 to 255" in warning for warning in weights.warnings)


DETECTORS = {
    "torchvision's RetinaNet": "head.regression_head.bbox_reg.weight",
    "torchvision's FCOS": "head.classification_head.cls_logits.weight",
    "Detectron2's RetinaNet": "head.cls_subnet.0.weight",
    "DETR": "bbox_embed.layers.0.weight",
    "transformers' DETR": "bbox_predictor.layers.0.weight",
    "Deformable DETR": "transformer.decoder.bbox_embed.0.layers.0.weight",
}


@pytest.mark.parametrize("name", DETECTORS)
def test_detectors_of_one_stage_and_of_queries_are_named(
    name: str, state: State, tmp_path: Path
) -> None:
    path = written(put("backbone.body.", state) | {DETECTORS[name]: torch.zeros(2, 2)}, tmp_path)
    with pytest.raises(InputError, match="it is a detector .*--prefix backbone.body"):
        read_weights(path)
    check_equal(read_weights(path, prefix="backbone.body"), state)


def test_a_converted_file_for_detectron2_with_head_and_pyramid(
    state: State, tmp_path: Path
) -> None:
    """ReSim's converter writes it by torch.save; what is in no stage is below `stem.`."""
    model = {detectron2_name(k): v.numpy() for k, v in state.items()}
    more = {"stem.fc.0.weight": (8, 8), "stem.fc.2.bias": (8,), "backbone.fpn_lateral5.bias": (8,)}
    model |= {name: torch.zeros(shape).numpy() for name, shape in more.items()}
    content = {"model": model, "__author__": "MOCO", "matching_heuristics": True}
    for saved in (torch.save, lambda made, path: path.write_bytes(pickle.dumps(made))):
        saved(content, tmp_path / "resim.pkl")
        check_equal(read_weights(tmp_path / "resim.pkl"), state)
    del model["backbone.fpn_lateral5.bias"]
    torch.save(content, tmp_path / "moco.pkl")
    weights = read_weights(tmp_path / "moco.pkl")
    assert weights.provenance["source"] == "detectron2"
    check_equal(weights, state)


def test_pixpros_dilated_network_is_refused(state: State, tmp_path: Path) -> None:
    model = put("module.encoder.", state) | put("module.encoder_k.", state)
    model |= {"module.projector.linear1.weight": torch.zeros(8, 8, 1, 1)}
    opt = argparse.Namespace(arch="resnet50_16s", model="PixPro")
    path = written({"opt": opt, "model": model, "epoch": 100}, tmp_path)
    with pytest.raises(InputError, match="resnet50_16s, whose last stage is dilated"):
        read_weights(path)


def test_style_caffe_is_kept_where_a_prefix_is_given(builders: ModuleType, tmp_path: Path) -> None:
    state = builders.trained_state("resnet50")
    content = put("backbone.", state) | {"rpn_head.conv.weight": torch.zeros(3)}
    config = "model = dict(type='FasterRCNN', backbone=dict(type='ResNet', style='caffe'))"
    path = written({"meta": {"config": config}, "state_dict": content}, tmp_path)
    weights = read_weights(path, prefix="backbone")
    assert weights.architecture == {"stride_in_1x1": True}
    check_equal(weights, state)


def test_a_network_for_small_images_is_named(state: State, tmp_path: Path) -> None:
    odd = {k.replace("downsample.", "shortcut."): v for k, v in state.items()}
    path = written({"state_dict": put("backbone.", odd), "meta": {}}, tmp_path)
    with pytest.raises(InputError, match="for small images .lightly's") as caught:
        read_weights(path)
    assert str(caught.value).count("file.pth") == 1


@pytest.mark.parametrize("side", [3, 7])
def test_a_sequential_without_pooling_is_named(side: int, state: State, tmp_path: Path) -> None:
    """SimCLR's ports to CIFAR put the layers into a Sequential that has no pooling."""
    places = {"4": "3", "5": "4", "6": "5", "7": "6"}
    plain = {numbered(k): v for k, v in state.items()}
    net = {f"f.{places.get(k[0], k[0])}{k[1:]}": v for k, v in plain.items()}
    net["f.0.weight"] = torch.zeros(len(state["conv1.weight"]), 3, side, side)
    with pytest.raises(InputError, match="a ResNet without pooling after its stem, for small"):
        read_weights(written(net, tmp_path))
