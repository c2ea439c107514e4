"""The command: what it refuses, with one line each; it trains, evaluates and shows data."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pretrain.digits.dataset import make_digits
from tools.train_det import main

ROOT = Path(__file__).parents[2]
TINY = (
    "SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 2 DATALOADER.NUM_WORKERS 0 INPUT.MIN_SIZE_TRAIN 64 "
    "INPUT.MIN_SIZE_TEST 64 MODEL.RPN.POST_NMS_TOPK_TEST 10 TRANSFER.DRAW_DETECTIONS 0"
).split()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("det") / "digits"
    make_digits(root, seed=3, classification=(0, 0, 0), scenes=(8, 0, 3))
    return root


@pytest.fixture
def data(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "data"
    shutil.copytree(made, root)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    return root


def refused(capsys: pytest.CaptureFixture[str], status: int) -> str:
    text = capsys.readouterr().err
    assert status == 2 and text.startswith("error: ") and text.count("\n") == 1, text
    return text


def test_trains_evaluates_and_shows(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    command = ["--config", "digits_voc.yaml", "--engine", "torchvision"]
    assert main([*command, "--weights", "random", "--output", str(output), *TINY]) == 0
    assert "record.json: bbox/AP" in capsys.readouterr().out
    record = json.loads((output / "trial_0/record.json").read_text())
    assert "detections" not in record["artifacts"]

    again = [*command, "--weights", "random", "--output", str(output), *TINY]
    assert "add --resume" in refused(capsys, main(again))

    model, scored = output / "trial_0/model_final.pth", tmp_path / "eval"
    words = ["--weights", str(model), "--eval-only", "--output", str(scored)]
    assert main([*command, *words, *TINY]) == 0
    found = json.loads((scored / "evaluation.json").read_text())
    assert found["metrics"] == record["metrics"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"{scored}/evaluation.json: bbox/AP ") and "bbox/AP50" in last
    assert "bbox/AP75" not in last, "the headlines alone"

    other = ["--weights", "random", "--output", str(output), "--resume", *TINY]
    assert main([*command, *other, "SOLVER.GAMMA", "0.5"]) == 2
    text = capsys.readouterr().err.splitlines()[-1]
    assert "SOLVER.GAMMA" in text and f"--weights {model} starts from its trained detector" in text

    arrays = {k: v.numpy() for k, v in torch.load(model, weights_only=True)["model"].items()}
    zoo = tmp_path / "model_final_zoo.pkl"
    zoo.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    words = ["--weights", str(zoo), "--eval-only", "--output", str(tmp_path / "zoo")]
    assert main([*command, *words, *TINY]) == 0
    found = json.loads((tmp_path / "zoo" / "evaluation.json").read_text())
    assert found["metrics"] == record["metrics"]

    words = ["--weights", str(zoo), "--output", str(tmp_path / "tuned")]
    assert main([*command, *words, *TINY]) == 0, "training goes on from a whole detector"
    tuned = json.loads((tmp_path / "tuned/trial_0/record.json").read_text())
    assert tuned["checkpoint"]["name"] == "model_final_zoo"
    assert tuned["protocol"]["config_sha256"] != record["protocol"]["config_sha256"]

    again = ["--config", str(output / "trial_0/config.yaml"), "--engine", "torchvision"]
    assert main([*again, "--output", str(tmp_path / "again")]) == 0
    assert "--weights random, from MODEL.WEIGHTS of" in capsys.readouterr().out
    same = json.loads((tmp_path / "again/trial_0/record.json").read_text())
    assert same["metrics"] == record["metrics"], "config.yaml is the whole run"
    for key in ("name", "config_sha256"):
        assert same["protocol"][key] == record["protocol"][key], "and its protocol"

    words = ["--show-data", "2", "--output", str(tmp_path / "shown")]
    assert main([*command, *words, *TINY]) == 0
    assert len(list((tmp_path / "shown").glob("input_*.png"))) == 2


def test_divergence_is_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The RPN's boxes are the first that are not finite."""
    words = ["--weights", "random", "--engine", "torchvision", "--output", str(tmp_path / "x")]
    steep = ["SOLVER.BASE_LR", "1e30", "SOLVER.WARMUP_ITERS", "0", "SOLVER.MAX_ITER", "4"]
    assert main(["--config", "digits_voc.yaml", *words, *TINY, *steep]) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert re.search(r"not finite at iteration \d: .*loss_rpn_loc=nan; lower SOLVER.BASE_LR", line)


