"""Round trips from every format to every layout and back, and what remains if one fails."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from pretrain.backbones.resnet import build_resnet
from pretrain.common.errors import InputError
from pretrain.data.highpass import HighPass
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints import convert, writers
from transfer.checkpoints.convert import check, write_proven
from transfer.checkpoints.names import layouts as layout
from transfer.checkpoints.names import resnet as names
from transfer.checkpoints.proof import ProofError
from transfer.checkpoints.read import read_weights
from transfer.checkpoints.weights import Weights, default_name
from transfer.checkpoints.writers import LAYOUTS, write_weights

FILES = ("mscn", "moco_v1", "moco_v2", "torchvision", "safetensors", "detectron2")


@pytest.fixture(scope="module")
def state(builders: ModuleType) -> dict[str, Tensor]:
    return builders.trained_state("tiny_resnet")


@pytest.fixture(scope="module")
def files(builders: ModuleType, state: dict, tmp_path_factory: pytest.TempPathFactory) -> dict:
    return builders.every_format(tmp_path_factory.mktemp("formats"), state, "tiny_resnet")


def same_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return sorted(first) == sorted(second) and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("suffix", LAYOUTS)
@pytest.mark.parametrize("name", FILES)
def test_round_trip(name: str, suffix: str, files: dict, state: dict, tmp_path: Path) -> None:
    output = tmp_path / f"out{suffix}"
    report = write_proven(check(str(files[name]), [suffix]), output)
    assert report.written == str(output) and not report.failures
    back = read_weights(str(output))
    assert same_tensors(back.state, state)
    assert back.sha256 == report.weights.sha256
    assert dict(back.provenance) == dict(report.weights.provenance)
    assert back.preprocess == report.weights.preprocess
    assert os.listdir(tmp_path) == [output.name]


def test_weights_say_how_they_are_known(files: dict, tmp_path: Path) -> None:
    proofs = {name: read_weights(str(files[name])).proof for name in FILES}
    expected = {name: "none" for name in FILES if not name.startswith("safe")}
    assert {name: proofs[name] for name in expected} == {**expected, "mscn": "own"}
    output = tmp_path / "out.pkl"
    write_proven(check(str(files["moco_v2"]), [".pkl"]), output)
    assert read_weights(str(output)).proof == "converted"
    assert read_weights("random", backbone="tiny_resnet").proof == "random"


def test_through_all_layouts_in_turn(files: dict, tmp_path: Path) -> None:
    path, first = str(files["mscn"]), read_weights(str(files["mscn"]))
    for number, suffix in enumerate((".pkl", ".safetensors", ".pth", ".pkl", ".pth")):
        output = tmp_path / f"{number}{suffix}"
        write_proven(check(path, [suffix]), output)
        path = str(output)
    last = read_weights(path)
    assert same_tensors(first.state, last.state) and first.provenance == last.provenance


def test_what_is_in_a_pkl(files: dict, state: dict, tmp_path: Path, builders: ModuleType) -> None:
    write_weights(read_weights(str(files["moco_v2"])), tmp_path / "o.pkl")
    data = (tmp_path / "o.pkl").read_bytes()
    assert b"numpy._core" not in data and b"numpy.core" not in data  # read by numpy 1 and 2
    content = pickle.loads(data, encoding="latin1")  # Detectron2's own call
    assert sorted(content) == ["__author__", "matching_heuristics", "model", "transfer"]
    assert content["__author__"] != "Caffe2" and content["matching_heuristics"] is True
    for name, tensor in state.items():
        array = content["model"].pop(builders.detectron2_name(name))
        assert isinstance(array, np.ndarray) and array.flags.writeable
        assert array.dtype == (np.int64 if tensor.dtype == torch.int64 else np.float32)
        assert array.shape == tuple(tensor.shape) and np.array_equal(array, tensor.numpy())
    assert not content["model"]
    facts = json.loads(content["transfer"])
    assert facts["provenance"]["method"] == "moco_v2" and facts["provenance"]["epochs"] == 200


def test_what_is_in_a_pth_and_a_safetensors(files: dict, state: dict, tmp_path: Path) -> None:
    weights = read_weights(str(files["mscn"]))
    write_weights(weights, tmp_path / "o.pth")
    flat = torch.load(tmp_path / "o.pth", weights_only=True)
    build_resnet("tiny_resnet").load_state_dict(flat)
    assert json.loads(flat._metadata["transfer"])["sha256"] == weights.sha256
    write_weights(weights, tmp_path / "o.safetensors")
    with safe_open(tmp_path / "o.safetensors", framework="pt") as content:
        assert sorted(content.keys()) == sorted(state)
        assert json.loads(content.metadata()["transfer"])["backbone"] == "tiny_resnet"


def test_the_files_are_readable_by_others(files: dict, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_proven(check(str(files["mscn"]), [".pkl"]), tmp_path / "o.pkl")
    finally:
        os.umask(before)
    assert (tmp_path / "o.pkl").stat().st_mode & 0o777 == 0o644


def test_highpass_travels_and_is_announced(
    tmp_path: Path, builders: ModuleType, state: dict
) -> None:
    preprocess = Preprocess(highpass=HighPass(11, 5.0))
    path = builders.mscn(tmp_path / "c.pth", state, "tiny_resnet", preprocess=preprocess.to_dict())
    report = write_proven(check(str(path), [".pkl"]), tmp_path / "o.pkl")
    assert any("plain Detectron2" in note for note in report.notes)
    assert read_weights(str(tmp_path / "o.pkl")).preprocess == preprocess
    assert not check(str(path), [".pth"]).notes


def test_resnet50_from_moco(tmp_path: Path, builders: ModuleType) -> None:
    state = builders.trained_state("resnet50")
    path = builders.moco(tmp_path / "m.pth.tar", state, "resnet50")
    report = write_proven(check(str(path), [".pkl"]), tmp_path / "r50.pkl")
    assert report.weights.account.expected == len(report.weights.account.used) == 318
    assert not report.weights.warnings
    assert default_name(report.weights, path) == "moco_v2_resnet50_200ep"
    assert same_tensors(read_weights(str(tmp_path / "r50.pkl")).state, state)


def swapped(name: str) -> str | None:
    """A name map that exchanges two blocks' first convolutions."""
    pair = ("layer2.0.bn1.weight", "layer2.0.bn2.weight")
    return names.to_detectron2(pair[1 - pair.index(name)] if name in pair else name)


