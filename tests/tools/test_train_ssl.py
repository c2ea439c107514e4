"""tools/train_ssl.py: bad input in one line, a run over two processes, resumption."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.common.checkpoint import load_checkpoint
from pretrain.engine.callbacks import ProgressBar
from pretrain.engine.loop import Training
from tests.folder_contents import contents
from tools.train_ssl import main

ROOT = Path(__file__).resolve().parents[2]
TINY = """
BACKBONE: {NAME: tiny_resnet}
DATALOADER: {NUM_WORKERS: 0}
METHOD: {PROJECTOR: {LAYERS: 2, HIDDEN_DIM: 16, OUT_DIM: 8}}
VIEWS: {SIZE: 16}
HIGHPASS: {KERNEL_SIZE: 5, SIGMA: 1.5}
MASK: {GRID_SIZE: 4}
SOLVER: {MAX_STEPS: 2, BATCH_SIZE: 8, WARMUP_EPOCHS: 0}
LOG: {EVERY_STEPS: 1}
"""
FLAT = "folder:{}/images"  # without classes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with `tiny.yaml` and 16 flat images."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 20, 20, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    for number, values in enumerate(pixels):
        Image.fromarray(values).save(tmp_path / "images" / f"{number:02d}.png")
    text = TINY + f'DATASETS: {{TRAIN: "folder:{tmp_path}/images"}}\n'
    (tmp_path / "tiny.yaml").write_text(text)
    return tmp_path


def arguments(folder: Path, *more: str) -> list[str]:
    return ["--config", str(folder / "tiny.yaml"), "--output", str(folder / "run"), *more]


@pytest.mark.parametrize(
    "more, message",
    [
        (["SOLVER.EPOCS", "3"], "unknown key SOLVER.EPOCS (did you mean 'SOLVER.EPOCHS'"),
        (["SOLVER.EPOCHS"], "'SOLVER.EPOCHS' has no value"),
        (["SOLVER.EPOCHS", "3", "--resume"], "--resume"),
        (["METHOD.NAME", "mscm"], "unknown method 'mscm' in METHOD.NAME"),
        (["SOLVER.ACCUMULATE", "5"], "SOLVER.ACCUMULATE 5 must divide"),
        (["DATASETS.TRAIN", "folder:/nowhere:train"], "/nowhere/train is missing; expected"),
        (["DATASETS.KNN_TRAIN", FLAT, "DATASETS.KNN_TEST", FLAT], "no class folders"),
        (["--num-gpus", "64", "SOLVER.BATCH_SIZE", "128"], "--num-gpus 64: this machine has"),
        (["SOLVER.BATCH_SIZE", "32"], "SOLVER.BATCH_SIZE 32"),
        (["SOLVER.WARMUP_STEPS", "2"], "the warmup of 2 steps fills the run of 2"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    folder: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    more = [word.replace("{}", str(folder)) for word in more]
    options = more[:2] if more[0].startswith("--") else []
    status = main([*options, *arguments(folder, *more[len(options) :])])
    error = capsys.readouterr().err.strip()
    assert status == 2 and message in error, error
    assert error.startswith("error: ") and "\n" not in error


def test_unknown_config_names_near_matches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", "mscn_r05.yaml"]) == 2
    assert "did you mean 'mscn_r50.yaml'" in capsys.readouterr().err


def test_usage_error_as_a_command() -> None:
    command = [sys.executable, "tools/train_ssl.py", "--config", "nothing.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("error: no config 'nothing.yaml'")
    assert "Traceback" not in done.stderr


def test_runs_refuses_a_used_folder_and_resumes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(folder)) == 0
    assert str(folder / "run" / "checkpoint.pth") in capsys.readouterr().out
    assert main(arguments(folder)) == 2
    assert "already exists; add --resume to continue that run" in capsys.readouterr().err
    assert main(["--resume", *arguments(folder)]) == 0
    said = capsys.readouterr().err
    assert "continuing at step 2 of 2 from" in said and "from the beginning" not in said
    assert main(["--resume", *arguments(folder, "SEED", "3")]) == 2
    assert "SEED (0 then, 3 now)" in capsys.readouterr().err


def test_resuming_a_finished_run_and_one_that_is_refused_change_no_file(folder: Path) -> None:
    assert main(arguments(folder)) == 0
    run = folder / "run"
    files = contents(run)
    assert main(["--resume", *arguments(folder)]) == 0
    assert main(["--resume", *arguments(folder, "SEED", "3")]) == 2
    assert contents(run) == files


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_is_continued(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every_step = ("CHECKPOINT.EVERY_STEPS", "1")
    assert main(arguments(folder, *every_step)) == 0
    run = folder / "run"
    path = run / "checkpoint.pth"
    whole = load_checkpoint(path)
    assert load_checkpoint(run / "checkpoint.prev.pth")["step"] == 1 and whole["step"] == 2
    path.write_bytes(path.read_bytes()[:-100])
    assert main(["--resume", *arguments(folder, *every_step)]) == 0
    assert "continuing at step 1 of 2 from" in capsys.readouterr().err
    assert (run / "checkpoint.pth.damaged").exists()
    again = load_checkpoint(path)
    assert again["step"] == 2 and again["model"].keys() == whole["model"].keys()
    for key, value in whole["model"].items():
        assert torch.equal(again["model"][key], value), key
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2]


def test_interrupted(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C says what was saved, and --resume what it finds."""

    def stop(bar: ProgressBar, training: Training, outcome: dict) -> None:
        if training.step == last_step:
            raise KeyboardInterrupt

    last_step = 1
    with monkeypatch.context() as patch:
        patch.setattr(ProgressBar, "step", stop)
        assert main(arguments(folder, "SOLVER.MAX_STEPS", "4")) == 130
        last = capsys.readouterr().err.splitlines()[-1]
        assert last == "interrupted; nothing was saved yet: --resume starts at step 0"
        last_step = 2  # its row is written before its checkpoint: that of step 1 is there
        more = ("SOLVER.MAX_STEPS", "4", "CHECKPOINT.EVERY_STEPS", "1")
        assert main(["--resume", *arguments(folder, *more)]) == 130
        said = capsys.readouterr().err
        start = (
            f"--resume: nothing was saved yet in {folder}/run; the run starts from the beginning"
        )
        assert said.startswith(start)
        assert f"--resume continues at step 1 of {folder}/run/checkpoint.pth" in said
    assert main(["--resume", *arguments(folder, *more)]) == 0
    said = capsys.readouterr().err
    assert f"continuing at step 1 of 4 from {folder}/run/checkpoint.pth" in said
    assert main(["--resume", "--output", str(folder / "other"), *arguments(folder)[:2]]) == 0
    assert (
        f"--resume: there was no run in {folder}/other; the run starts" in capsys.readouterr().err
    )


