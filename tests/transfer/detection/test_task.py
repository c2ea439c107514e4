"""A detector from weights to record on a few digits: files, resume, several processes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pretrain.common.distributed import launch
from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from tests.transfer.conftest import Interrupted
from transfer.datasets.registry import open_sets
from transfer.datasets.samples import DetectionSet
from transfer.detection.config import (
    check,
    load_detection_config,
    protocol_sha256,
    with_num_classes,
    with_preprocess,
)
from transfer.detection.fine_tuning import classes_from_data
from transfer.detection.task import DetectionTask, check_engine
from transfer.detection.torchvision_engine import engine
from transfer.results.record import read_record
from transfer.training import files as model_files
from transfer.training import loop
from transfer.trials.command import run_request
from transfer.trials.earlier import check_trial_folders
from transfer.trials.loop import run_trials
from transfer.trials.task import Request

TASK = DetectionTask()
TINY = (
    "SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 6 SOLVER.STEPS (4,) SOLVER.WARMUP_ITERS 2 "
    "SOLVER.CHECKPOINT_PERIOD 3 TRANSFER.LOG_PERIOD 2 DATALOADER.NUM_WORKERS 0 "
    "INPUT.MIN_SIZE_TRAIN (48,64) INPUT.MIN_SIZE_TEST 64 INPUT.RANDOM_FLIP horizontal "
    "MODEL.RPN.POST_NMS_TOPK_TEST 10 TRANSFER.DRAW_DETECTIONS 2"
).split()


def request(output: Path, *overrides: str, config: str = "digits_voc.yaml", **changes) -> Request:
    options = {"engine": "torchvision", **changes}
    return Request(config, "random", str(output), overrides=(*TINY, *overrides), **options)


def model_of(output: Path) -> dict[str, torch.Tensor]:
    path = output / "trial_0" / "model_final.pth"
    return torch.load(path, weights_only=True)["model"]


def test_run_directory_and_record(digits: Path, tmp_path: Path) -> None:
    (path,) = run_trials(
        TASK, TASK.prepare(request(tmp_path, config="digits_coco.yaml", name="none"))
    )
    record = read_record(path)
    assert record["task"] == "detection" and record["dataset"] == "coco:digits_coco:test"
    assert record["checkpoint"]["name"] == "none" and record["status"] == "shortened"
    assert record["protocol"]["name"] == "digits_coco" and record["seed"] == 0
    assert record["views_seen"] == 12 and record["gpu_seconds"] == 0
    assert {"bbox/AP", "segm/AP50"} <= set(record["metrics"])
    wanted = "config curves kernels predictions pr_curves replicates detections gallery "
    assert set(record["artifacts"]) == {*wanted.split(), "gallery_sheet"}
    for artifact in record["artifacts"].values():
        assert (path.parent / artifact).is_file()
    lines = (path.parent / "metrics.json").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [1, 3, 5]
    assert {"total_loss", "loss_mask", "lr", "eta_seconds"} <= set(json.loads(lines[0]))
    assert (path.parent / "last_checkpoint").read_text() == "model_final.pth"
    assert not list(path.parent.glob("model_0*.pth"))
    loaded = load_detection_config(str(path.parent / "config.yaml"))
    assert loaded.SOLVER.MAX_ITER == 6


def check_that_only_the_same_run_goes_on(output: Path) -> None:
    same = ("TEST.EVAL_PERIOD", "2", "TRANSFER.LOG_PERIOD", "1")
    check_trial_folders(TASK, TASK.prepare(request(output, *same, resume=True)))
    for more in (("SOLVER.BASE_LR", "0.5"), ("SEED", "7")):
        told = f"trial_0 holds a run of a different config: {more[0]}"
        with pytest.raises(InputError, match=told):
            check_trial_folders(TASK, TASK.prepare(request(output, *same, *more, resume=True)))
    mark = output / "trial_0" / "weights.sha256"
    kept = mark.read_text()
    mark.write_text("0" * 64)
    with pytest.raises(
        InputError, match="trial_0 holds a run of different weights .000000000000 then"
    ):
        check_trial_folders(TASK, TASK.prepare(request(output, *same, resume=True)))
    mark.write_text(kept)


AMP = ("SOLVER.AMP.ENABLED", "True", "TRANSFER.AMP_DTYPE")


@pytest.mark.parametrize(
    "mode",
    [
        (),
        (*AMP, "bf16"),
        pytest.param((*AMP, "fp16", "TRANSFER.ACCUMULATE", "2"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_resumed_run_ends_with_the_same_weights(
    digits: Path, tmp_path: Path, interrupted_at: Interrupted, mode: tuple[str, ...]
) -> None:
    """Whatever happens in between: a kill, and evaluations that only one of the runs makes."""
    run_trials(TASK, TASK.prepare(request(tmp_path / "a", *mode)))
    killed = tmp_path / "b"
    with interrupted_at(4):
        run_trials(TASK, TASK.prepare(request(killed, *mode, "TEST.EVAL_PERIOD", "2")))
    state = torch.load(model_files.last_checkpoint(killed / "trial_0"), weights_only=True)
    assert bool(state["grad_scaler"]) == ("fp16" in mode)
    with pytest.raises(InputError, match="--resume"):
        TASK.prepare(request(killed))
    if not mode:
        check_that_only_the_same_run_goes_on(killed)
    # TensorBoard orders the event files by the second of their opening, then by a count as text, in
    # which 10 comes before 9: a run of its own process never opens its file in the killed one's.
    time.sleep(1)
    run_trials(TASK, TASK.prepare(request(killed, *mode, "TEST.EVAL_PERIOD", "2", resume=True)))
    expected, found = model_of(tmp_path / "a"), model_of(killed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    rows = [json.loads(x) for x in (killed / "trial_0/metrics.json").read_text().splitlines()]
    assert [row["iteration"] for row in rows if "lr" in row] == [1, 3, 5]
    events = EventAccumulator(str(killed / "trial_0")).Reload()
    for name, steps in {"total_loss": [1, 3, 5], "lr": [1, 3, 5], "bbox/AP": [1, 3]}.items():
        curve = {event.step: event.value for event in events.Scalars(name)}
        assert list(curve) == steps, name
        for row in rows:
            if name in row:
                assert curve[row["iteration"]] == pytest.approx(row[name], rel=1e-6)


def test_batch_and_rate_are_logged_and_scaled(digits: Path, tmp_path: Path) -> None:
    job = TASK.prepare(request(tmp_path, "SOLVER.REFERENCE_WORLD_SIZE", "2"))
    (path,) = run_trials(TASK, job)
    log = (path.parent / "log.txt").read_text().splitlines()
    (line,) = [text for text in log if "effective batch" in text]
    assert "batch 1 (1 process x 1), learning rate 0.0005, 12 iterations" in line
    assert "digits_voc: no, DATASETS" not in line and "no, INPUT.MIN_SIZE_TEST 64" in line
    record = read_record(path)
    assert record["views_seen"] == 12, "as many images as on two processes"
    assert record["protocol"]["config_sha256"] == protocol_sha256(
        load_detection_config("digits_voc.yaml", TINY)
    )
    written = load_detection_config(str(path.parent / "config.yaml"))
    assert protocol_sha256(written) == record["protocol"]["config_sha256"]
    rates = [json.loads(x) for x in (path.parent / "metrics.json").read_text().splitlines()]
    assert rates[-1]["iteration"] == 11 and len(rates) == 6


def test_precise_batch_norm_takes_micro_batches(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def note(model: torch.nn.Module, batches: Iterator[list], num_iters: int) -> None:
        sizes.extend(len(batch) for batch in islice(batches, num_iters))

    monkeypatch.setattr(engine, "update_bn_stats", note)
    words = ("TEST.PRECISE_BN.ENABLED", "True", "TEST.PRECISE_BN.NUM_ITER", "3")
    run_trials(TASK, TASK.prepare(request(tmp_path, *words, "TRANSFER.ACCUMULATE", "2")))
    assert sizes == [1] * 6
    log = (tmp_path / "trial_0" / "log.txt").read_text()
    assert "micro-batches are not identical to a batch under batch norm" in log


def test_what_the_detectron2_engine_does_not_do() -> None:
    cfg = load_detection_config("digits_voc.yaml", ("TRANSFER.ACCUMULATE", "2"))
    with pytest.raises(InputError, match="TRANSFER.ACCUMULATE above 1 needs --engine torchvision"):
        check_engine(cfg, "detectron2")
    check_engine(cfg, "torchvision")
    cfg = load_detection_config("digits_voc.yaml", (*AMP, "bf16"))
    with pytest.raises(InputError, match="TRANSFER.AMP_DTYPE bf16 needs --engine torchvision"):
        check_engine(cfg, "detectron2")
    cfg = load_detection_config("digits_voc.yaml", (*AMP, "fp16", "MODEL.DEVICE", "cpu"))
    with pytest.raises(InputError, match="SOLVER.AMP.ENABLED needs a GPU"):
        check_engine(cfg, "detectron2")


def test_trials_differ_and_finished_ones_are_skipped(digits: Path, check_trials: Callable) -> None:
    def run(folder: Path, **changes) -> list[Path]:
        return run_trials(
            TASK, TASK.prepare(request(folder, "SOLVER.MAX_ITER", "2", trials=2, **changes))
        )

    check_trials(run)


def test_a_trial_draws_its_own_objects(
    all_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trial t is fitted on draw SEED + t, and all trials are one protocol."""
    fitted = []
    fit = engine.TorchvisionEngine.fit

    def note(self: object, cfg: object, *, train_set: DetectionSet, **options: object) -> object:
        fitted.append(train_set)
        return fit(self, cfg, train_set=train_set, **options)

    monkeypatch.setattr(engine.TorchvisionEngine, "fit", note)
    name = "voc:digits_voc:train@1shot"
    words = ("SOLVER.MAX_ITER", "1", "DATASETS.TRAIN", f"('{name}',)", "SEED", "4")
    records = [
        read_record(p)
        for p in run_trials(TASK, TASK.prepare(request(tmp_path / "a", *words, trials=2)))
    ]
    assert fitted == [open_sets([name], draw=draw) for draw in (4, 5)] and fitted[0] != fitted[1]
    assert len({record["protocol"]["config_sha256"] for record in records}) == 1
    with pytest.raises(InputError, match="only for the training set of a detector"):
        TASK.prepare(request(tmp_path / "x", "DATASETS.TEST", "voc:digits_voc:test@1shot"))


