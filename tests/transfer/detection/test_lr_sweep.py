"""The learning rate is chosen on held-out training images, once, and the choice is recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from tests.two_processes import run_in_two
from transfer.checkpoints.weights import Weights, make_provenance
from transfer.datasets.samples import DetectionSet, Instance, Sample
from transfer.detection.config import load_detection_config, protocol_sha256
from transfer.detection.lr_sweep import check_sweep, choose_rate, short_config, split
from transfer.detection.scaling import for_processes
from transfer.detection.task import DetectionTask
from transfer.results.record import read_record
from transfer.training.files import Fitted
from transfer.trials.loop import run_trials
from transfer.trials.task import Request

SWEEP = ("TRANSFER.LR_SWEEP.RATES", "(0.1, 0.02, 0.5)", "TRANSFER.LR_SWEEP.MAX_ITER", "2400")


def photos(count: int, empty: int = 0) -> DetectionSet:
    one = (Instance((0.0, 0.0, 2.0, 2.0), 0),)
    crowd = (Instance((0.0, 0.0, 2.0, 2.0), 0, crowd=True),)
    samples = [Sample("x", f"{i:03d}", 8, 8, one if i >= empty else crowd) for i in range(count)]
    return DetectionSet("made", "voc", tuple(samples), ("a",), (1,))


def test_the_parts_are_disjoint_and_do_not_depend_on_order() -> None:
    data = photos(40, empty=8)
    rest, held = split(data, 0.25, seed=1)
    ids = [{s.image_id for s in part.samples} for part in (rest, held)]
    assert len(ids[1]) == 8 and len(ids[0]) == 24 and not ids[0] & ids[1]
    assert all(s.trainable() for part in (rest, held) for s in part.samples)
    backwards = DetectionSet("made", "voc", data.samples[::-1], ("a",), (1,))
    assert {s.image_id for s in split(backwards, 0.25, seed=1)[1].samples} == ids[1]
    assert {s.image_id for s in split(data, 0.25, seed=2)[1].samples} != ids[1]
    with pytest.raises(InputError, match="HELD_OUT 0.01 of 10 images"):
        split(photos(10), 0.01, seed=0)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (("TRANSFER.LR_SWEEP.RATES", "(0.1,)"), "MAX_ITER 0 must be from 1"),
        ((*SWEEP[:3], "24001"), "MAX_ITER 24001"),
        (("TRANSFER.LR_SWEEP.RATES", "(0.1, 0.1)", *SWEEP[2:]), "different numbers above 0"),
        (("TRANSFER.LR_SWEEP.RATES", "(-0.1,)", *SWEEP[2:]), "different numbers above 0"),
        ((*SWEEP, "TRANSFER.LR_SWEEP.HELD_OUT", "1.0"), "HELD_OUT 1.0"),
    ],
)
def test_what_cannot_run(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_sweep(load_detection_config("voc_mscn.yaml", overrides))


def test_the_schedule_is_squeezed_and_the_protocol_is_another() -> None:
    cfg = load_detection_config("voc_mscn.yaml", SWEEP)
    short = short_config(cfg, 0.1)
    assert short.SOLVER.MAX_ITER == 2400 and short.SOLVER.STEPS == (1800, 2200)
    assert short.SOLVER.WARMUP_ITERS == 10 and short.SOLVER.BASE_LR == 0.1
    assert protocol_sha256(cfg) != protocol_sha256(load_detection_config("voc_mscn.yaml"))


class Fake:
    """An engine whose AP is a table of the learning rate; NaN loss where the table says None."""

    name, version = "fake", "0"

    def __init__(self, table: dict[float, float | None]) -> None:
        self.table, self.trained = table, []

    def fit(self, cfg, *, output: Path, train_set, test_set, **_: object) -> Fitted:
        self.trained.append(cfg.SOLVER.BASE_LR)
        self.sizes = (len(train_set), len(test_set))
        if self.table[cfg.SOLVER.BASE_LR] is None:
            raise FloatingPointError("iteration 3: loss nan")
        (output / "model_final.pth").write_text(str(self.table[cfg.SOLVER.BASE_LR]))
        return Fitted(output / "model_final.pth", 1.0)

    def predict(self, cfg, *, model_file: Path, test_set) -> list:
        return [float(model_file.read_text())]


def choose(engine: Fake, folder: Path) -> float:
    weights = Weights({}, "resnet50", Preprocess(), make_provenance())
    return choose_rate(
        engine,
        load_detection_config("voc_mscn.yaml", SWEEP),
        weights=weights,
        train_set=photos(40),
        folder=folder,
        score=lambda data, predictions, place: {"bbox/AP": predictions[0]},
    )


def test_the_best_rate_wins_and_is_not_looked_for_again(tmp_path: Path) -> None:
    engine = Fake({0.1: 30.0, 0.02: 20.0, 0.5: None})
    assert choose(engine, tmp_path) == 0.1
    assert engine.trained == [0.1, 0.02, 0.5] and engine.sizes == (36, 4)
    assert json.loads((tmp_path / "lr_sweep.json").read_text()) == {
        "0.1": 30,
        "0.02": 20,
        "0.5": None,
    }
    again = Fake({})
    assert choose(again, tmp_path) == 0.1 and not again.trained

    (tmp_path / "lr_sweep.json").write_text('{"0.1": "30", "0.02": NaN, "0.5": null}')
    assert choose(engine, tmp_path) == 0.1
    assert engine.trained[3:] == [0.1, 0.02]  # what is not a score is tried again


def choose_on_machine(rank: int, folder: str) -> None:
    place = Path(folder) / f"machine_{rank}"
    place.mkdir()
    table = {0.1: 30.0, 0.02: 40.0, 0.5: None}
    assert choose(Fake(table), place) == 0.02


def test_all_processes_take_the_rate_of_the_first(tmp_path: Path) -> None:
    """Also one whose machine does not show the file yet."""
    run_in_two(choose_on_machine, tmp_path)


def test_ties_and_failures(tmp_path: Path) -> None:
    assert choose(Fake({0.1: 5.0, 0.02: 5.0, 0.5: 4.0}), tmp_path / "a") == 0.02
    with pytest.raises(InputError, match="no learning rate led to an AP"):
        choose(Fake(dict.fromkeys((0.1, 0.02, 0.5))), tmp_path / "b")


def test_a_trial_with_a_sweep(digits: Path, tmp_path: Path) -> None:
    overrides = (
        "SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 4 SOLVER.STEPS (3,) SOLVER.WARMUP_ITERS 2 "
        "TRANSFER.LOG_PERIOD 1 DATALOADER.NUM_WORKERS 0 INPUT.MIN_SIZE_TRAIN (48,) "
        "INPUT.MIN_SIZE_TEST 48 MODEL.RPN.POST_NMS_TOPK_TEST 5 TRANSFER.DRAW_DETECTIONS 0 "
        "TRANSFER.LR_SWEEP.RATES (1e-3,1e30) TRANSFER.LR_SWEEP.MAX_ITER 2 "
        "TRANSFER.LR_SWEEP.HELD_OUT 0.25"
    ).split()
    request = Request(
        "digits_coco.yaml",
        "random",
        str(tmp_path),
        engine="torchvision",
        overrides=tuple(overrides),
    )
    (path,) = run_trials(DetectionTask(), DetectionTask().prepare(request))
    record = read_record(path)
    assert record["artifacts"]["lr_sweep"] == "lr_sweep.json" and record["views_seen"] == 16
    found = json.loads((path.parent / "lr_sweep.json").read_text())
    assert found["1e+30"] is None and found["0.001"] is not None
    rows = [json.loads(x) for x in (path.parent / "metrics.json").read_text().splitlines()]
    assert rows[2]["lr"] == pytest.approx(1e-3)
    assert not list((path.parent / "lr_sweep").rglob("*.pth"))


def test_rates_follow_the_number_of_processes() -> None:
    scaling = ("SOLVER.REFERENCE_WORLD_SIZE", "8")
    cfg = for_processes(load_detection_config("voc_mscn.yaml", (*SWEEP, *scaling)), 4)
    assert cfg.TRANSFER.LR_SWEEP.RATES == (0.05, 0.01, 0.25)
    assert cfg.TRANSFER.LR_SWEEP.MAX_ITER == 4800 and cfg.SOLVER.MAX_ITER == 48000
