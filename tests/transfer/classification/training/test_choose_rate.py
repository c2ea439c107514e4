"""The choice of a rate by complete runs: kept in a file, diverged rates last, only its own file."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from transfer.classification.training.choose_rate import FILE, choose_rate
from transfer.classification.training.fit import STATE_FILE, Progress

RIGHT = {0.1: 3, 0.3: 7, 0.9: 5, 2.7: 1}


def test_choice_resume_and_divergence(tmp_path: Path) -> None:
    calls = []

    def run(lr: float, folder: Path) -> tuple[Progress, Tensor]:
        calls.append(lr)
        lr = round(lr, 4)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / STATE_FILE).write_bytes(b"state")
        if lr == 2.7:
            raise FloatingPointError("the loss is nan")
        hits = torch.zeros(10, 1, 2, dtype=torch.bool)
        hits[: RIGHT[lr]] = True
        return Progress(epochs=1, views=100, seconds=2.0), hits

    best, scores, tried = choose_rate([0.1, 0.3], run, tmp_path, identity="a", resume=False)
    assert best == 0.3 and {round(k, 4): v for k, v in scores.items()} == {
        0.1: 30,
        0.3: 70,
        0.9: 50,
    }
    assert [done.views for done in tried] == [100] * 3 and calls == [0.1, 0.3, 0.8999999999999999]
    assert not list(tmp_path.glob(f"lr_*/{STATE_FILE}"))

    content = json.loads((tmp_path / FILE).read_text())
    del content["0.9"]
    (tmp_path / FILE).write_text(json.dumps(content))
    calls.clear()
    again, _, tried = choose_rate([0.1, 0.3], run, tmp_path, identity="a", resume=True)
    assert again == 0.3 and calls == [0.8999999999999999]
    assert [done.before for done in tried] == [2.0, 2.0, 0.0]

    odd = {"0.1": {"top1": "30", "views": 100, "seconds": 2.0}, "0.3": [70], "0.9": None}
    (tmp_path / FILE).write_text(json.dumps({"identity": "a", **odd}))
    calls.clear()
    assert choose_rate([0.1, 0.3], run, tmp_path, identity="a", resume=True)[0] == 0.3
    assert len(calls) == 3  # what is of a different type is tried again

    calls.clear()
    choose_rate([0.3, 0.9, 2.7], run, tmp_path, identity="b", resume=True)
    assert sorted(calls)[-1] == 2.7 and len(calls) == 4  # nothing of run "a" is taken
    assert json.loads((tmp_path / FILE).read_text())["2.7"]["top1"] == 0.0