def test_a_diverged_run_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("SOLVER.MAX_SKIPPED_STEPS", "0", "SOLVER.LR_PER_256", "1e38")
    assert main(arguments(folder, *more, "SOLVER.MAX_STEPS", "9", "SOLVER.OPTIMIZER", "sgd")) == 1
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: loss ") and "lower SOLVER.LR_PER_256" in line
    assert "Traceback" not in said
    assert line.removeprefix("error: ") in (folder / "run" / "log.txt").read_text()


# The command, with a line in a file for each folder that any of its processes lists
COUNTED = """
import sys
from pretrain.data import folders
from tools.train_ssl import main

scandir = folders.os.scandir

def counted(path):
    with open({log!r}, "a") as log:
        print(path, file=log)
    return scandir(path)

folders.os.scandir = counted
sys.exit(main())
"""


def test_two_processes_under_torchrun(folder: Path) -> None:
    """Both processes train, one writes, and the folder of images is listed once for all."""
    script, log = folder / "counted.py", folder / "scans.txt"
    script.write_text(COUNTED.format(log=str(log)))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    launcher += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", str(script)]
    environment = {
        **{**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [*launcher, *arguments(folder, "PRECISE_BN.IMAGES", "8")]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert log.read_text().splitlines().count(f"{folder}/images") == 1
    saved = load_checkpoint(folder / "run" / "checkpoint.pth")
    assert saved["step"] == 2 and saved["schedule"]["images_seen"] == 16
    assert all(torch.isfinite(value).all() for value in saved["model"].values())
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == [1, 2]  # one process writes
