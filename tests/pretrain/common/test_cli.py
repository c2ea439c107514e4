"""Names of files and overrides on a command line, and how commands end."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from pretrain.common import safe_yaml
from pretrain.common.cli import (
    add_command,
    interrupt_says,
    make_parser,
    note_fresh_start,
    short_names,
    split_overrides,
    tool,
)
from pretrain.common.config import load_config
from pretrain.common.errors import InputError, failure


@pytest.mark.parametrize(
    "paths, names",
    [
        (["runs/mscn/", "runs/simclr"], ["mscn", "simclr"]),
        (["a/checkpoint.pth", "b/checkpoint.pth"], ["a-checkpoint", "b-checkpoint"]),
        (["x/a/run", "x/b/run", "c"], ["a-run", "b-run", "x-c"]),
        (["configs/step_0.yaml"], ["step_0"]),
        (["moco.v2.pth.tar"], ["moco.v2"]),
    ],
)
def test_short_names(
    paths: list[str], names: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    assert short_names(paths) == names


@pytest.mark.parametrize("paths", [["a", "b", "./a"], ["a.pth", "a.pkl"]])
def test_paths_that_cannot_be_told_apart(paths: list[str]) -> None:
    with pytest.raises(InputError, match="given twice|only by their suffixes"):
        short_names(paths)


def test_overrides_after_several_names() -> None:
    assert split_overrides(["a.yaml", "README.yaml"]) == (["a.yaml", "README.yaml"], [])
    words = ["a", "VIEWS.A.COUNT", "2", "SEED", "1"]
    assert split_overrides(words) == (["a"], words[1:])


def test_a_command_has_its_own_example(capsys: pytest.CaptureFixture[str]) -> None:
    parser = make_parser("All of it.", "x views a", overrides=False)
    commands = parser.add_subparsers(dest="command", required=True)
    views = add_command(commands, "views", "some of it", "x views --rows 3 SEED 1", overrides=True)
    views.add_argument("--rows", type=int)
    args = parser.parse_args(["views", "--rows", "3", "SEED", "1"])
    assert vars(args) == vars(argparse.Namespace(command="views", rows=3, opts=["SEED", "1"]))
    with pytest.raises(SystemExit):
        parser.parse_args(["views", "--help"])
    text = capsys.readouterr().out
    assert "some of it" in text and "example:\n  x views --rows 3 SEED 1" in text


WORKER = {
    "DataLoader worker (pid(s) 20350) exited unexpectedly": "(exited unexpectedly)",
    "DataLoader worker (pid(s) 7, 9) exited unexpectedly": "(exited unexpectedly)",
    "DataLoader worker (pid 20432) is killed by signal: Bus error. It is possible that "
    "dataloader's workers are out of shared memory.": "(is killed by signal: Bus error)",
}


@pytest.mark.parametrize("text", WORKER)
def test_a_dead_worker_is_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(RuntimeError(text)) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: a process that loads images died {WORKER[text]}")
    assert ("--shm-size" in said and "DATALOADER.PREFETCH_GIB" in said) == ("Bus" in text)
    assert "lower DATALOADER.NUM_WORKERS" in said and "Traceback" not in said


def test_failures(capsys: pytest.CaptureFixture[str]) -> None:
    """A diverged training is one line; what is not known keeps its traceback."""
    assert failing(FloatingPointError("iteration 7: loss nan")) == 1
    said = capsys.readouterr().err
    assert said == "error: iteration 7: loss nan\n"
    assert failing(RuntimeError("shapes differ")) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said and "shapes differ" in said


REFUSALS = {
    errno.ENOSPC: (1, "free some space"),
    errno.EDQUOT: (1, "free some space"),
    errno.EROFS: (1, "give a place where this user may read and write"),
    errno.EACCES: (1, "give a place where this user may read and write"),
    errno.ENOENT: (1, "bring it back"),
    errno.EIO: (1, "continues from what was saved before"),
    errno.ENOTDIR: (1, "give another path"),
    errno.EINVAL: (1, "give another path"),  # such as a colon in a name on a FAT disk
    errno.ELOOP: (1, "give another path"),
    errno.ENXIO: (1, "give another path"),
}


@pytest.mark.parametrize("number", REFUSALS)
def test_what_the_system_refuses_is_one_line(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    status, remedy = REFUSALS[number]
    assert failing(OSError(number, os.strerror(number), "/out/x")) == status
    said = capsys.readouterr().err
    assert said.startswith(f"error: /out/x: {os.strerror(number)}; ") and remedy in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("number", "status"),
    [(errno.ENOSPC, 1), (errno.EROFS, 1), (errno.EACCES, 2), (errno.ENOENT, 2)],
)
def test_bad_input_that_a_disk_caused_is_a_failed_run(
    number: int, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever notices the full disk: the status is that of a failure, not that of a wrong word. A
    path that this user may not use is a wrong word."""
    try:
        try:
            raise OSError(number, os.strerror(number), "/out/x")
        except OSError:
            raise InputError("/out cannot be written; give another --output") from None
    except InputError as error:
        assert failing(error) == status
    assert capsys.readouterr().err == "error: /out cannot be written; give another --output\n"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EISDIR])