@pytest.mark.slow
def test_two_processes_and_precise_bn(digits: Path, tmp_path: Path) -> None:
    overrides = ("TEST.PRECISE_BN.ENABLED", "True", "TEST.PRECISE_BN.NUM_ITER", "2")
    overrides += ("SOLVER.MAX_ITER", "2", "MODEL.RESNETS.NORM", "naiveSyncBN")
    launch(
        run_request,
        2,
        (
            TASK,
            request(tmp_path, *overrides),
        ),
    )
    assert read_record(tmp_path / "trial_0" / "record.json")["views_seen"] == 4
    results = json.loads((tmp_path / "trial_0/inference/coco_instances_results.json").read_text())
    assert isinstance(results, list)


def test_non_finite_loss_names_itself() -> None:
    weight = torch.nn.Parameter(torch.ones(1))

    class Model(torch.nn.Module):
        def forward(self, batch: list) -> dict[str, torch.Tensor]:
            return {"loss_cls": weight.sum(), "loss_box_reg": weight.sum() * float("nan")}

    optimizer = torch.optim.SGD([weight], lr=1.0)
    with pytest.raises(FloatingPointError, match="iteration 7: loss_cls=1, loss_box_reg=nan"):
        loop.take_step(Model(), [[]], optimizer, "iteration 7")
    assert weight.item() == 1.0


