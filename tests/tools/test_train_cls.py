"""tools/train_cls.py on a tiny image folder: records, --resume, one clear line for bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pretrain.common.checkpoint import save_weights
from tests.folder_contents import contents
from tools.train_cls import main
from transfer.checkpoints.read import random_weights
from transfer.checkpoints.weights import facts_of
from transfer.results.record import read_record
from transfer.results.replicates import read_replicates

SMALL = "PROTOCOL.RESIZE 16 PROTOCOL.IMAGE_SIZE 16 DATALOADER.NUM_WORKERS 0".split()
BACKBONE = ["BACKBONE.NAME", "tiny_resnet"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes, bright and dark, 12 + 4 images each, below $DETECTRON2_DATASETS."""
    draws = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for name, low in (("bright", 150), ("dark", 0)):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = draws.integers(low, low + 100, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def _argv(root: Path, config: str = "knn.yaml", *options: str, opts: tuple[str, ...] = ()) -> list:
    sets = ["DATASETS.TRAIN", "folder:data:train", "DATASETS.TEST", "folder:data:test"]
    head = ["--config", config, "--weights", "random", "--output", str(root / "out"), *options]
    k = ["PROTOCOL.K", "(3,5)"] if config == "knn.yaml" else ["SOLVER.EPOCHS", "5"]
    return [*head, *sets, *SMALL, *BACKBONE, *k, *opts]


def test_knn(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretrain.common.progress.SHORT_SECONDS", 0.0)
    (root / "data/class_names.txt").write_text("bright\tbright things, lamps\n")
    assert main(_argv(root)) == 0
    record = read_record(root / "out/trial_0/record.json")
    readable = root / "out/trial_0" / record["artifacts"]["class_names"]
    assert json.loads(readable.read_text()) == {"bright": "bright things"}
    names = {f"knn{k}{t}_top1" for k in (3, 5) for t in ("", "_T0.1")}
    accuracies = {n: v for n, v in record["metrics"].items() if not n.startswith("features/")}
    assert accuracies == dict.fromkeys(names, 100.0)
    statistics = ("alignment", "norm", "rank", "std", "uniformity")
    assert set(record["metrics"]) - names == {f"features/{name}" for name in statistics}
    assert record["metrics"]["features/norm"] > 0
    assert record["per_class"]["knn5_top1"] == {"bright": 100.0, "dark": 100.0}
    assert record["task"] == "knn" and record["protocol"]["name"] == "knn"
    assert record["artifacts"]["spectrum"] == "spectrum.json"
    assert all((root / "out/trial_0" / file).is_file() for file in record["artifacts"].values())
    assert record["checkpoint"]["name"] == "random_tiny_resnet"
    assert record["views_seen"] == 32 + 2 * 8 and record["dataset"] == "folder:data:test"
    assert (root / "out/trial_0/kernels.png").is_file()
    stored = read_replicates(root / "out/trial_0" / record["artifacts"]["replicates"])
    assert stored.full == {name: record["metrics"][name] for name in names} and stored.images == 8
    assert all(values.tolist() == [100.0] * 200 for values in stored.values.values())
    assert (root / "out/trial_0" / record["artifacts"]["config"]).is_file()
    said = capsys.readouterr()
    assert said.out.endswith("record.json: knn3_top1 100.00\n")  # the headline
    labels = {line[8:].strip().partition(":")[0] for line in said.err.splitlines()}  # no time
    passes = (
        "features",
        "features of the first random crops",
        "features of the second random crops",
    )
    assert {f"{words} of folder" for words in passes} <= labels


def test_replicates_are_an_option(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_argv(root, opts=("REPLICATES", "-1"))) == 2
    assert "REPLICATES must be 0 or above" in capsys.readouterr().err
    assert main(_argv(root, opts=("REPLICATES", "0"))) == 0
    without = read_record(root / "out/trial_0/record.json")
    assert "replicates" not in without["artifacts"]
    again = _argv(root)
    again[again.index("--output") + 1] = str(root / "again")
    assert main(again) == 0  # the same protocol, whatever is drawn
    record = read_record(root / "again/trial_0/record.json")
    assert record["protocol"]["config_sha256"] == without["protocol"]["config_sha256"]


def test_linear_trials_and_resume(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(_argv(root, "linear.yaml", "--name", "mine")) == 0
    first = (root / "out/trial_0/record.json").read_text()
    assert main(_argv(root, "linear.yaml", "--name", "mine")) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(_argv(root, "linear.yaml", "--name", "mine", "--trials", "2", "--resume")) == 0
    assert (root / "out/trial_0/record.json").read_text() == first
    second = read_record(root / "out/trial_1/record.json")
    assert second["seed"] == 1 and second["checkpoint"]["name"] == "mine"
    assert second["checkpoint"]["sha256"] != json.loads(first)["checkpoint"]["sha256"]
    assert second["metrics"]["top1"] == 100.0
    assert json.loads((root / "out/trial_1/selection.json").read_text())["lr_per_256"] > 0
    third = _argv(root, "linear.yaml", "--trials", "4", "--first-trial", "3", "--resume")
    assert main(third) == 0
    assert read_record(root / "out/trial_3/record.json")["seed"] == 3
    assert not (root / "out/trial_2").exists()
    other = ("SOLVER.MOMENTUM", "0.5")
    assert main(_argv(root, "linear.yaml", "--resume", opts=other)) == 2
    assert "different config" in capsys.readouterr().err
    (root / "out/trial_0/record.json").write_text(json.dumps({**json.loads(first), "seed": 5}))
    assert main(_argv(root, "linear.yaml", "--resume")) == 2
    told = capsys.readouterr().err
    assert "trial_0 holds a run of a different config: SEED (5 then, 0 now)" in told


def test_resuming_finished_trials_changes_no_file(root: Path) -> None:
    assert main(_argv(root, "linear.yaml", "--trials", "2")) == 0
    files = contents(root / "out")
    assert main(_argv(root, "linear.yaml", "--trials", "2", "--resume")) == 0
    assert main(_argv(root, "linear.yaml", "--trials", "1", "--resume")) == 0
    assert contents(root / "out") == files


def test_identity_ignores_what_moves_no_number(root: Path) -> None:
    shas = []
    for number, opts in enumerate((("SEED", "5"), ("DATALOADER.BATCH_SIZE", "7"), ("SEED", "0"))):
        argv = _argv(root, opts=opts)
        argv[argv.index("--output") + 1] = str(root / f"out{number}")
        assert main(argv) == 0
        shas.append(read_record(root / f"out{number}/trial_0/record.json")["protocol"])
    assert len({protocol["config_sha256"] for protocol in shas}) == 1


@pytest.mark.parametrize(
    "config, opts, message",
    [
        ("knn.yml", (), "no config"),
        ("knn.yaml", ("PROTOCOL.KS", "(1,)"), "PROTOCOL.K"),
        ("knn.yaml", ("PROTOCOL.NAME", "knm"), "known: finetune, knn, kshot, linear"),
        ("knn.yaml", ("PROTOCOL.K", "(500,)"), "24 images"),
        ("knn.yaml", ("PROTOCOL.TEMPERATURE", "0.0"), "PROTOCOL.TEMPERATURE 0.0"),
        ("knn.yaml", ("DATASETS.TEST", "folder:absent:test"), "is missing"),
        ("knn.yaml", ("BACKBONE.NAME", "tiny_resnett"), "did you mean 'tiny_resnet'"),
        ("knn.yaml", ("PROTOCOL.IMAGE_SIZE", "99"), "PROTOCOL.IMAGE_SIZE 99"),
        ("knn.yaml", ("DATALOADER.BATCH_SIZE", "0"), "DATALOADER.BATCH_SIZE 0 must be 1 or more"),
        ("knn.yaml", ("DATALOADER.NUM_WORKERS", "-1"), "DATALOADER.NUM_WORKERS -1 0 or more"),
        (
            "knn.yaml",
            ("BACKBONE.NAME", "vit_tiny_patch7_14"),
            "IMAGE_SIZE 16 must be a multiple of",
        ),
        ("linear.yaml", ("SOLVER.LR_PER_256", "()"), "SOLVER.LR_PER_256"),
        (
            "linear.yaml",
            ("SOLVER.LR_PER_256", "('1e-3',)"),
            "(write 1.0e-3: in YAML 1e-3 is a text)",
        ),
        ("linear.yaml", ("SOLVER.MOMENTUM", "1.5"), "SOLVER.MOMENTUM 1.5"),
        ("linear.yaml", ("SOLVER.WEIGHT_DECAY", "-1.0"), "SOLVER.WEIGHT_DECAY -1.0"),
        ("linear.yaml", ("PROTOCOL.HOLDOUT", "2"), "PROTOCOL.HOLDOUT"),
        ("linear.yaml", ("FEATURES.STORAGE", "bf16"), "known: auto, fp16, fp32"),
    ],
)
def test_bad_input(
    root: Path,
    capsys: pytest.CaptureFixture[str],
    config: str,
    opts: tuple[str, ...],
    message: str,
) -> None:
    assert main(_argv(root, config, opts=opts)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not list((root / "out").glob("trial_*"))


def test_bad_weights_and_images(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = _argv(root)
    argv[argv.index("random")] = str(root / "absent.pth")
    assert main(argv) == 2
    assert "absent.pth" in capsys.readouterr().err
    torn = root / "data/test/dark/0.png"
    torn.write_bytes(torn.read_bytes()[:50])
    assert main(_argv(root)) == 2
    assert "dark/0.png" in capsys.readouterr().err.splitlines()[-1]
    assert main([*_argv(root)[:6], "--trials", "0"]) == 2
    assert main([*_argv(root)[:6], "--trials", "2", "--first-trial", "2"]) == 2
    assert main([*_argv(root)[:6], "--num-gpus", "99"]) == 2


@pytest.mark.parametrize("config", ["knn.yaml", "linear.yaml"])
@pytest.mark.parametrize(
    "kind, message",
    [
        (
            "one class",
            "folder:data:train has only one class ('bright'); classification needs at least two",
        ),
        ("other classes", "classes of folder:data:train and folder:data:test differ: 'dark'"),
        ("no classes", "folder:data:train has no labels: classification needs one folder per"),
        ("unreadable", "unreadable image in folder:data:test: "),
    ],
)
def test_bad_data_leaves_nothing_half_written(
    root: Path, capsys: pytest.CaptureFixture[str], config: str, kind: str, message: str
) -> None:
    train, test = root / "data/train", root / "data/test"
    if kind == "one class":
        shutil.rmtree(train / "dark")
    elif kind == "other classes":
        (test / "dark").rename(test / "dim")
    elif kind == "no classes":
        (train / "bright").rename(root / "flat")
        shutil.rmtree(train)
        (root / "flat").rename(train)
    else:
        (test / "dark/3.png").write_bytes(b"not an image")
    cache = root / "cache"
    assert main(_argv(root, config, opts=("CACHE_DIR", str(cache)))) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error and "Traceback" not in error
    assert not (root / "out").exists()
    assert cache.exists() == (kind == "unreadable")  # the training features, which serve later
    if kind == "unreadable":
        assert "dark/3.png" in error
        shutil.copy(test / "dark/2.png", test / "dark/3.png")
        assert main(_argv(root, config, opts=("CACHE_DIR", str(cache)))) == 0


def test_rates_that_cannot_be_chosen_are_said_before_features_are_made(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = ("CACHE_DIR", str(root / "cache"))
    assert main(_argv(root, "linear.yaml", opts=(*cache, "PROTOCOL.HOLDOUT", "1.5"))) == 2
    for path in list((root / "data/train/dark").iterdir())[1:]:
        path.unlink()
    assert main(_argv(root, "linear.yaml", opts=cache)) == 2
    assert "class 'dark' has one training image" in capsys.readouterr().err
    assert main(_argv(root, "kshot.yaml", opts=cache)) == 2
    assert "class 'dark' has 1 training images" in capsys.readouterr().err
    assert not (root / "cache").exists()
    assert main(_argv(root, "linear.yaml", opts=("SOLVER.LR_PER_256", "0.1"))) == 0


def test_a_trials_seconds_count_its_features(root: Path) -> None:
    """Also for the second trial, which finds them made, and for a run that finds them on disk."""
    weights = random_weights("tiny_resnet", 0)
    save_weights(root / "weights.pth", weights.state, facts_of(weights))
    argv = _argv(root, opts=("CACHE_DIR", str(root / "cache")))
    argv[argv.index("random")] = str(root / "weights.pth")
    assert main([*argv[:6], "--trials", "2", *argv[6:]]) == 0
    argv[argv.index("--output") + 1] = str(root / "again")
    assert main(argv) == 0
    journals = list((root / "cache").glob("*/journal.jsonl"))
    assert len(journals) == 4  # both splits and two random crops of the test images
    lines = [json.loads(line) for path in journals for line in path.read_text().splitlines()[1:]]
    made = sum(line["seconds"] for line in lines)
    records = [
        root / name / "record.json" for name in ("out/trial_0", "out/trial_1", "again/trial_0")
    ]
    for record in map(read_record, records):
        assert record["seconds"] > made > 0


def test_number_formats_are_recorded_and_part_of_the_identity(root: Path) -> None:
    found = {}
    for precision, storage in (
        ("auto", "auto"),
        ("fp32", "fp32"),
        ("bf16", "auto"),
        ("fp32", "fp16"),
    ):
        argv = _argv(root, opts=("FEATURES.PRECISION", precision, "FEATURES.STORAGE", storage))
        folder = root / f"{precision}_{storage}"
        argv[argv.index("--output") + 1] = str(folder)
        assert main(argv) == 0
        config = yaml.safe_load((folder / "trial_0/config.yaml").read_text())
        record = read_record(folder / "trial_0/record.json")
        formats = config["FEATURES"]["PRECISION"], config["FEATURES"]["STORAGE"]
        assert found.setdefault(record["protocol"]["config_sha256"], formats) == formats
        assert record["metrics"]["knn5_top1"] == 100.0
    if not torch.cuda.is_available():
        assert list(found.values()) == [("fp32", "fp32"), ("bf16", "fp16"), ("fp32", "fp16")]


def test_usage_error_in_a_process_of_its_own() -> None:
    tool = Path(__file__).parents[2] / "tools/train_cls.py"
    command = [sys.executable, str(tool), "--config", "absent.yaml"]
    done = subprocess.run([*command, "--weights", "random"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no config 'absent.yaml'") and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_two_processes_give_the_metrics_of_one(root: Path) -> None:
    tool = Path(__file__).parents[2] / "tools/train_cls.py"
    assert main(_argv(root)) == 0
    argv = _argv(root)
    argv[argv.index("--output") + 1] = str(root / "two")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*torchrun, str(tool), *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("record.json") == 1
    one, two = (read_record(root / name / "trial_0/record.json") for name in ("out", "two"))
    assert one["metrics"] == two["metrics"] and one["per_class"] == two["per_class"]
