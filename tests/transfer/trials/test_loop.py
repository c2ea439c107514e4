"""The loop over trials, with a task that trains nothing: what runs, and what each trial leaves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from fvcore.common.config import CfgNode

from pretrain.common.errors import InputError
from pretrain.common.roles import KeyRole, Role, Roles
from pretrain.data.fingerprint import ClassLabels, Fingerprint, fingerprint_of
from pretrain.data.origins import Pixels
from transfer.checkpoints.read import random_weights
from transfer.checkpoints.weights import Weights
from transfer.results.record import read_record
from transfer.trials import command
from transfer.trials.command import run_command
from transfer.trials.task import Cost, Job, Outcome, Request, Task, Trial
from transfer.trials.tasks import TASKS


def get_defaults() -> CfgNode:
    return CfgNode({"SEED": 4, "OUTPUT_DIR": "", "RATE": 1.0})


@dataclass(frozen=True)
class Images:
    name: str
    value: int = 0  # of all pixels of the first image
    classes: tuple[str, ...] = ("a", "b")

    @property
    def origin(self) -> Pixels:
        pixels = np.full((3, 2, 2, 3), len(self.name), np.uint8)
        pixels[0], pixels[1] = self.value, 100 + len(self.name)
        return Pixels(pixels, ["0", "1", "2"])

    @property
    def fingerprint(self) -> Fingerprint:
        return fingerprint_of(self.origin, ClassLabels(np.array([0, 1, 1]), self.classes))

    def __len__(self) -> int:
        return 3


@dataclass
class Nothing(Task[Job[Images]]):
    """Counts what the loop asks for."""

    asked: list[str] = field(default_factory=list)
    values: tuple[int, int] = (1, 2)  # of the training and the test images
    name = "nothing"
    roles = Roles(get_defaults, {"SEED": KeyRole(Role.TRIAL), "OUTPUT_DIR": KeyRole(Role.MACHINE)})
    saved = ("half.pth",)

    def load_config(self, config: str, overrides: Sequence[str] = ()) -> CfgNode:
        cfg = get_defaults()
        cfg.merge_from_list(list(overrides))
        return cfg

    def backbone_name(self, cfg: CfgNode) -> str:
        return "tiny_resnet"

    def is_shortened(self, job: Job[Images]) -> bool:
        return False

    def check_processes(self, cfg: CfgNode, processes: int) -> None:
        self.asked.append(f"{processes} processes")

    def describe_batch(self, cfg: CfgNode, config: str, processes: int) -> str:
        return ""

    def cost(self, job: Job[Images], processes: int) -> Cost:
        return Cost(0, 1, 1)

    def open_data(self, request: Request, *, scan: bool = True) -> Job[Images]:
        self.asked.append(f"open, scan {scan}")
        cfg, (train, test) = self.load_config(request.config, request.overrides), self.values
        return Job(request, cfg, Images("train", train), Images("test", test))

    def read_weights(self, job: Job[Images], seed: int) -> Weights:
        self.asked.append(f"read {seed}")
        return random_weights("tiny_resnet", seed)

    def describe(self, job: Job[Images]) -> list[str]:
        return []

    def run_trial(self, job: Job[Images], trial: Trial) -> Outcome:
        self.asked.append(f"trial {trial.number}, seed {trial.seed}")
        weights = self.weights_of_trial(job, trial)
        trial.log_to_folder()
        cfg = job.cfg.clone()
        cfg.SEED = trial.seed
        trial.write_config(cfg, weights, job)
        (trial.folder / "half.pth").touch()
        return Outcome(
            weights=weights,
            engine="none",
            engine_version="1",
            metrics={"top1": 50.0 + trial.number},
            per_class={"top1": {"a": 100.0, "b": None}},
            artifacts={"own": "own.json"},
            curve=[{"step": 1, "loss": 2.0}],
            seconds=1.5,
            on_gpu=False,
            views_seen=6,
            protocol={"more": "said"},
        )


def request(folder: Path, *overrides: str, **changes: object) -> Request:
    return Request("mine.yaml", "random", str(folder), overrides=overrides, **changes)


def test_each_trial_has_its_seed_and_its_record(tmp_path: Path) -> None:
    task = Nothing()
    lines = run_command(task, request(tmp_path, "RATE", "2.0", trials=2), num_gpus=1)
    assert task.asked == [
        *("open, scan True", "1 processes", "read 4"),
        *("trial 0, seed 4", "read 4", "trial 1, seed 5", "read 5"),
    ], "what the checks have opened is used"
    first, second = (read_record(tmp_path / f"trial_{t}/record.json") for t in (0, 1))
    assert (first["seed"], second["seed"]) == (4, 5) and first["task"] == "nothing"
    assert first["checkpoint"]["sha256"] == random_weights("tiny_resnet", 4).sha256
    assert first["protocol"] == {
        "name": "mine",
        "config_sha256": task.roles.sha256(task.load_config("", ("RATE", "2.0"))),
        "engine": "none",
        "engine_version": "1",
        "overrides": ["RATE 2.0"],
        "more": "said",
    }
    assert first["dataset"] == "test" and first["views_seen"] == 6 and first["gpu_seconds"] == 0
    assert first["artifacts"] == {
        "config": "config.yaml",
        "kernels": "kernels.png",
        "curves": "curves.json",
        "own": "own.json",
    }
    assert lines[0].endswith("trial_0/record.json: top1 50.00") and "mean" in lines[-1]
    assert (tmp_path / "trial_0/log.txt").is_file()


def test_what_has_a_record_is_skipped_and_the_rest_goes_on(tmp_path: Path) -> None:
    run_command(Nothing(), request(tmp_path), num_gpus=1)
    with pytest.raises(InputError, match="--resume"):
        run_command(Nothing(), request(tmp_path), num_gpus=1)
    task = Nothing()
    run_command(task, request(tmp_path, trials=3, first_trial=0, resume=True), num_gpus=1)
    assert [line for line in task.asked if "seed" in line] == ["trial 1, seed 5", "trial 2, seed 6"]
    told = r"trial_0 holds a run of a different config: RATE \(1.0 then"
    with pytest.raises(InputError, match=told):
        run_command(Nothing(), request(tmp_path, "RATE", "3.0", resume=True), num_gpus=1)


def test_a_killed_trial_is_of_its_weights(tmp_path: Path) -> None:
    run_command(Nothing(), request(tmp_path), num_gpus=1)
    (tmp_path / "trial_0/record.json").unlink()
    (tmp_path / "trial_0/weights.sha256").write_text("0" * 64)
    with pytest.raises(
        InputError, match="trial_0 holds a run of different weights .000000000000 then"
    ):
        run_command(Nothing(), request(tmp_path, resume=True), num_gpus=1)
    (tmp_path / "trial_0/half.pth").unlink()  # now there is nothing to go on from
    run_command(Nothing(), request(tmp_path, resume=True), num_gpus=1)
    assert read_record(tmp_path / "trial_0/record.json")["seed"] == 4


def test_a_trial_is_of_its_data(tmp_path: Path) -> None:
    run_command(Nothing(), request(tmp_path), num_gpus=1)
    record = read_record(tmp_path / "trial_0/record.json")
    assert record["data"]["in_both"] == 0
    assert record["data"]["train"] == Images("train", 1).fingerprint.facts()
    for values, told in (
        ((9, 2), r"the training data \(3 images then and now, but different content: the sizes"),
        ((1, 9), r"the test data \(3 images then and now, but different content"),
        ((9, 9), "the training data .*; the test data .*; restore that data, or choose"),
    ):
        with pytest.raises(InputError, match=f"trial_0 holds a run of different data: {told}"):
            run_command(Nothing(values=values), request(tmp_path, resume=True), num_gpus=1)
    (tmp_path / "trial_0/data.json").unlink()  # then the record says it
    with pytest.raises(InputError, match=r"test data \(3 images then and now, but different cont"):
        run_command(Nothing(values=(1, 9)), request(tmp_path, resume=True), num_gpus=1)
    (tmp_path / "trial_0/record.json").unlink()
    run_command(Nothing(values=(1, 9)), request(tmp_path, resume=True), num_gpus=1)
    again = read_record(tmp_path / "trial_0/record.json")
    assert again["data"]["test"] == Images("test", 9).fingerprint.facts()


def test_a_folder_of_an_older_version_is_taken_up_with_a_warning(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_command(Nothing(), request(tmp_path), num_gpus=1)
    (tmp_path / "trial_0/data.json").write_text("[[[")
    path = tmp_path / "trial_0/record.json"
    record = read_record(path)
    del record["data"]
    path.write_text(json.dumps(record))
    run_command(Nothing(values=(9, 9)), request(tmp_path, resume=True), num_gpus=1)
    assert "trial_0 does not say which data its run uses" in capfd.readouterr().err


def test_test_images_that_are_training_images_are_counted(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_command(Nothing(values=(7, 7)), request(tmp_path), num_gpus=1)
    assert read_record(tmp_path / "trial_0/record.json")["data"]["in_both"] == 1
    assert (
        "1 of the 3 images of test are also in train (equal content, first: 0 is 0)"
        in capfd.readouterr().err
    )


def test_launched_processes_open_the_data_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of torchrun goes on with what it has opened for the checks."""
    monkeypatch.setenv("LOCAL_RANK", "0")  # as one of torchrun's
    task = Nothing()
    run_command(task, request(tmp_path / "torchrun"), num_gpus=1)
    assert [line for line in task.asked if "open" in line] == ["open, scan True"]
    monkeypatch.setattr(command, "will_launch", lambda num_processes: True)
    task = Nothing()
    run_command(task, request(tmp_path / "launched"), num_gpus=1)
    assert [line for line in task.asked if "open" in line] == [
        "open, scan True",
        "open, scan False",
    ]


def test_the_last_trial_lets_the_weights_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    asked = request(tmp_path, trials=2)
    monkeypatch.setattr(type(asked.opened), "close", lambda opened: closed.append(str(opened)))
    run_command(Nothing(), asked, num_gpus=1)
    assert closed == ["random"], "once, and not before the last trial"


def test_tasks_are_found_by_their_names() -> None:
    for name, make in TASKS.items():
        assert make().name == name
        assert make().roles.make_defaults().SEED == 0


def test_a_task_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mine.yaml has no trained model to score"):
        command.evaluate_command(Nothing(), request(tmp_path), num_gpus=1)
    with pytest.raises(InputError, match="mine.yaml has no pictures"):
        Nothing().show_data(request(tmp_path), 1)
