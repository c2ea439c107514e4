"""A segmenter from weights to record on a few digits: files, resume, several processes, command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.common.distributed import launch
from pretrain.common.errors import InputError
from pretrain.data.highpass import HighPass
from pretrain.data.preprocess import Preprocess
from tests.transfer.conftest import Interrupted
from tools import train_det
from transfer.checkpoints.read import random_weights
from transfer.checkpoints.writers import write_weights
from transfer.detection.config import protocol_sha256
from transfer.detection.task import DetectionTask
from transfer.results.record import read_record
from transfer.results.replicates import read_replicates
from transfer.segmentation.config import backbone_name, load_segmentation_config
from transfer.segmentation.evaluation import NAMES
from transfer.segmentation.task import SegmentationTask
from transfer.training.build import make_schedule
from transfer.trials.command import evaluate_request, run_request
from transfer.trials.loop import run_trials
from transfer.trials.task import Request
from transfer.trials.tasks import task_of

TASK = SegmentationTask()
TINY = (
    "SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 6 SOLVER.STEPS (4,) SOLVER.WARMUP_ITERS 2 "
    "SOLVER.CHECKPOINT_PERIOD 3 TRANSFER.LOG_PERIOD 2 DATALOADER.NUM_WORKERS 0 "
    "TRANSFER.SEMANTIC.CROP_SIZE 64 TRANSFER.SEMANTIC.DROPOUT 0.1 TRANSFER.DRAW_DETECTIONS 2 "
    "DATASETS.TRAIN semseg:digits_semseg:train DATASETS.TEST semseg:digits_semseg:val"
).split()


def request(output: Path, *overrides: str, **changes) -> Request:
    options = {"weights": "random", **changes}
    return Request("digits_fcn.yaml", output=str(output), overrides=(*TINY, *overrides), **options)


def model_of(output: Path) -> dict[str, torch.Tensor]:
    path = output / "trial_0" / "model_final.pth"
    return torch.load(path, weights_only=True)["model"]


def test_run_directory_and_record(semseg: Path, tmp_path: Path) -> None:
    (path,) = run_trials(TASK, TASK.prepare(request(tmp_path, name="none")))
    record = read_record(path)
    assert record["task"] == "semantic" and record["dataset"] == "semseg:digits_semseg:val"
    assert record["checkpoint"]["name"] == "none" and record["status"] == "shortened"
    assert record["protocol"]["name"] == "digits_fcn" and record["seed"] == 0
    assert record["views_seen"] == 12 and record["gpu_seconds"] == 0
    assert tuple(sorted(record["metrics"])) == tuple(sorted(NAMES))
    assert list(record["per_class"]["sem_seg/IoU"]) == sorted(["background", *"0123456789"])
    wanted = {"config", "curves", "kernels", "replicates", "confusion", "detections"}
    assert set(record["artifacts"]) == wanted
    for artifact in record["artifacts"].values():
        assert (path.parent / artifact).is_file()
    lines = (path.parent / "metrics.json").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [1, 3, 5]
    stored = read_replicates(path.parent / "replicates.json")
    assert all(len(stored.values[name]) >= 200 for name in NAMES)
    assert stored.full == pytest.approx(record["metrics"], abs=1e-5, nan_ok=True)
    total = np.array(
        json.loads((path.parent / "inference/confusion.json").read_text())["confusion"]
    )
    masks = [np.asarray(Image.open(f)) for f in (semseg / "digits_semseg").rglob("val_*.png")]
    assert total.sum() == sum((mask != 255).sum() for mask in masks)
    assert load_segmentation_config(str(path.parent / "config.yaml")).SOLVER.MAX_ITER == 6
    model = path.parent / "model_final.pth"
    scored = evaluate_request(TASK, request(tmp_path / "again", weights=str(model)))
    assert scored.metrics == pytest.approx(record["metrics"])
    # The model's file names the classes, so that its training set need not be there.
    gone = ("DATASETS.TRAIN", "semseg:gone:train")
    again = evaluate_request(TASK, request(tmp_path / "alone", *gone, weights=str(model)))
    assert again.metrics == pytest.approx(scored.metrics)


def test_resumed_run_ends_with_the_same_weights(
    semseg: Path, tmp_path: Path, interrupted_at: Interrupted
) -> None:
    """Whatever happens in between: a kill, and evaluations that only one of the runs makes."""
    run_trials(TASK, TASK.prepare(request(tmp_path / "a")))
    killed = tmp_path / "b"
    with interrupted_at(4):
        run_trials(TASK, TASK.prepare(request(killed, "TEST.EVAL_PERIOD", "2")))
    with pytest.raises(InputError, match="--resume"):
        TASK.prepare(request(killed))
    run_trials(TASK, TASK.prepare(request(killed, "TEST.EVAL_PERIOD", "2", resume=True)))
    expected, found = model_of(tmp_path / "a"), model_of(killed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_trials_differ_and_finished_ones_are_skipped(semseg: Path, check_trials: Callable) -> None:
    def run(folder: Path, **changes) -> list[Path]:
        return run_trials(
            TASK, TASK.prepare(request(folder, "SOLVER.MAX_ITER", "2", trials=2, **changes))
        )

    check_trials(run)


def test_resnet18_with_highpass_by_the_command(
    semseg: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = random_weights("resnet18", 0)
    filtered = Preprocess(highpass=HighPass(5, 2.0))
    changed = type(weights)(weights.state, "resnet18", filtered, weights.provenance)
    write_weights(changed, tmp_path / "w.pth")
    command = ["--config", "digits_fcn.yaml", "--weights", str(tmp_path / "w.pth")]
    command += ["--output", str(tmp_path / "out")]
    r18 = "MODEL.BACKBONE.NAME build_resnet_backbone MODEL.RESNETS.DEPTH 18 SOLVER.MAX_ITER 1"
    r18 += " TRANSFER.SEMANTIC.OUTPUT_STRIDE 16 TRANSFER.SEMANTIC.AUX_WEIGHT 0.4"
    overrides = [*TINY, *r18.split()]
    assert train_det.main([*command, *overrides]) == 0
    assert "sem_seg/mIoU" in capsys.readouterr().out
    facts = torch.load(tmp_path / "out/trial_0/model_final.pth", weights_only=True)["transfer"]
    assert json.loads(facts)["preprocess"]["highpass"]["kernel_size"] == 5
    model = str(tmp_path / "out/trial_0/model_final.pth")
    command = ["--config", "digits_fcn.yaml", "--output", str(tmp_path / "score")]
    assert train_det.main([*command, "--weights", model, "--eval-only", *overrides]) == 0
    assert (tmp_path / "score" / "evaluation.json").is_file()
    # Another backbone than the config's, and no segmenter at all: one line each.
    assert train_det.main([*command, "--weights", str(tmp_path / "w.pth"), *TINY]) == 2
    assert "resnet18" in capsys.readouterr().err
    given = ["--weights", str(tmp_path / "w.pth"), "--eval-only"]
    assert train_det.main([*command, *given, *overrides]) == 2
    assert "is not a segmenter" in capsys.readouterr().err
    assert train_det.main([*command, "--show-data", "3", *TINY]) == 0
    assert len(list((tmp_path / "score").glob("input_*.png"))) == 3
    given = ["--weights", "random", "--engine", "detectron2"]
    assert train_det.main([*command, *given, *TINY]) == 2
    assert "only runs on torchvision" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_train_what_one_does(semseg: Path, tmp_path: Path) -> None:
    """Statistics over both, gradients averaged: the parameters of one process with both images."""
    overrides = "SOLVER.MAX_ITER 2 MODEL.RESNETS.NORM SyncBN TRANSFER.SEMANTIC.DROPOUT 0.0"
    overrides += " TRANSFER.SEMANTIC.LOSS_OVER all TRANSFER.OPTIMIZER SGD"
    one = request(tmp_path / "1", *overrides.split())
    run_trials(TASK, TASK.prepare(one))
    launch(
        run_request,
        2,
        (
            TASK,
            request(tmp_path / "2", *overrides.split()),
        ),
    )
    expected, found = model_of(tmp_path / "1"), model_of(tmp_path / "2")
    for name in expected:
        assert torch.allclose(expected[name], found[name], rtol=1e-4, atol=1e-5), name
    records = [read_record(tmp_path / n / "trial_0" / "record.json") for n in "12"]
    assert records[0]["views_seen"] == records[1]["views_seen"] == 4
    totals = [tmp_path / n / "trial_0/inference/confusion.json" for n in "12"]
    first, second = (np.array(json.loads(path.read_text())["confusion"]) for path in totals)
    # The same pixels are scored; a few may be called otherwise, by rounding.
    assert np.array_equal(first.sum(axis=1), second.sum(axis=1))
    assert np.abs(first - second).sum() < 0.01 * first.sum()


@pytest.mark.slow
def test_a_few_images_are_learned_by_heart(semseg: Path, tmp_path: Path) -> None:
    """This would be impossible if images and masks did not fit each other."""
    words = "SOLVER.MAX_ITER 150 SOLVER.STEPS (120,) SOLVER.BASE_LR 0.003 SOLVER.IMS_PER_BATCH 3"
    words += " TRANSFER.LIMIT_IMAGES 3 TRANSFER.SEMANTIC.SCALE_RANGE (1.0,1.0)"
    words += " TRANSFER.SEMANTIC.CROP_SIZE 128 TRANSFER.SEMANTIC.OUTPUT_STRIDE 4"
    words += " DATASETS.TEST semseg:digits_semseg:train SOLVER.CHECKPOINT_PERIOD 0"
    (path,) = run_trials(TASK, TASK.prepare(request(tmp_path, *words.split())))
    metrics = read_record(path)["metrics"]
    assert metrics["sem_seg/mIoU"] > 60 and metrics["sem_seg/pACC"] > 97


def test_identity_is_of_the_protocol_alone() -> None:
    name = "voc12aug_fcn.yaml"
    base = protocol_sha256(load_segmentation_config(name))
    same = ("SEED", "3", "DATALOADER.NUM_WORKERS", "9", "OUTPUT_DIR", "x", "MODEL.WEIGHTS", "y")
    assert protocol_sha256(load_segmentation_config(name, same)) == base
    other = load_segmentation_config(name, ("TRANSFER.SEMANTIC.CROP_SIZE", "512"))
    assert protocol_sha256(other) != base
    assert isinstance(task_of("det", name), SegmentationTask)
    assert isinstance(task_of("det", "voc_mscn.yaml"), DetectionTask)
    # A detection protocol has the identity that it had before there was this task.
    from transfer.detection.config import load_detection_config

    moved = ("TRANSFER.SEMANTIC.CROP_SIZE", "1")
    detection = [load_detection_config("voc_mscn.yaml", o) for o in ((), moved)]
    assert len(set(map(protocol_sha256, detection))) == 1


@pytest.mark.parametrize(
    "override, message",
    [
        (("TRANSFER.SEMANTIC.OUTPUT_STRIDE", "12"), "OUTPUT_STRIDE 12 is not possible.*8, 4, 2"),
        (("TRANSFER.SEMANTIC.SCALE_RANGE", "(2.0, 0.5)"), "SCALE_RANGE"),
        (("TRANSFER.SEMANTIC.LOSS_OVER", "none"), "LOSS_OVER 'none' is not supported.*labelled"),
        (("MODEL.RESNETS.NORM", "FrozenBN"), "NORM 'FrozenBN' is not supported.*BN, SyncBN"),
        (("MODEL.RESNETS.RES5_DILATION", "2"), "RES5_DILATION 2 is not supported"),
        (("MODEL.RESNETS.NUM_GROUPS", "0"), "NUM_GROUPS must be 1 or above, got 0"),
        (("SOLVER.WARMUP_ITERS", "-1"), "SOLVER.WARMUP_ITERS must be 0 or above, got -1"),
        (("TRANSFER.REPLICATES", "-1"), "TRANSFER.REPLICATES must be 0 or above, got -1"),
        (("SEED", "-1"), "SEED -1 must be 0 or above"),
        (("TRANSFER.SEMANTIC.CROP_SIZES", "3"), "unknown key TRANSFER.SEMANTIC.CROP_SIZES"),
    ],
)
def test_bad_values_name_their_key(override: tuple[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_segmentation_config("digits_fcn.yaml", override)


def test_shipped_configs_load_and_say_what_they_are() -> None:
    folder = Path(__file__).parents[3] / "configs" / "detection" / "semantic"
    for path in sorted(folder.glob("*.yaml")):
        load_segmentation_config(str(path))
        assert path.read_text().startswith("# "), f"{path} has no header"


def test_groups_and_widths_name_the_backbone() -> None:
    words = ("MODEL.RESNETS.NUM_GROUPS", "32", "MODEL.RESNETS.WIDTH_PER_GROUP", "4")
    assert backbone_name(load_segmentation_config("voc12aug_fcn.yaml", words)) == "resnext50_32x4d"
    wide = load_segmentation_config("voc12aug_fcn.yaml", ("MODEL.RESNETS.WIDTH_PER_GROUP", "128"))
    assert backbone_name(wide) == "wide_resnet50_2"


def test_published_schedules_by_hand() -> None:
    """MoCo's steps, and mmseg's polynomial with its floor."""
    moco = make_schedule(load_segmentation_config("voc12aug_fcn.yaml"))
    assert (moco.max_iter, moco.steps) == (30000, (21000, 27000))
    for iteration, rate in {0: 3e-3, 20999: 3e-3, 21000: 3e-4, 26999: 3e-4, 27000: 3e-5}.items():
        assert 0.003 * moco.factor(iteration) == pytest.approx(rate)
    mmseg = make_schedule(load_segmentation_config("voc12aug_fcn_d8.yaml"))
    for iteration in (0, 1, 7777, 19999):
        wanted = (0.01 - 1e-4) * (1 - iteration / 20000) ** 0.9 + 1e-4
        assert 0.01 * mmseg.factor(iteration) == pytest.approx(wanted, rel=1e-9)


def test_checking_a_config_draws_no_random_numbers() -> None:
    torch.manual_seed(0)
    load_segmentation_config("voc12aug_fcn.yaml")
    assert torch.initial_seed() == 0 and torch.rand(1).item() == pytest.approx(0.4962566)
