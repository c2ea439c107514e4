"""The last lines that a command with several trials prints."""

from __future__ import annotations

import copy
import os
from pathlib import Path

from tests.transfer.results.test_record import RECORD
from transfer.results.last_lines import last_lines, where_resume_continues
from transfer.results.record import write_record


def write(root: Path, *trials: dict[str, float | None], task: str = "detection") -> list[Path]:
    folders = [root / f"trial_{number}" for number in range(len(trials))]
    for folder, metrics in zip(folders, trials):
        write_record(folder, {**copy.deepcopy(RECORD), "task": task, "metrics": metrics})
    return folders


def test_headlines_of_each_trial_and_their_spread(tmp_path: Path) -> None:
    boxes = {"bbox/APs": 1.0, "bbox/AP75": 2.0, "bbox/AP": 10.0, "bbox/AP50": 20.0}
    folders = write(tmp_path, boxes, {**boxes, "bbox/AP": 13.0}, {**boxes, "bbox/AP": 16.0})
    assert last_lines(folders) == [
        f"{tmp_path}/trial_0/record.json: bbox/AP 10.00, bbox/AP50 20.00",
        f"{tmp_path}/trial_1/record.json: bbox/AP 13.00, bbox/AP50 20.00",
        f"{tmp_path}/trial_2/record.json: bbox/AP 16.00, bbox/AP50 20.00",
        "mean ± sample standard deviation of 3 trials: bbox/AP 13.00 ± 3.00, "
        "bbox/AP50 20.00 ± 0.00",
    ]
    assert last_lines(folders[:1]) == [
        f"{tmp_path}/trial_0/record.json: bbox/AP 10.00, bbox/AP50 20.00"
    ]


def test_trials_without_a_value(tmp_path: Path) -> None:
    """A metric of a test set without objects is named, and is not part of a mean."""
    none: dict[str, float | None] = {"bbox/AP": None, "bbox/AP50": None}
    lines = last_lines(write(tmp_path / "a", none, none))
    assert lines == [f"{tmp_path}/a/trial_{number}/record.json: bbox/AP n/a" for number in (0, 1)]
    some = {"bbox/AP": 4.0, "bbox/AP50": 8.0}
    lines = last_lines(write(tmp_path / "b", some, none, {**some, "bbox/AP": 6.0}))
    assert lines[1].endswith("bbox/AP n/a")
    assert lines[3].endswith("bbox/AP 5.00 ± 1.41, bbox/AP50 8.00 ± 0.00")


SAVED = ("model_[0-9]*.pth", "lr_*/training.pth")


def touch(path: Path, time: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (time, time))
    return path


def test_where_it_continues(tmp_path: Path) -> None:
    said = where_resume_continues(tmp_path, range(2), SAVED)
    nothing = "nothing was saved yet in {}: --resume starts it from the beginning"
    assert said == f"0 of 2 trials are done; {nothing.format(tmp_path / 'trial_0')}"
    touch(tmp_path / "trial_0/record.json")
    touch(tmp_path / "trial_1/config.yaml")  # is not progress
    said = where_resume_continues(tmp_path, range(2), SAVED)
    assert said == f"1 of 2 trials are done; {nothing.format(tmp_path / 'trial_1')}"
    touch(tmp_path / "trial_1/model_0000019.pth", 5)
    newest = touch(tmp_path / "trial_1/lr_0.1/training.pth", 9)
    said = where_resume_continues(tmp_path, range(2), SAVED)
    assert said == f"1 of 2 trials are done; --resume continues from {newest}"
    touch(tmp_path / "trial_1/record.json")
    assert where_resume_continues(tmp_path, range(2), SAVED) == "2 of 2 trials are done"
    assert where_resume_continues(tmp_path, range(1, 2), SAVED) == "1 of 1 trials are done"


def test_times_of_a_copied_folder_do_not_choose_the_checkpoint(tmp_path: Path) -> None:
    touch(tmp_path / "trial_0/model_0000019.pth", 4_000_000_000)  # also a time in the future
    newest = touch(tmp_path / "trial_0/model_0000039.pth", 5)
    said = where_resume_continues(tmp_path, range(1), SAVED)
    assert said.endswith(f"--resume continues from {newest}")
