"""A folder's lock between two holders; each time the file is opened counts as a new holder."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pretrain.common import locks
from pretrain.common.config import CHECKOUT
from pretrain.common.errors import InputError
from pretrain.common.locks import Holder, locked, one_writer, one_writer_of
from pretrain.common.temporaries import make_temporary, sweep, temporary_folder


def test_the_second_waits_for_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    events: list[str] = []

    def second() -> None:
        with locked(tmp_path, "waiting here"):
            events.append("second")

    thread = threading.Thread(target=second)
    with locked(tmp_path):
        thread.start()
        thread.join(timeout=0.3)
        events.append("first")
    thread.join(timeout=10)
    assert events == ["first", "second"] and "waiting here" in caplog.text


def test_an_error_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ValueError), locked(tmp_path):
        raise ValueError
    with locked(tmp_path):
        pass


def hold(call: str, after: str = "print('held', flush=True); input()") -> subprocess.Popen[str]:
    """Another process that holds what `call` gives and then does `after`."""
    code = (
        "import os, subprocess, sys\n"
        "from pretrain.common.locks import one_writer, one_writer_of\n"
        f"with {call}:\n    {after}"
    )
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    return subprocess.Popen([sys.executable, "-c", code], cwd=CHECKOUT, text=True, **pipes)


def test_the_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    first = hold(f"one_writer({str(folder)!r})")
    assert first.stdout and first.stdout.readline() == "held\n"
    with pytest.raises(InputError) as refusal, one_writer(folder):
        pass
    said = str(refusal.value)
    assert "\n" not in said and f"process {first.pid} on {socket.gethostname()}" in said
    assert str(folder) in said and "started 2" in said
    first.communicate("\n")
    assert not (tmp_path / "new").exists(), "an empty folder that the lock made goes with it"
    with one_writer(folder):
        assert Holder.read(folder / ".lock") == Holder.of_this_process()
    with one_writer(tmp_path, folder):
        with pytest.raises(InputError, match="is in use"), one_writer(tmp_path / "b", folder):
            pass
    assert not list(tmp_path.iterdir()), "also of one that was refused in the middle"


def test_a_killed_writer_lets_go_at_once(tmp_path: Path) -> None:
    first = hold(f"one_writer({str(tmp_path)!r})")
    assert first.stdout and first.stdout.readline() == "held\n"
    first.kill()
    first.wait()
    assert (tmp_path / ".lock").exists()
    with one_writer(tmp_path):
        pass
    assert not (tmp_path / ".lock").exists()


def test_a_lock_file_of_another_mechanism_is_taken_over(tmp_path: Path) -> None:
    for text in ("", "99999999\n", "[" * 100_000, '{"pid": "x"}', "\udcff\n"):
        (tmp_path / ".lock").write_bytes(text.encode("utf-8", "surrogateescape"))
        with one_writer(tmp_path):
            pass


def test_a_fork_does_not_hold_it(tmp_path: Path) -> None:
    """A loader's process does this: it lives some seconds longer than a killed command."""
    # The child says it: its hook, which lets the lock go, has run by then
    fork = "pid = os.fork(); os._exit(0) if pid else (print('held', flush=True), input())"
    first = hold(f"one_writer({str(tmp_path)!r})", fork)
    assert first.stdout and first.stdout.readline() == "held\n"
    first.wait()
    with one_writer(tmp_path):
        pass
    first.communicate("\n")


def test_commands_of_a_killed_suite_hold_its_folder(tmp_path: Path) -> None:
    child = "child = subprocess.Popen([sys.executable, '-c', 'input()'], close_fds=False)"
    leave = f"{child}; print('held', flush=True); os._exit(0)"
    first = hold(f"one_writer({str(tmp_path)!r}, inherited=True)", leave)
    assert first.stdout and first.stdout.readline() == "held\n"
    first.wait()
    with pytest.raises(InputError, match="it has ended, but a command that it started still runs"):
        with one_writer(tmp_path):
            pass
    first.communicate("\n")
    with one_writer(tmp_path):
        pass


