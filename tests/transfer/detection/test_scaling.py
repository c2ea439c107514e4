"""Batch, rate and iterations for a different number of processes: by hand, and by Detectron2."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.common.config import load_config
from pretrain.common.errors import InputError
from transfer.detection.config import load_detection_config, protocol_sha256
from transfer.detection.defaults import make_defaults
from transfer.detection.scaling import for_processes, training_line

SCALED = ("SOLVER.REFERENCE_WORLD_SIZE", "8")
PERIODS = ("TEST.EVAL_PERIOD", "3000", "SOLVER.CHECKPOINT_PERIOD", "5000")


def load(*overrides: str):
    return load_detection_config("voc_mscn.yaml", overrides)


def line(*overrides: str, processes: int = 8) -> str:
    return training_line(load(*overrides), load(), "voc_mscn", processes)


def test_by_hand() -> None:
    half = for_processes(load(*SCALED, *PERIODS), 4)
    solver = half.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (8, 0.01, 48000)
    assert (solver.STEPS, solver.WARMUP_ITERS) == ((36000, 44000), 200)
    assert (half.TEST.EVAL_PERIOD, solver.CHECKPOINT_PERIOD) == (6000, 10000)
    assert solver.REFERENCE_WORLD_SIZE == 4 and half.is_frozen()
    three = for_processes(load(*SCALED, *PERIODS), 3).SOLVER
    assert (three.IMS_PER_BATCH, three.MAX_ITER, three.WARMUP_ITERS) == (6, 64000, 267)
    assert three.BASE_LR == pytest.approx(0.0075)


def test_off_and_already_there() -> None:
    plain, there = load(), load(*SCALED)
    assert for_processes(plain, 4) is plain and for_processes(there, 8) is there


@pytest.mark.parametrize(
    ("overrides", "processes", "message"),
    [
        (("SOLVER.REFERENCE_WORLD_SIZE", "3"), 8, "IMS_PER_BATCH 16 .*REFERENCE_WORLD_SIZE 3;"),
        ((), 3, "SOLVER.IMS_PER_BATCH 16 is not a multiple of 3 processes; change"),
        (("TRANSFER.ACCUMULATE", "3"), 2, r"2 processes x 3 micro-batches \(TRANSFER.ACCUMULATE"),
        ((*SCALED, "SOLVER.MAX_ITER", "3"), 64, "MAX_ITER 3 leaves no iteration on 64 processes"),
    ],
)
def test_what_does_not_divide(overrides: tuple, processes: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        for_processes(load(*overrides), processes)


@pytest.mark.parametrize(
    ("key", "value"), [("SOLVER.REFERENCE_WORLD_SIZE", "-1"), ("TRANSFER.ACCUMULATE", "0")]
)
def test_bad_values(key: str, value: str) -> None:
    with pytest.raises(InputError, match=f"{key} must be"):
        load(key, value)


def test_line() -> None:
    assert line() == (
        "effective batch 16 (8 processes x 2), learning rate 0.02, 24000 iterations; comparable "
        "with voc_mscn: yes; batch norm over 16 images"
    )
    assert line(*SCALED, processes=1) == (
        "effective batch 2 (1 process x 2), learning rate 0.0025, 192000 iterations; comparable "
        "with voc_mscn: yes, by Detectron2's scaling from 8 processes; batch norm over 2 images"
    )
    text = line("SOLVER.BASE_LR", "0.01", "SEED", "3", "DATALOADER.NUM_WORKERS", "1")
    assert "voc_mscn: no, SOLVER.BASE_LR 0.01 for 0.02; batch norm" in text
    text = line("TRANSFER.ACCUMULATE", "8", processes=1)
    assert "(1 process x 2 x 8 accumulated)" in text and "batch norm over 2 images" in text
    assert "TRANSFER.ACCUMULATE 8 for off; accumulated micro-batches are not identical" in text
    many = ("SOLVER.IMS_PER_BATCH", "8", "SOLVER.GAMMA", "0.5", "SOLVER.MOMENTUM", "0.8")
    many += ("INPUT.MIN_SIZE_TEST", "600", "SOLVER.BASE_LR", "0.01", "SOLVER.AMP.ENABLED", "True")
    assert line(*many).count(" for ") == 4 and "3 more" in line(*many)
    frozen = line("MODEL.RESNETS.NORM", "FrozenBN")
    assert "batch norm over" not in frozen


def test_own_data_is_comparable() -> None:
    """The config leaves the data to its user: giving it changes nothing, a rate does."""
    data = ("DATASETS.TRAIN", "voc:a:train", "DATASETS.TEST", "voc:a:val")
    shipped = load_config("own_fpn.yaml", make_defaults(), (), "detection")
    for more, answer in (((), "yes"), (("SOLVER.BASE_LR", "0.1"), "no, SOLVER.BASE_LR 0.1")):
        cfg = load_detection_config("own_fpn.yaml", (*data, "TRANSFER.CLASSES", "('a',)", *more))
        assert f"comparable with own_fpn: {answer}" in training_line(cfg, shipped, "own_fpn", 1)
    # VOC's own protocol names its data.
    assert "no, DATASETS.TEST [voc:a:val] for [voc_2007_test], DATASETS.TRAIN" in line(*data)


def test_identity() -> None:
    """A run scaled by the rule is the protocol; another rate, batch or dtype is not."""
    base = protocol_sha256(load())
    assert protocol_sha256(load(*SCALED)) == base
    assert protocol_sha256(load("TRANSFER.AMP_DTYPE", "bf16")) == base, "AMP is off"
    for pair in (
        ("SOLVER.BASE_LR", "0.01"),
        ("SOLVER.IMS_PER_BATCH", "8"),
        ("SOLVER.AMP.ENABLED", "True"),
        ("TRANSFER.ACCUMULATE", "2"),
        ("TRANSFER.TF32", "True"),
    ):
        assert protocol_sha256(load(*pair)) != base, pair
    frozen = ("MODEL.RESNETS.NORM", "FrozenBN")
    assert protocol_sha256(load(*frozen)) == protocol_sha256(
        load(*frozen, "TRANSFER.ACCUMULATE", "2")
    ), "without batch norm micro-batches are as good as processes"


@pytest.mark.detectron2
@pytest.mark.parametrize("processes", [1, 2, 3, 5, 8, 12, 16, 64])
def test_every_key_is_as_detectron2_scales_it(processes: int) -> None:
    pytest.importorskip("detectron2.modeling", reason="detectron2 is not installed")
    from detectron2.engine import DefaultTrainer

    from transfer.detection.detectron2_engine import to_detectron2

    for name in ("voc_mscn", "coco_mscn_2x", "digits_voc"):
        cfg = load_detection_config(f"{name}.yaml", (*SCALED, *PERIODS))
        theirs = DefaultTrainer.auto_scale_workers(to_detectron2(cfg, Path("."), ""), processes)
        ours = to_detectron2(for_processes(cfg, processes), Path("."), "")
        assert ours == theirs
        assert DefaultTrainer.auto_scale_workers(ours, processes) is ours, "not scaled twice"
