"""Tools whose data, loader process or rank is lost while they run, or whose loss diverges."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pretrain.common.config import CHECKOUT

from .counts import add_row
from .kills import descendants
from .tools import Ended, Tools

TRAINERS = ("train_ssl", "train_det", "train_det, segmentation", "train_cls, crops")
LONGER = {  # runs that are still going on when something is lost
    "train_ssl": (
        *("SOLVER.MAX_STEPS", "400", "KNN.EVERY_EPOCHS", "0"),
        *("DATALOADER.CACHE_DECODED", "False"),
    ),
    "train_det": ("SOLVER.MAX_ITER", "400", "TEST.EVAL_PERIOD", "0"),
    "train_det, segmentation": ("SOLVER.MAX_ITER", "400", "TEST.EVAL_PERIOD", "0"),
    "train_cls, crops": ("SOLVER.EPOCHS", "100"),
    "train_cls, features": (),
}
DIVERGING = {
    "train_ssl": ("SOLVER.LR_PER_256", "1e18", "SOLVER.WARMUP_STEPS", "1"),
    "train_det": ("SOLVER.BASE_LR", "1e12", "SOLVER.WARMUP_ITERS", "0"),
    "train_det, segmentation": ("SOLVER.BASE_LR", "1e30", "SOLVER.WARMUP_ITERS", "0"),
    "train_cls, crops": ("SOLVER.LR_PER_256", "(1e38,)"),
}
LAUNCHER = re.compile(r"^[WE]\d+ .*torch/distributed/elastic", re.MULTILINE)
OF_DATA = ("folder", "image", "file", "data")


@pytest.fixture(name="tools", scope="module")
def tools_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    made = Tools(tmp_path_factory.mktemp("tools"))
    yield made
    made.close()


def counted(name: str, fault: str, ended: Ended, began: float) -> None:
    """Adds a row to the counts; raises AssertionError unless the command ended as it has to."""
    assert ended.is_one_line(), f"{name}, {fault}: status {ended.status}\n{ended.said}"
    row = {"fault": fault, "tool": name, "runs": 1, "complete": 0, "line": 1}
    add_row({**row, "seconds": round(time.monotonic() - began, 1)})


def begun(output: Path) -> bool:
    """Whether a trainer has written the first row of its metrics."""
    found = [*output.rglob("metrics.json*"), *output.rglob("rates.json"), *output.rglob("curve*")]
    return any(path.stat().st_size for path in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINERS)
def test_a_diverged_loss_is_one_line(name: str, tools: Tools, tmp_path: Path) -> None:
    began = time.monotonic()
    ended = tools.run(name, tmp_path / "out", DIVERGING[name])
    counted(name, "diverged loss", ended, began)
    assert "lower" in ended.line


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINERS)
def test_a_lost_worker_is_one_line(name: str, tools: Tools, tmp_path: Path) -> None:
    began = time.monotonic()
    more = (*LONGER[name], "DATALOADER.NUM_WORKERS", "1")
    number = tools.start(name, tmp_path / "out", more)
    while not (begun(tmp_path / "out") and descendants(number)):
        assert time.monotonic() < began + 300, "no worker was started"
        time.sleep(0.1)
    for child in descendants(number):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    counted(name, "lost worker", tools.wait(), began)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("name", [*TRAINERS, "train_cls, features", "visualize, views", "report"])
def test_vanished_data_is_one_line(name: str, workers: str, tools: Tools, tmp_path: Path) -> None:
    """The folder of the data is gone before the command, and, of trainers, while it runs."""
    began = time.monotonic()
    away = tmp_path / "away"
    source = tools.seeds / "knn" if name == "report" else tools.data
    shutil.move(source, away)
    try:
        ended = tools.run(name, tmp_path / "before")
    finally:
        shutil.move(away, source)
    assert ended.status == 2 and ended.line == ended.said.strip(), ended.said
    if name not in TRAINERS:
        return
    began = time.monotonic()
    tools.start(name, tmp_path / "out", (*LONGER[name], "DATALOADER.NUM_WORKERS", workers))
    while not begun(tmp_path / "out") and time.monotonic() < began + 120:
        time.sleep(0.1)
    shutil.move(source, away)
    try:
        ended = tools.wait()
    finally:
        shutil.move(away, source)
    counted(name, "vanished data", ended, began)
    assert any(word in ended.line for word in OF_DATA)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINERS)
def test_a_lost_rank_is_one_line(name: str, tools: Tools, tmp_path: Path) -> None:
    """Under torchrun, which prints its own traceback after the messages of the ranks."""
    began = time.monotonic()
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    more = (*LONGER[name], "DATALOADER.NUM_WORKERS", "0")
    errors = tmp_path / "errors"
    with errors.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, *launch, *tools.words(name, tmp_path / "out", more)],
            cwd=CHECKOUT,
            env=tools.environment(),
            stdout=subprocess.DEVNULL,
            stderr=stream,
        )
    while not begun(tmp_path / "out") and time.monotonic() < began + 300:
        time.sleep(0.2)
    ranks = [
        child
        for child in descendants(process.pid)
        if name.partition(",")[0] in Path(f"/proc/{child}/cmdline").read_text()
    ]
    os.kill(ranks[-1], signal.SIGKILL)
    assert process.wait(120) == 1
    said = LAUNCHER.split(errors.read_text(errors="replace"))[0]
    assert said.splitlines()[-1].startswith("error: another process of this run ended"), said
    assert "Traceback" not in said, said
    row = {"fault": "lost rank", "tool": name, "runs": 1, "complete": 0, "line": 1}
    add_row({**row, "seconds": round(time.monotonic() - began, 1)})
