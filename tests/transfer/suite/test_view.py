"""What a running suite shows: on a real (pseudo-)terminal, in a log, and for machines."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from pretrain.common.progress import FILE_NAME, Progress, clock
from transfer.suite.launch import Running
from transfer.suite.plan import Job
from transfer.suite.view import JsonView, TextView, progress_of

BAR = Progress("train", 30, 100, rate=1.0, eta=70.0, elapsed=30.0, metrics={"loss": 0.83})


class Still:
    """A process that does nothing."""

    def state(self) -> str:
        return "running"


def running(tmp_path: Path, name: str, bar: Progress | None = BAR, trials: int = 1) -> Running:
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    if bar is not None:
        (folder / FILE_NAME).write_text(json.dumps(asdict(bar)))
    results = tuple(folder / f"trial_{trial}" / "record.json" for trial in range(trials))
    job = Job(f"boxes/{name}", (), folder, results, trials=trials)
    return Running(job, Still(), tmp_path / f"{name}.log", 0, started=time.monotonic() - 65)


def test_progress_is_that_of_its_file_and_the_records(tmp_path: Path) -> None:
    item = running(tmp_path, "a", trials=3)
    item.job.results[0].parent.mkdir(parents=True)
    item.job.results[0].touch()
    found = progress_of(item)
    assert (found.stage, found.done, found.total, found.eta) == ("train", 30, 100, 70.0)
    line = (
        "boxes/a: running 1 min 05 s, trial 2 of 3, train 30/100 (30%), ETA 1 min 10 s, loss 0.83"
    )
    assert found.line() == line
    assert progress_of(running(tmp_path, "b", None)).line() == "boxes/b: running 1 min 05 s"


def test_a_terminal_has_one_line_per_job_repainted(tmp_path: Path) -> None:
    parent, child = pty.openpty()
    items = [running(tmp_path, "a"), running(tmp_path, "b")]
    with os.fdopen(child, "w") as stream:
        view = TextView(stream)
        view.show(items, waiting=3)
        view.tell("done", items[0].job, "in 5 s")
        view.show(items[1:], waiting=0)
        text = ""
        while select.select([parent], [], [], 0.5)[0]:  # a terminal gives it piece by piece
            text += os.read(parent, 65536).decode()
    os.close(parent)
    before, erase, after = text.partition("\x1b[3F\x1b[J")
    assert erase, "three painted lines go before the event is written"
    assert [line.split(":")[0] for line in before.splitlines()] == [
        "boxes/a",
        "boxes/b",
        "3 more wait",
    ]
    event, repainted = after.splitlines()
    assert event == "boxes/a: done in 5 s" and repainted.startswith("boxes/b: running")


def test_a_log_gets_plain_lines_and_few(tmp_path: Path) -> None:
    stream, item = io.StringIO(), running(tmp_path, "a")
    view = TextView(stream)
    view.tell("started", item.job, "log")
    view.show([item], 0)
    view.show([item], 0)
    view.reported[item.job.name] -= 61  # a minute later
    view.show([item], 0)
    view.tell("failed", item.job, "after 9 s")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "boxes/a: started log" and lines[2] == "boxes/a: FAILED after 9 s"
    assert len(lines) == 3 and "30/100" in lines[1] and "\x1b" not in stream.getvalue()


def test_machines_get_a_json_object_per_line(tmp_path: Path) -> None:
    stream, item = io.StringIO(), running(tmp_path, "a")
    view = JsonView(stream)
    view.tell("started", item.job, "log")
    view.show([item], 0)
    view.end({item.job.name: "done"})
    started, progress, end = map(json.loads, stream.getvalue().splitlines())
    assert (started["event"], started["job"]) == ("started", "boxes/a")
    assert progress["event"] == "progress" and progress["done"] == 30 and progress["eta"] == 70
    assert end["states"] == {"boxes/a": "done"}


def test_clock() -> None:
    texts = {42: "42 s", 185: "3 min 05 s", 7620: "2 h 07 min"}
    assert {seconds: clock(seconds) for seconds in texts} == texts


def test_a_reader_that_has_ended_stops_no_job(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    for view in (JsonView(stream), TextView(stream)):
        view.tell("done", running(tmp_path, "a").job, "in 5 s")
        view.interrupted()
    with suppress(BrokenPipeError):
        stream.close()
    found = io.StringIO()
    JsonView(found).interrupted()
    assert json.loads(found.getvalue())["event"] == "interrupted"