def test_a_file_that_this_user_may_not_read_is_bad_input_with_its_remedy(
    number: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The reader of a config gives only the reason; another reason does not get this remedy."""

    def refuse(*_: object) -> bytes:
        raise OSError(number, os.strerror(number), str(path))

    path = tmp_path / "a;b.yaml"  # the name is not a remedy
    path.write_text("SEED: 1\n")
    monkeypatch.setattr(safe_yaml, "read_regular", refuse)

    @tool
    def main(argv: object = None) -> None:
        load_config(str(path), CfgNode({"SEED": 0}))

    assert main() == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path}: ") and len(said.splitlines()) == 1
    assert os.strerror(number) in said
    remedy = "; change its permissions (chmod), or give a copy\n"
    assert said.endswith(remedy) == (number != errno.EISDIR)


def check_one_line_and_a_traceback(capsys: pytest.CaptureFixture[str], line: str) -> None:
    """The failure is the line; the program's error, "a bug", keeps its traceback."""
    said = capsys.readouterr().err
    assert line in said
    assert said.count("Traceback") == 1 and "a bug" in said


def test_a_thread_that_finds_the_disk_full_says_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorBoard's writer does this. A program's error in a thread keeps its traceback."""
    logging.basicConfig(force=True)

    def throw(error: Exception) -> None:
        raise error

    @tool
    def main(argv: object = None) -> None:
        for error in (OSError(errno.ENOSPC, "No space left", "events"), ValueError("a bug")):
            thread = threading.Thread(target=throw, args=(error,))
            thread.start()
            thread.join()

    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # not pytest's
    assert main() == 0 and threading.excepthook is threading.__excepthook__
    check_one_line_and_a_traceback(
        capsys, "a thread of this command ended: events: No space left; free some space"
    )


def test_a_worker_that_dies_while_its_loader_ends_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch raises its news of the worker inside `__del__`; an error of the program there keeps
    its traceback."""
    logging.basicConfig(force=True)

    class Ends:
        def __init__(self, error: Exception) -> None:
            self.error = error

        def __del__(self) -> None:
            raise self.error

    @tool
    def main(argv: object = None) -> None:
        for error in (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            ValueError("a bug"),
        ):
            Ends(error)

    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)  # not pytest's
    assert main() == 0 and sys.unraisablehook is sys.__unraisablehook__
    check_one_line_and_a_traceback(
        capsys, "while a part of this command ended: a process that loads images died"
    )


def test_a_full_standard_output_is_one_line() -> None:
    code = "from pretrain.common.cli import tool; raise SystemExit(tool(lambda argv: print(1))())"
    command = [sys.executable, "-c", code]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, cwd=Path(__file__).parents[3], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.stderr.startswith("error: a file, or standard output: No space left on device")
    assert "Traceback" not in done.stderr and done.returncode != 0