def test_usage_and_config_errors(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(config: str, *words: str) -> str:
        return refused(capsys, main(["--config", config, "--output", str(tmp_path / "x"), *words]))

    random = ("--weights", "random")
    assert "digits_voc.yaml" in line("digits_vok.yaml", *random)
    assert "SOLVER.MAX_ITER" in line("digits_voc.yaml", *random, "SOLVER.MAX_ITERS", "3")
    assert "MODEL.WEIGHTS of digits_voc.yaml is empty: give a che" in line("digits_voc.yaml")
    none = ("MODEL.WEIGHTS", str(tmp_path / "none.pth"))
    assert "no weights file at" in line("digits_voc.yaml", *none)
    assert "--num-gpus 64" in line("digits_voc.yaml", *random, "--num-gpus", "64")
    assert "unknown engine" in line("digits_voc.yaml", *random, "--engine", "mmdet")
    assert "--show-data 0" in line("digits_voc.yaml", "--show-data", "0")
    assert "--trials" in line("digits_voc.yaml", *random, "--trials", "0")
    assert "MODEL.RPN.HEAD_NAME" in line("digits_voc.yaml", *random, "MODEL.RPN.HEAD_NAME", "X")
    test = ("digits_voc.yaml", *random, "DATASETS.TEST")
    assert "add DATASETS.TEST voc:FOLDER:test" in line(*test, "()")
    assert "exactly one" in line(*test, "('voc:a:test', 'voc:b:test')")
    assert "voc:FOLDER:SPLIT" in line("digits_voc.yaml", *random, "DATASETS.TRAIN", "voc:x")
    assert "has no C4" in line(
        "voc_mscn.yaml", *random, "MODEL.RESNETS.DEPTH", "18", "DATASETS.TRAIN",
        "voc:digits_voc:train", "DATASETS.TEST", "voc:digits_voc:test",
    )  # fmt: skip


def test_data_errors(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def line(config: str, *words: str) -> str:
        options = ["--weights", "random", "--engine", "torchvision"]
        base = ["--config", config, "--output", str(tmp_path / "x"), *options]
        return refused(capsys, main([*base, *TINY, *words]))

    assert "VOC2007" in line("voc_mscn.yaml")
    assert "instances_train2017.json is missing" in line("coco_mscn.yaml")
    odd = ("TRANSFER.ACCUMULATE", "3", "SOLVER.IMS_PER_BATCH", "4")
    assert "IMS_PER_BATCH 4 is not a multiple of 1 process x 3" in line("digits_voc.yaml", *odd)
    part = ("DATASETS.TRAIN", "voc:digits_voc:train@200%")
    assert "give @1% to @100%" in line("digits_voc.yaml", *part)
    assert "has a mask" in line("digits_voc.yaml", "MODEL.MASK_ON", "True")
    classes = "('0','1','2','3','4','5','6','7','8')"
    assert "'9'" in line("digits_coco.yaml", "TRANSFER.CLASSES", classes)

    annotation = sorted((data / "digits_voc/Annotations").glob("*.xml"))[0]
    text = annotation.read_text()
    annotation.write_text(text[:80])
    assert f"not valid XML (1: {annotation.name} (" in line("digits_voc.yaml")
    annotation.write_text(text.replace("<xmin>", "<xmin>9"))
    assert "boxes have a negative width or height (" in line("digits_voc.yaml")
    annotation.write_text(text)

    image = data / "digits_voc/JPEGImages" / f"{annotation.stem}.jpg"
    image.write_bytes(image.read_bytes()[:600])
    words = ["--config", "digits_voc.yaml", "--weights", "random", "--engine", "torchvision"]
    assert main([*words, "--output", str(tmp_path / "y"), *TINY, "SOLVER.MAX_ITER", "9"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and f"{image.name} cannot be read" in last


def test_weights_errors(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from torchvision.models import resnet18

    def line(*words: str) -> str:
        base = ["--config", "digits_voc.yaml", "--output", str(tmp_path / "x"), *words]
        return refused(capsys, main([*base, *TINY]))

    assert "none.pth" in line("--weights", str(tmp_path / "none.pth"))
    cut = tmp_path / "cut.pth"
    torch.save(resnet18().state_dict(), tmp_path / "r18.pth")
    assert "resnet18" in line("--weights", str(tmp_path / "r18.pth"))
    cut.write_bytes((tmp_path / "r18.pth").read_bytes()[:1000])
    assert "cut.pth" in line("--weights", str(cut))
    assert "not a detector" in line("--weights", str(tmp_path / "r18.pth"), "--eval-only")
    init = ("TRANSFER.INIT", "detector")
    assert "INIT is detector, but" in line("--weights", str(tmp_path / "r18.pth"), *init)


def test_as_a_process(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "tools/train_det.py")]
    shown = subprocess.run([*script, "--help"], capture_output=True, text=True, check=True)
    assert "--show-data" in shown.stdout and "example:" in shown.stdout
    words = ["--config", "nothing.yaml", "--weights", "random"]
    done = subprocess.run([*script, *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
