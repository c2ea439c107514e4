"""tools/train_cls.py on random crops: records, --resume, lists of labels, bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pretrain.common.config import load_config
from tools.train_cls import main
from transfer.classification.defaults import get_defaults
from transfer.classification.protocols.train_on_crops import evaluations, iterations
from transfer.results.record import read_record

SMALL = "PROTOCOL.RESIZE 16 PROTOCOL.IMAGE_SIZE 16 DATALOADER.NUM_WORKERS 0 REPLICATES 20".split()
SMALL += "BACKBONE.NAME tiny_resnet SOLVER.EPOCHS 2 SOLVER.BATCH_SIZE 8".split()
SETS = ["DATASETS.TRAIN", "folder:data:train", "DATASETS.TEST", "folder:data:test"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six classes, four levels of grey, red and blue, 6 + 2 images each."""
    draws = np.random.default_rng(0)
    levels = {f"grey{i}": [60 * i] * 3 for i in range(4)} | {
        "red": [200, 0, 0],
        "blue": [0, 0, 200],
    }
    for split, count in (("train", 6), ("test", 2)):
        for name, level in levels.items():
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = draws.integers(0, 40, (16, 16, 3)) + np.array(level)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}_{index}.png")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def run(root: Path, config: str, *opts: str, out: str = "out", options: tuple = ()) -> int:
    head = ["--config", config, "--weights", "random", "--output", str(root / out)]
    return main([*head, *options, *SETS, *SMALL, *opts])


def record(root: Path, out: str = "out") -> dict[str, Any]:
    return read_record(root / out / "trial_0/record.json")


