"""Where an interrupted command of several trials goes on."""

from __future__ import annotations

import os
from pathlib import Path

from transfer.results.unfinished import where_resume_continues

SAVED = ("model_[0-9]*.pth", "lr_*/training.pth")


def touch(path: Path, time: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (time, time))
    return path


def test_where_it_continues(tmp_path: Path) -> None:
    said = where_resume_continues(tmp_path, range(2), SAVED)
    nothing = "nothing was saved yet of {}: --resume starts it from the beginning"
    assert said == f"0 of 2 trials are done; {nothing.format(tmp_path / 'trial_0')}"
    touch(tmp_path / "trial_0/record.json")
    touch(tmp_path / "trial_1/config.yaml")  # is no progress
    said = where_resume_continues(tmp_path, range(2), SAVED)
    assert said == f"1 of 2 trials are done; {nothing.format(tmp_path / 'trial_1')}"
    touch(tmp_path / "trial_1/model_0000019.pth", 5)
    newest = touch(tmp_path / "trial_1/lr_0.1/training.pth", 9)
    said = where_resume_continues(tmp_path, range(2), SAVED)
    assert said == f"1 of 2 trials are done; --resume continues from {newest}"
    touch(tmp_path / "trial_1/record.json")
    assert where_resume_continues(tmp_path, range(2), SAVED) == "2 of 2 trials are done"
    assert where_resume_continues(tmp_path, range(1, 2), SAVED) == "1 of 1 trials are done"