def test_weights_decide_about_their_input(caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_detection_config("voc_mscn.yaml")
    assert with_preprocess(cfg, Preprocess()) == cfg and not caplog.records
    theirs = Preprocess(mean=(103.53, 116.28, 123.675), std=(1.0,) * 3, channel_order="BGR")
    theirs = Preprocess(theirs.mean, theirs.std, "BGR", (0.0, 255.0))
    changed = with_preprocess(cfg, theirs)
    assert changed.INPUT.FORMAT == "BGR" and changed.MODEL.PIXEL_STD == [1.0] * 3
    assert changed.MODEL.PIXEL_MEAN == [103.53, 116.28, 123.675]
    assert sum("replaced" in record.message for record in caplog.records) == 3
    changed = with_preprocess(cfg, Preprocess(), {"stride_in_1x1": True, "padding": "same"})
    assert changed.MODEL.RESNETS.STRIDE_IN_1X1 is True
    assert "TensorFlow's padding" in caplog.records[-1].message


def test_a_model_file_keeps_where_its_backbone_strides(tmp_path: Path) -> None:
    state = {"roi_heads.x": torch.zeros(1)}
    facts = {"preprocess": Preprocess(), "architecture": {"stride_in_1x1": True}, "seconds": 1.0}
    path = model_files.write_model(tmp_path, state, iteration=3, **facts)
    assert model_files.read_model(path).architecture == {"stride_in_1x1": True}


def test_identity_is_of_the_protocol_alone() -> None:
    base = protocol_sha256(load_detection_config("voc_mscn.yaml"))
    same = ("SEED", "3", "DATALOADER.NUM_WORKERS", "9", "OUTPUT_DIR", "x", "MODEL.WEIGHTS", "y")
    assert protocol_sha256(load_detection_config("voc_mscn.yaml", same)) == base
    other = load_detection_config("voc_mscn.yaml", ("TRANSFER.VOC_METRIC", "2012"))
    assert protocol_sha256(other) != base


def test_every_shipped_config_builds_its_detector() -> None:
    from transfer.detection.torchvision_engine.detector import DetectorSpec

    folder = Path(__file__).parents[3] / "configs" / "detection"
    data = ("DATASETS.TRAIN", "coco:x:train", "DATASETS.TEST", "coco:x:val")
    for path in sorted(folder.glob("*.yaml")):
        # Those for one's own data leave it open.
        cfg = load_detection_config(str(path), data if path.stem.startswith("own_") else ())
        check(cfg)
        DetectorSpec.from_config(cfg)
        assert path.read_text().startswith("# "), f"{path} has no header"


def test_the_log_says_which_number_of_classes_the_data_replaces() -> None:
    data = ("DATASETS.TRAIN", "voc:mine:train", "DATASETS.TEST", "voc:mine:test")
    key = "MODEL.ROI_HEADS.NUM_CLASSES"
    for words, asked in (((), 20), ((key, "7"), 7)):
        cfg = load_detection_config("own_fpn.yaml", (*data, *words))
        request = SimpleNamespace(config="own_fpn.yaml", overrides=(*data, *words))
        job: Any = SimpleNamespace(cfg=with_num_classes(cfg, 25, [data[1]]), request=request)
        line = f"{key} 25, from the data, instead of {asked}"
        assert classes_from_data(job, key) == [line]
    job = SimpleNamespace(cfg=cfg, request=request)
    assert classes_from_data(job, key) == []
