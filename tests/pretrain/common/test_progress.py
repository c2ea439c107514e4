"""progress.json compared with the bar that it describes; faults that must not stop a command."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path

import pytest

from pretrain.common import progress
from pretrain.common.errors import InputError
from pretrain.common.progress import (
    FILE_NAME,
    FOLDER_VARIABLE,
    ProgressBar,
    forget_progress,
    keep_progress,
    progress_folder,
    read_progress,
)


def quiet() -> io.StringIO:
    return io.StringIO()


def test_the_file_holds_the_state_of_the_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(progress.PERIOD_VARIABLE, "0")
    folder = tmp_path / "new" / "folder"
    with keep_progress(folder):
        bar = ProgressBar(
            total=40, initial=2, desc="features of a:b: c", unit="batch", file=quiet()
        )
        for number in range(1, 4):
            time.sleep(0.02)
            bar.set_postfix(loss=f"{number}.5", rate="high", refresh=False)
            bar.update(7)
            found = read_progress(folder)
            assert (found.stage, found.done, found.total) == (
                "features of a:b: c",
                2 + 7 * number,
                40,
            )
            assert found.metrics == {"loss": number + 0.5, "rate": "high"} and found.unit == "batch"
            assert found.eta == pytest.approx((40 - found.done) / found.rate)
            assert found.elapsed >= 0.02 * number
            assert abs(found.time - time.time()) < 5
    assert list(folder.iterdir()) == [folder / FILE_NAME], "no temporary file is left"


def test_an_unknown_length_has_no_eta(tmp_path: Path) -> None:
    with keep_progress(tmp_path):
        assert list(ProgressBar(iter("abc"), desc="scan", file=quiet())) == ["a", "b", "c"]
    found = read_progress(tmp_path)
    assert (found.done, found.total, found.eta) == (3, 0, None)


def test_the_file_is_written_at_most_once_a_second(tmp_path: Path) -> None:
    with keep_progress(tmp_path):
        bar = ProgressBar(total=100, desc="train", file=quiet())
        before = (tmp_path / FILE_NAME).read_text()
        for _ in range(50):
            bar.update()
        assert (tmp_path / FILE_NAME).read_text() == before
        bar.close()
    assert read_progress(tmp_path).done == 50, "the last state is kept"


def test_only_the_commands_own_folder_and_only_while_it_runs(tmp_path: Path) -> None:
    with keep_progress(tmp_path / "outer"):
        with keep_progress(tmp_path / "inner"):
            list(ProgressBar(range(2), desc="in", file=quiet()))
        list(ProgressBar(range(3), desc="out", file=quiet()))
    list(ProgressBar(range(4), desc="after", file=quiet()))
    assert FOLDER_VARIABLE not in os.environ
    stages = {name: read_progress(tmp_path / name).stage for name in ("inner", "outer")}
    assert stages == {"inner": "in", "outer": "out"}


def test_other_processes_and_bad_folders_stop_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with keep_progress(tmp_path / "file"):
        assert len(list(ProgressBar(range(3), file=quiet()))) == 3
    with keep_progress(tmp_path):
        list(ProgressBar(range(3), disable=True))  # a process that is not the main one
    assert read_progress(tmp_path) is None


def test_bad_input_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    for name in ("new", "full"):
        with pytest.raises(InputError), keep_progress(tmp_path / name):
            list(ProgressBar(range(3), file=quiet()))
            raise InputError("an image is missing")
    assert not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_bad_input_keeps_what_an_earlier_command_left(tmp_path: Path) -> None:
    empty, used = tmp_path / "empty", tmp_path / "used"
    for folder in (empty, used):
        folder.mkdir()
    (used / FILE_NAME).write_text("{}")
    for folder in (empty, used):
        with pytest.raises(InputError), keep_progress(folder):
            list(ProgressBar(range(3), file=quiet()))
            raise InputError("the folder has a run of a different config")
    assert (used / FILE_NAME).read_text() == "{}"
    assert empty.is_dir(), "the user made it"


def test_a_clock_that_is_set_back_does_not_change_a_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(progress.PERIOD_VARIABLE, "0")
    offset = 0.0
    real = time.time
    monkeypatch.setattr("tqdm.std.time", lambda: real() + offset)
    with keep_progress(tmp_path):
        bar = ProgressBar(total=10, desc="train", file=quiet())
        offset = -3600.0
        time.sleep(0.01)
        bar.update(5)
        found = read_progress(tmp_path)
    assert 0 < found.elapsed < 60 and found.rate > 0 and found.eta > 0


def test_what_cannot_be_read_is_none(tmp_path: Path) -> None:
    for text in ("", "{", "[]", json.dumps({"stage": "train", "surprise": 1})):
        (tmp_path / FILE_NAME).write_text(text)
        assert read_progress(tmp_path) is None
    forget_progress(tmp_path)
    forget_progress(tmp_path)
    assert not (tmp_path / FILE_NAME).exists()


def test_commands_that_share_an_output_keep_apart() -> None:
    assert progress_folder("out") == Path("out")
    assert progress_folder("out", 2) == Path("out/trial_2")


@pytest.mark.parametrize("trains", [False, True])
def test_a_run_that_was_finished_keeps_its_file(tmp_path: Path, trains: bool) -> None:
    result, file = tmp_path / "result", tmp_path / FILE_NAME
    result.write_text("first")
    os.utime(result, (1, 1))
    file.write_text("{}")
    with keep_progress(tmp_path, [result]):
        for _ in ProgressBar(range(2), desc="check", file=quiet()):
            assert file.read_text() != "{}"
        if trains:
            result.write_text("second")
    assert (file.read_text() == "{}") is not trains


def test_a_full_disk_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, content: bytes) -> None:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write)
    with keep_progress(tmp_path):
        for _ in ProgressBar(range(3), file=quiet()):
            pass
    assert not list(tmp_path.iterdir())
