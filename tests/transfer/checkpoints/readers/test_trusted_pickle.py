"""`--trust`: modules give their state_dict, and what cannot be built becomes inert."""

from __future__ import annotations

import enum
import pathlib
import pickle
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from pretrain.common.errors import InputError
from pretrain.digits.dataset import make_digits
from tests.transfer.checkpoints.builders import trained_state
from tools import convert_weights, doctor, train_cls
from transfer.checkpoints.build import build_trunk
from transfer.checkpoints.read import read_weights
from transfer.checkpoints.readers.raw import open_file
from transfer.checkpoints.readers.trust import VARIABLE


def a_trunk() -> nn.Module:
    trunk = build_trunk("tiny_resnet", {})
    trunk.load_state_dict(trained_state("tiny_resnet"))
    return trunk


def named(name: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a class into a module that is gone when the file is read."""
    module = types.ModuleType("gone_training")
    setattr(module, name, kind)
    kind.__module__, kind.__qualname__ = "gone_training", name
    monkeypatch.setitem(sys.modules, "gone_training", module)


@pytest.mark.parametrize("place", ["the file", "model", "deep"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_whole_module_gives_its_state(place: str, legacy: bool, tmp_path: Path) -> None:
    trunk = a_trunk()
    content = {"the file": trunk, "model": {"model": trunk}, "deep": {"a": {"net": trunk}}}[place]
    path = tmp_path / "x.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match="pretrain.backbones.resnet.*--trust"):
        read_weights(str(path))
    weights = read_weights(str(path), trust=True)
    assert all(torch.equal(weights.state[k], v) for k, v in trunk.state_dict().items())


def test_a_module_whose_class_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Learner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = a_trunk()
            self.register_buffer("cache", torch.zeros(3), persistent=False)

    class Mode(str, enum.Enum):
        FAST = "fast"

    named("Learner", Learner, monkeypatch)
    learner = Learner()
    torch.save({"model": nn.DataParallel(learner)}, tmp_path / "x.pth")
    named("Mode", Mode, monkeypatch)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"mode": Mode.FAST, "n": 1}))
    monkeypatch.delitem(sys.modules, "gone_training")
    found = open_file(tmp_path / "x.pth", trust=True).content["model"]
    assert set(found) == {f"module.{name}" for name in learner.state_dict()}
    weights = read_weights(str(tmp_path / "x.pth"), trust=True)
    assert all(torch.equal(weights.state[k], v) for k, v in learner.backbone.state_dict().items())
    assert open_file(tmp_path / "x.pkl", trust=True).content["n"] == 1


class Unbuilt:
    """Cannot be built from a pickle, nor take its state."""

    def __init__(self) -> None:
        self.a = 1

    def __reduce__(self) -> tuple:
        return Unbuilt, (1, 2, 3), {"a": 1}


class Stateless:
    def __setstate__(self, state: object) -> None:
        raise RuntimeError("of a different version")

    def __getstate__(self) -> dict:
        return {"a": 1}


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_what_cannot_be_built_becomes_inert(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    content = {"first": Unbuilt(), "second": Stateless(), "last": [1, 2], "x": (3,)}
    if suffix == ".pth":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    loaded = open_file(path, trust=True).content
    assert loaded["first"].a == 1 and loaded["second"].a == 1
    assert loaded["last"] == [1, 2] and loaded["x"] == (3,)


def test_a_path_of_another_system(tmp_path: Path) -> None:
    data = pickle.dumps({"p": pathlib.PureWindowsPath("C:/x"), "n": 1}, protocol=2)
    (tmp_path / "x.pkl").write_bytes(data.replace(b"PureWindowsPath", b"WindowsPath"))
    assert open_file(tmp_path / "x.pkl", trust=True).content["n"] == 1


def test_every_command_that_offers_trust_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    make_digits(tmp_path / "data", classification=(20, 20, 20), scenes=(0, 0, 0))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    path = tmp_path / "x.pth"
    torch.save({"model": a_trunk(), "name": "x"}, path)
    commands = {
        convert_weights: [str(path), "--check"],
        doctor: ["--weights", str(path)],
        train_cls: ["--config", "knn_digits.yaml", "--weights", str(path)]
        + ["--output", str(tmp_path / "out"), "PROTOCOL.K", "[3]"],
    }
    for command, words in commands.items():
        monkeypatch.setenv(VARIABLE, "0")
        assert command.main(words) == 2
        assert "--trust" in capsys.readouterr().err
        assert command.main(["--trust", *words]) == 0, command


def test_nothing_is_trusted_without_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.pth"
    torch.save({"model": a_trunk()}, path)
    for value in ("", "0", "no"):
        monkeypatch.setenv(VARIABLE, value)
        with pytest.raises(InputError, match="--trust"):
            open_file(path)


def test_train_cls_says_what_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    make_digits(tmp_path / "data", classification=(20, 20, 20), scenes=(0, 0, 0))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    state, path = a_trunk().state_dict(), tmp_path / "x.pth"
    torch.save({"net": state, "net_ema": {k: v + 1 for k, v in state.items()}}, path)
    words = f"--config knn_digits.yaml --weights {path} --output {tmp_path / 'out'} PROTOCOL.K [3]"
    assert train_cls.main(words.split()) == 0
    said = "".join(capsys.readouterr())
    assert "the tiny_resnet below `net.` is used" in said
    assert "not read, as copies: `net_ema.` (different)" in said