def test_a_swap_by_the_converter_writes_nothing(
    files: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(layout.layout_of("detectron2"), forth=swapped)
    monkeypatch.setitem(layout.LAYOUTS, "detectron2", lambda names: wrong)
    report = check(str(files["mscn"]), [".pkl"])
    assert report.failures and not report.to_dict()["proven"]
    with pytest.raises(ProofError, match="not proven"):
        write_proven(report, tmp_path / "o.pkl")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_a_swap_by_the_reader_is_found(
    name: str, files: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = "detectron2" if name == "detectron2" else "canonical"
    right = layout.layout_of(kind)
    forth, back = right.forth, right.back
    pair = (forth("layer2.0.bn1.weight"), forth("layer2.0.bn2.weight"))

    def wrong(source: str) -> str | None:
        return back(pair[1 - pair.index(source)] if source in pair else source)

    monkeypatch.setitem(layout.LAYOUTS, kind, lambda _: replace(right, back=wrong))
    assert check(str(files[name]), [".pth"]).failures


def test_a_write_that_changes_values_leaves_nothing(
    files: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rounding(weights: Weights, path: Path) -> None:
        rounded = {name: tensor.half().float() for name, tensor in weights.state.items()}
        write_weights(Weights(rounded, weights.backbone, weights.preprocess, {}), path)

    report = check(str(files["mscn"]), [".pth"])
    monkeypatch.setattr(convert, "write_weights", rounding)
    with pytest.raises(ProofError, match="read back"):
        write_proven(report, tmp_path / "o.pth")
    assert not os.listdir(tmp_path)


def test_an_interrupted_write_leaves_the_old_file(
    files: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "o.pkl"
    output.write_bytes(b"old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(writers.WRITERS, ".pkl", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_proven(check(str(files["mscn"]), [".pkl"]), output)
    assert os.listdir(tmp_path) == ["o.pkl"] and output.read_bytes() == b"old"


def test_the_input_is_never_overwritten(files: dict) -> None:
    path = files["torchvision"]
    before = path.read_bytes()
    with pytest.raises(InputError, match="is the input"):
        write_proven(check(str(path), [".pth"]), path)
    assert path.read_bytes() == before


def test_facts_of_other_weights_are_refused(files: dict, tmp_path: Path) -> None:
    path = tmp_path / "o.pth"
    write_weights(read_weights(str(files["mscn"])), path)
    flat = torch.load(path, weights_only=True)
    flat["conv1.weight"] += 1
    torch.save(flat, path)
    with pytest.raises(InputError, match="facts belong to different weights"):
        read_weights(str(path))