def test_two_files_of_one_folder(tmp_path: Path) -> None:
    with one_writer_of(tmp_path / "a.pkl"), one_writer_of(tmp_path / "b.pkl"):
        with pytest.raises(InputError, match="a.pkl is in use"), one_writer_of(tmp_path / "a.pkl"):
            pass
    assert not list(tmp_path.iterdir())


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    names = (".checkpoint.pth.k7mm3047", ".c.yaml.abcdefgh_", "deep/.record.json.a2c4e6g8")
    kept = (".config.yaml.original", "checkpoint.pth", ".lock2", "deep/.gitignore")
    (tmp_path / "deep").mkdir()
    for name in (*names, *kept):
        (tmp_path / name).touch()
    (tmp_path / ".w.pkl.abcdefg1_").mkdir()
    written = tmp_path / ".living.pth.a2c4e6g8"
    with written.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with one_writer(tmp_path):
            left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")}
    assert left == {*kept, "deep", written.name, ".lock"}


@pytest.mark.parametrize("name", ["last_checkpoint", "checkpoint.pth", "model_0000003.pth"])
@pytest.mark.parametrize("one_file", [False, True])
def test_whatever_a_writer_is_called_its_half_written_file_is_removed(
    name: str, one_file: bool, tmp_path: Path
) -> None:
    handle, left = make_temporary(tmp_path / name)
    os.close(handle)
    with temporary_folder(tmp_path / name) as folder:
        shutil.copytree(folder, tmp_path / "kept")
        in_use = folder
        with one_writer_of(tmp_path / name) if one_file else one_writer(tmp_path):
            assert not Path(left).exists() and in_use.exists()
    (tmp_path / "kept").rename(in_use)
    assert sweep(tmp_path, name if one_file else "") == [in_use]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file; give a folder"):
        with one_writer(tmp_path / "file"):
            pass
    with pytest.raises(InputError, match="run: .*file is a file; give another --output"):
        with one_writer(tmp_path / "file" / "run"):
            pass


def test_a_full_disk_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> Holder:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Holder, "of_this_process", full)
    with pytest.raises(InputError, match="run cannot be written: No space left on device"):
        with one_writer(tmp_path / "run"):
            pass
    with pytest.raises(InputError, match="cannot be written"):
        with one_writer_of(tmp_path / "weights.pkl"):
            pass
    assert not list(tmp_path.iterdir())


@pytest.fixture()
def without_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(handle: object, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(locks, "SETTLE_SECONDS", 0.0)


@pytest.mark.usefixtures("without_flock")
def test_without_the_kernels_locks_the_file_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1)
    of_alive = replace(
        Holder.of_this_process(), pid=alive.pid, born=locks._birth(alive.pid), slurm_job="7"
    )
    elsewhere = replace(of_alive, host="elsewhere", pid=1)

    def write(holder: Holder) -> None:
        (tmp_path / ".lock").write_text(json.dumps(asdict(holder)))

    for holder in (of_alive, elsewhere):
        write(holder)
        with pytest.raises(InputError, match=r"in use by .*delete .*\.lock"):
            with one_writer(tmp_path):
                pass
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # which was requeued on this machine
    with one_writer(tmp_path):
        pass
    write(replace(of_alive, born=of_alive.born + 1))  # its number was given to another process
    with one_writer(tmp_path):
        pass
    write(of_alive)
    alive.communicate(b"\n")
    with one_writer(tmp_path):
        assert Holder.read(tmp_path / ".lock") == Holder.of_this_process()
    assert os.listdir(tmp_path) == []


def test_an_error_in_a_temporary_folder_names_what_was_asked_for(tmp_path: Path) -> None:
    wanted = tmp_path / "weights.pkl"
    with pytest.raises(OSError) as caught:
        with temporary_folder(wanted) as folder:
            raise OSError(errno.ENOSPC, "No space left", str(folder / "weights.pkl"))
    assert caught.value.filename == str(wanted) and caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError) as caught:
        with temporary_folder(wanted):
            raise OSError(errno.ENOENT, "No such file", "/elsewhere")
    assert caught.value.filename == "/elsewhere"
    with pytest.raises(OSError) as caught:
        with temporary_folder(tmp_path / "gone" / "weights.pkl"):
            pass
    assert caught.value.filename == str(tmp_path / "gone" / "weights.pkl")
