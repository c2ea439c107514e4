"""The command: exit status, one clear line for every bad input, no incomplete file."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import subprocess
import sys
from collections import deque
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pretrain.backbones.resnet import build_resnet
from tools.convert_weights import main
from transfer.checkpoints.names import layouts as layout
from transfer.checkpoints.names import resnet as names

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def builders() -> ModuleType:
    path = ROOT / "tests" / "transfer" / "checkpoints" / "builders.py"
    spec = importlib.util.spec_from_file_location("builders", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkpoint(builders: ModuleType, tmp_path: Path) -> Path:
    state = builders.trained_state("tiny_resnet")
    (tmp_path / "run").mkdir()
    return builders.mscn(tmp_path / "run" / "checkpoint.pth", state, "tiny_resnet")


def test_converts_and_says_so(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(checkpoint), str(tmp_path / "o.pkl")]) == 0
    out = capsys.readouterr().out
    assert "mscn, tiny_resnet" in out and "2 dropped: projector" in out
    assert "layer3" in out and "read back equal" in out
    assert pickle.loads((tmp_path / "o.pkl").read_bytes())["__author__"] == "mscn"


def test_check_writes_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(checkpoint), "--check"]) == 0
    out = capsys.readouterr().out
    assert "detectron2" in out and "torchvision" in out and "nothing written" in out
    assert main([str(checkpoint), str(tmp_path / "o.pkl"), "--check"]) == 0
    assert os.listdir(tmp_path) == ["run"] and os.listdir(tmp_path / "run") == ["checkpoint.pth"]


def test_json(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(checkpoint), str(tmp_path / "o.pth"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["proven"] is True and report["written"] == str(tmp_path / "o.pth")
    assert report["account"]["unexplained"] == []
    assert len(report["account"]["used"]) == report["account"]["expected"]
    assert report["account"]["dropped"]["projector"] == [
        "projector.0.weight",
        "projector.1.num_batches_tracked",
    ]
    rows = report["proof"]["torchvision"]
    assert {"inputs", "stage", "max_abs", "relative"} <= set(rows[0])
    assert report["name"] == "mscn_tiny_resnet_2ep"


def test_output_folder_takes_the_default_name(checkpoint: Path, tmp_path: Path) -> None:
    assert main([str(checkpoint), "--output", str(tmp_path / "weights")]) == 0
    assert os.listdir(tmp_path / "weights") == ["mscn_tiny_resnet_2ep.pkl"]


def test_a_failed_proof_is_a_failed_run(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pair = ("layer1.0.conv1.weight", "layer1.0.conv2.weight")

    def swapped(name: str) -> str | None:
        return names.to_detectron2(pair[1 - pair.index(name)] if name in pair else name)

    wrong = replace(layout.layout_of("detectron2"), forth=swapped)
    monkeypatch.setitem(layout.LAYOUTS, "detectron2", lambda names: wrong)
    assert main([str(checkpoint), str(tmp_path / "o.pkl")]) == 1
    captured = capsys.readouterr()
    assert "DIFFERS" in captured.out and "nothing written" in captured.err
    assert os.listdir(tmp_path) == ["run"]


def truncated(path: Path, share: float) -> Path:
    data = path.read_bytes()
    cut = path.with_name(f"cut_{share}_{path.name}")
    cut.write_bytes(data[: int(len(data) * share)])
    return cut


def bad_inputs(folder: Path, builders: ModuleType) -> dict[str, Path]:
    """Returns, by what is wrong, a file with that fault."""
    state = builders.trained_state("tiny_resnet")
    files = builders.every_format(folder, state, "tiny_resnet")
    bad = {"missing": folder / "nowhere.pth", "folder": folder}
    texts = {
        "empty": b"",
        "one byte": b"P",
        "text": b"this is not a checkpoint\n" * 9,
        "html": b"<!DOCTYPE html><html>404</html>",
        "json": b'{"model": "resnet50"}',
        "zip magic only": b"PK\x03\x04" + bytes(40),
        "png": b"\x89PNG\r\n\x1a\n" + bytes(40),
    }
    for name, data in texts.items():
        for suffix in (".pth", ".pkl", ".safetensors"):
            bad[name + suffix] = folder / f"{name.replace(' ', '_')}{suffix}"
            bad[name + suffix].write_bytes(data)
    huge = (1 << 60).to_bytes(8, "little")
    bad["huge header"] = folder / "huge.safetensors"
    bad["huge header"].write_bytes(huge + b'{"a": 1}')
    for name in ("torchvision", "detectron2", "safetensors", "mscn"):
        for share in (0.001, 0.3, 0.999):
            bad[f"{name} cut at {share}"] = truncated(files[name], share)
    nan = {**state, "layer1.0.bn1.bias": state["layer1.0.bn1.bias"] * float("nan")}
    bad["nan"] = builders.torchvision(folder / "nan.pth", nan)
    lost = {name: tensor for name, tensor in state.items() if name != "layer2.0.conv1.weight"}
    bad["lost key"] = builders.moco(folder / "lost.pth", lost, "tiny_resnet")
    bad["extra key"] = builders.bare_safetensors(
        folder / "extra.safetensors", {**state, "layer9.weight": torch.zeros(1)}
    )
    bad["vit"] = folder / "vit.pth"
    torch.save({"cls_token": torch.zeros(1), "blocks.0.norm1.weight": torch.zeros(1)}, bad["vit"])
    return bad


def test_every_bad_input_is_one_line(
    tmp_path: Path, builders: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for what, path in bad_inputs(tmp_path / "in", builders).items():
        assert main([str(path), str(tmp_path / "out" / "o.pkl")]) == 2, what
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith("error: "), what
        assert captured.err.count("\n") == 1 and path.name in captured.err, captured.err
        assert len(captured.err) < 700, captured.err
        assert not (tmp_path / "out").exists(), what


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "give OUTPUT"),
        (["o.onnx"], "suffix"),
        (["o"], "suffix"),
        (["o.pkl", "--output", "d"], "not both"),
    ],
)
def test_usage_errors(
    arguments: list[str], message: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(checkpoint), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_unknown_source_is_a_usage_error(checkpoint: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([str(checkpoint), "--check", "--source", "moco"]) == 2
    assert "unknown source 'moco'" in capsys.readouterr().err


def test_the_sources_are_listed(capsys: pytest.CaptureFixture) -> None:
    assert main(["--list-sources"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 40 and any(line.startswith("byol ") for line in lines)


def test_usage_errors_load_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from tools.convert_weights import main\n"
        f"status = main([{str(tmp_path / 'none.pth')!r}, 'o.pkl'])\n"
        "assert 'torch' not in sys.modules\nsys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "no weights file at" in done.stderr, done.stderr


def test_trust_is_the_only_way_to_unknown_classes(
    tmp_path: Path, builders: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    state = build_resnet("tiny_resnet").state_dict()
    path = builders.detectron2(tmp_path / "odd.pkl", state, made=deque([1]))
    assert main([str(path), "--check"]) == 2
    assert "--trust" in capsys.readouterr().err
    assert main([str(path), "--check", "--trust"]) == 0