def test_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    assert failing(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "interrupted\n"

    @tool
    def main(argv: object = None) -> None:
        with interrupt_says(lambda: "2 of 3 are done"):
            raise KeyboardInterrupt

    assert main() == 130
    assert capsys.readouterr().err == "interrupted; 2 of 3 are done\n"


def test_a_fresh_start_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = ["trial_*/record.json", "trial_*/model_[0-9]*.pth"]
    note_fresh_start(tmp_path / "none", saved)
    assert f"there was no run in {tmp_path}/none; the run starts" in capsys.readouterr().err
    (tmp_path / "trial_0").mkdir()
    (tmp_path / "trial_0" / "config.yaml").touch()
    note_fresh_start(tmp_path, saved)
    assert f"nothing was saved yet in {tmp_path}; the run starts" in capsys.readouterr().err
    (tmp_path / "trial_0" / "model_0000019.pth").touch()
    note_fresh_start(tmp_path, saved)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("where", ["in main", "at the end"])
def test_a_closed_pipe_is_no_failure(where: str) -> None:
    """For example in `command --json | head -1`: no traceback, the exit status of SIGPIPE."""
    text = "'x' * 1_000_000" if where == "in main" else "'x'"
    code = f"""
import sys
from pretrain.common.cli import tool

@tool
def main(argv=None):
    sys.stdin.read()
    print({text})

sys.exit(main())
"""
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=Path(__file__).parents[3], **pipes) as process:
        process.stdout.close()  # the reader has gone before anything is written
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def failing(error: BaseException) -> int:
    """The status of a command that raises it."""

    @tool
    def main(argv: object = None) -> None:
        raise error

    logging.basicConfig(force=True)  # to what capsys reads
    return main()


def test_what_a_command_tells_its_processes_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--trust` of one command is not the next command's."""
    monkeypatch.setenv("MSCN_CACHE", "mine")

    @tool
    def main(argv: Sequence[str] | None = None) -> None:
        os.environ.update(MSCN_TRUST="1", MSCN_CACHE="its own", ELSE="stays")

    monkeypatch.setenv("ELSE", "before")
    assert main() == 0
    assert "MSCN_TRUST" not in os.environ and os.environ["MSCN_CACHE"] == "mine"
    assert os.environ["ELSE"] == "stays"


def raised_in(file: str, error: Exception) -> Exception:
    """The error after it was raised by code of a file of this name."""
    code = compile("def wait(error):\n    raise error", file, "exec")
    space: dict = {}
    exec(code, space)
    with pytest.raises(type(error)) as caught:
        space["wait"](error)
    return caught.value


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset by peer"), EOFError()])
def test_a_batch_that_breaks_off_is_a_dead_worker(error: Exception) -> None:
    """The main process may find the connection closed before it hears that the worker died."""
    found = raised_in("/site-packages/torch/utils/data/dataloader.py", error)
    assert failure(found).startswith("a process that loads images died (its connection broke off)")
    assert failure(raised_in("/elsewhere/socket.py", type(error)(*error.args))) == ""


def test_a_worker_that_dies_is_the_cause_of_a_later_error() -> None:
    """torch raises the news at any point of the program: here in a library, which raises its own
    error over it."""
    with pytest.raises(ValueError) as caught:
        try:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. Details are")
        finally:
            raise ValueError("not closed")
    line = failure(caught.value)
    assert line.startswith("a process that loads images died (is killed by signal: Killed)")


def test_a_worker_that_dies_while_a_failure_is_told_does_not_interrupt_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def news(number: int, frame: object) -> None:
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Bus error. ")

    class Slow(FloatingPointError):
        def __str__(self) -> str:
            os.kill(os.getpid(), signal.SIGCHLD)
            return "the loss is not finite"

    @tool
    def main(argv: Sequence[str] | None = None) -> None:
        raise Slow

    before = signal.signal(signal.SIGCHLD, news)
    try:
        assert main() == 1
        assert signal.getsignal(signal.SIGCHLD) is news
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert capsys.readouterr().err == "error: the loss is not finite\n"


def test_quiet_and_verbose_are_options_of_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """They reach the processes that a command starts, and end with it."""
    monkeypatch.delenv("MSCN_LOG", raising=False)
    seen: list[str | None] = []

    @tool
    def main(argv: Sequence[str] | None = None) -> None:
        parser = make_parser("All of it.", "x --quiet")
        parser.add_argument("--config")
        args = parser.parse_args(argv)
        assert not hasattr(args, "quiet")
        seen.append(os.environ.get("MSCN_LOG"))

    assert [main(["--quiet", "SEED", "1"]), main(["--config", "a", "--verbose"]), main([])] == [
        0
    ] * 3
    assert seen == ["QUIET", "DEBUG", None] and "MSCN_LOG" not in os.environ
    with pytest.raises(SystemExit):
        main(["--quiet", "--verbose"])
    parser = make_parser("All of it.", "x", overrides=False)
    add_command(parser.add_subparsers(dest="command"), "views", "Views.", "x views")
    parser.parse_args(["views", "--quiet"])
    assert os.environ.pop("MSCN_LOG") == "QUIET"