def test_a_literal_recipe(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run(root, "linear_imagenet_vicreg.yaml") == 0
    found = record(root)
    assert found["task"] == "linear_crops" and found["protocol"]["name"] == "linear_imagenet_vicreg"
    assert found["status"] == "shortened" and found["protocol"]["source_prints"] == "both"
    assert set(found["metrics"]) == {"top1", "top5", "top1_best", "top5_best"}
    assert found["metrics"]["top1_best"] >= found["metrics"]["top1"]
    assert found["views_seen"] == 2 * (36 + 12)
    assert set(found["per_class"]["top1"]) == {"grey0", "grey1", "grey2", "grey3", "red", "blue"}
    folder = root / "out/trial_0"
    rows = json.loads((folder / found["artifacts"]["curves"]).read_text())
    assert [row["step"] for row in rows] == [1, 2]
    assert {"loss", "lr", "top1", "top5"} < set(rows[0])
    best = json.loads((folder / "selection.json").read_text())["best_epoch"]["top1"]
    assert rows[best - 1]["top1"] == found["metrics"]["top1_best"]
    assert (folder / found["artifacts"]["replicates"]).is_file()


def test_what_a_suite_is_told_of_the_cost() -> None:
    words = ("SOLVER.LR_PER_256", "[0.1, 1.0]", "SOLVER.BATCH_SIZE", "10", "SOLVER.EPOCHS", "5")
    several = load_config("finetune_folder.yaml", get_defaults(), words, "classification")
    assert iterations(several, 100) == 5 * (2 * 9 + 10) and evaluations(several) == 1
    alone = load_config("linear_imagenet_mae.yaml", get_defaults(), (), "classification")
    assert iterations(alone, 16384 * 3) == 90 * 3 and evaluations(alone) == 90
    frozen = load_config("linear.yaml", get_defaults(), (), "classification")
    assert iterations(frozen, 100) == 0 and evaluations(frozen) == 1


def test_layers(root: Path) -> None:
    assert run(root, "linear_imagenet_vissl.yaml", "TRAIN.MILESTONES", "(1,)") == 0
    names = {f"{layer}_top1" for layer in "conv1 res2 res3 res4 res4avg res4avg_linear".split()}
    assert names <= set(record(root)["metrics"]) and set(record(root)["per_class"]) == names


def test_a_batch_norm_of_one_process_gets_no_batch_of_one_image(root: Path) -> None:
    """It is left out with TRAIN.SYNC_BN too, if there is only one process."""
    words = ("TRAIN.HEAD", "batchnorm_linear", "TRAIN.SYNC_BN", "True", "SOLVER.BATCH_SIZE", "35")
    assert run(root, "linear_imagenet_vicreg.yaml", *words) == 0
    assert record(root)["views_seen"] == 2 * (35 + 12)


def test_fine_tuning_with_a_choice_of_rates(root: Path) -> None:
    rates = ("SOLVER.LR_PER_256", "(1.0, 3.0)", "PROTOCOL.HOLDOUT", "0.3")
    assert run(root, "finetune_folder.yaml", *rates) == 0
    found = record(root)
    chosen = json.loads((root / "out/trial_0/selection.json").read_text())
    assert found["task"] == "finetune" and set(found["metrics"]) == {"top1", "top5"}
    assert {"1", "3"} <= set(chosen["held_out_top1"])
    assert f"{chosen['lr_per_256']:g}" in chosen["held_out_top1"]
    tried = len(chosen["held_out_top1"])
    kept = 36 - 6 * 2  # 2 images of each class are held out
    assert found["views_seen"] == tried * (2 * kept + 12) + 2 * 36 + 12


def test_resume_goes_on_and_repeats_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = "linear_imagenet_moco.yaml"
    steps = ("TRAIN.MILESTONES", "(1,)")
    assert run(root, config, *steps) == 0
    first = record(root)
    file = root / "out/trial_0/record.json"
    file.unlink()
    assert run(root, config, *steps) == 2
    assert "--resume" in capsys.readouterr().err
    assert run(root, config, *steps, options=("--resume",)) == 0
    again = record(root)
    assert again["metrics"] == first["metrics"] and again["views_seen"] == first["views_seen"]
    assert again["per_class"] == first["per_class"]
    file.unlink()
    assert run(root, config, *steps, "SEED", "1", options=("--resume",)) == 2
    told = capsys.readouterr().err
    assert "trial_0 holds a run of a different config: SEED (0 then, 1 now)" in told


def test_whole_and_shortened(root: Path) -> None:
    """A user's own config is not shortened; fewer epochs, a different batch or fewer images are."""
    config = root / "mine.yaml"
    base = Path(__file__).parents[2] / "configs/classification/linear_imagenet_barlow.yaml"
    config.write_text(f"_BASE_: {base}\nSOLVER: {{EPOCHS: 2, BATCH_SIZE: 8}}\n")
    cut = ["SOLVER.BATCH_SIZE", "12"], ["SOLVER.EPOCHS", "1"], ["DATASETS.LIMIT_PER_CLASS", "4"]
    expected = zip(([], *cut), ("done", "shortened", "shortened", "shortened"))
    for number, (opts, status) in enumerate(expected):
        assert run(root, str(config), *opts, out=f"out{number}") == 0
        assert record(root, f"out{number}")["status"] == status, opts


def test_a_list_of_labels(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{name}_{i}.png" for name in sorted(os.listdir(root / "data/train")) for i in (1, 4)]
    for place in ("a.txt", "b/c.txt"):
        (root / place).parent.mkdir(exist_ok=True)
        (root / place).write_text("\n".join(names) + "\n")
    found = []
    for number, place in enumerate(("a.txt", "b/c.txt")):
        opts = ("TRAIN.SPLIT_LIST", str(root / place), "TRAIN.SPLIT_LINES", "12")
        assert run(root, "semi_imagenet_1pct_vicreg.yaml", *opts, out=f"out{number}") == 0
        found.append(record(root, f"out{number}"))
    assert found[0]["views_seen"] == 2 * (12 + 12)
    assert found[0]["metrics"] == found[1]["metrics"]
    shas = {each["protocol"]["config_sha256"] for each in found}
    assert len(shas) == 1, "a list is identified by what it names, not by its path"
    moved = ("TRAIN.SPLIT_LIST", str(root / "b/c.txt"), "TRAIN.SPLIT_LINES", "12")
    same, resume = "semi_imagenet_1pct_vicreg.yaml", ("--resume",)
    assert run(root, same, *moved, out="out0", options=resume) == 0
    (root / "b/c.txt").write_text("\n".join(name.replace("_1", "_2") for name in names) + "\n")
    capsys.readouterr()
    assert run(root, same, *moved, out="out1", options=resume) == 2
    refusal = "out1/trial_0 holds a run of different data: the training data (12 images"
    assert refusal in capsys.readouterr().err
    (root / "a.txt").write_text("\n".join(names[1:]) + "\n")
    opts = ("TRAIN.SPLIT_LIST", str(root / "a.txt"), "TRAIN.SPLIT_LINES", "0")
    assert run(root, "semi_imagenet_1pct_vicreg.yaml", *opts, out="out2") == 0
    assert record(root, "out2")["protocol"]["config_sha256"] not in shas


def test_a_list_that_leaves_classes_out(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "a.txt").write_text("red_1.png\nred_4.png\ngrey0_1.png\n")
    opts = ("TRAIN.SPLIT_LIST", str(root / "a.txt"), "TRAIN.SPLIT_LINES", "0")
    assert run(root, "semi_imagenet_1pct_vicreg.yaml", *opts) == 2
    assert "a.txt names no image of 4 of the 6 classes, such as 'blue'" in capsys.readouterr().err
    assert not (root / "out").exists()


def test_no_top5_of_few_classes(root: Path) -> None:
    for name in ("red", "blue"):
        shutil.copytree(root / f"data/train/{name}", root / f"few/train/{name}")
    sets = ("DATASETS.TRAIN", "folder:few:train", "DATASETS.TEST", "folder:few:train")
    assert run(root, "linear_imagenet_barlow.yaml", *sets) == 0
    assert set(record(root)["metrics"]) == {"top1", "top1_best"}
    rows = json.loads((root / "out/trial_0/curves.json").read_text())
    assert [set(row) for row in rows] == [{"step", "loss", "lr", "top1"}] * 2


@pytest.mark.parametrize(
    "opts, message",
    [
        (("TRAIN.SPLIT_LIST", "absent.txt"), "absent.txt does not exist"),
        (("TRAIN.OPTIMIZER", "adan"), "TRAIN.OPTIMIZER"),
        (("TRAIN.HEAD", "linea"), "did you mean 'linear'"),
        (("TRAIN.HEAD_INIT", "ones"), "TRAIN.HEAD_INIT"),
        (("TRAIN.VIT_POOL", "all"), "TRAIN.VIT_POOL"),
        (("SOLVER.BATCH_SIZE", "99", "TRAIN.DROP_LAST", "True"), "36 training images do not fill"),
        (("SOLVER.LR_PER_256", "(0.1, 1.0)", "PROTOCOL.HOLDOUT", "2"), "PROTOCOL.HOLDOUT 2"),
        (("TRAIN.NORM_BATCH", "1"), "TRAIN.NORM_BATCH must be 0, or 2 or more"),
        (("PROTOCOL.NAME", "finetune", "SOLVER.BATCH_SIZE", "1"), "gives the batch norms of a"),
        (("TRAIN.NORM_BATCH", "4", "TRAIN.SYNC_BN", "True"), "exclude each other"),
        (("TRAIN.SOURCE_PRINTS", "best"), "TRAIN.SOURCE_PRINTS 'best'"),
        (("TRAIN.CROP_SCALE", "(0.5, 2.0)"), "TRAIN.CROP_SCALE (0.5, 2.0)"),
        (("TRAIN.WARMUP_EPOCHS", "3"), "TRAIN.WARMUP_EPOCHS 3"),
        (("TRAIN.FLIP_PROB", "2.0"), "TRAIN.FLIP_PROB 2.0 is not a probability"),
        (("TRAIN.NESTEROV", "True", "SOLVER.MOMENTUM", "0.0"), "TRAIN.NESTEROV needs a SOLVER.MOM"),
        (("SOLVER.WEIGHT_DECAY", "-0.1"), "SOLVER.WEIGHT_DECAY -0.1"),
        (("SOLVER.LR_PER_256", "()"), "SOLVER.LR_PER_256"),
        (
            ("DATASETS.TEST", "folder:other:test"),
            "the classes of folder:data:train and folder:oth",
        ),
        (("DATASETS.TRAIN", "folder:single:train"), "has only one class ('red')"),
        (
            ("DATASETS.TRAIN", "places205:train"),
            "places205/{trainvalsplit_places205/{train,val}_places205.csv",
        ),
    ],
)
def test_bad_input(
    root: Path, capsys: pytest.CaptureFixture[str], opts: tuple[str, ...], message: str
) -> None:
    shutil.copytree(root / "data", root / "other")
    (root / "other/test/red").rename(root / "other/test/pink")
    shutil.copytree(root / "data/train/red", root / "single/train/red")
    assert run(root, "linear_imagenet_barlow.yaml", *opts) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error, error
    assert not list((root / "out").glob("trial_*")), "refused before anything is written"


def test_an_unreadable_image_is_named_before_training(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torn = root / "data/train/blue/blue_3.png"
    torn.write_bytes(torn.read_bytes()[:50])
    assert run(root, "linear_imagenet_barlow.yaml") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "1 unreadable image: " in error and "blue_3.png" in error
    assert not (root / "out/trial_0").exists()
    torn.unlink()
    assert run(root, "linear_imagenet_barlow.yaml") == 0


def test_divergence_is_one_line_of_the_log(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opts = ("PROTOCOL.NAME", "finetune", "SOLVER.LR_PER_256", "1e32")
    assert run(root, "linear_imagenet_barlow.yaml", *opts) == 1
    assert "lower SOLVER.LR_PER_256" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_give_the_metrics_of_one(root: Path) -> None:
    tool = Path(__file__).parents[2] / "tools/train_cls.py"
    opts = ("DATASETS.TRAIN", "folder:data:train")
    assert run(root, "linear_imagenet_barlow.yaml", *opts) == 0
    head = ["--config", "linear_imagenet_barlow.yaml", "--weights", "random"]
    argv = [*head, "--output", str(root / "two"), *SETS, *SMALL]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*torchrun, str(tool), *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, two = record(root), record(root, "two")
    assert one["metrics"] == two["metrics"] and one["per_class"] == two["per_class"]
    assert one["views_seen"] == two["views_seen"]
