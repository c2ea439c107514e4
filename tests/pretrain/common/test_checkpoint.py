"""Checkpoint files: atomic, safe to read, with clear errors if damaged; exact random state."""

from __future__ import annotations

import errno
import io
import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pretrain.common import checkpoint
from pretrain.common.cli import tool
from pretrain.common.errors import InputError


def test_round_trip_and_no_temporary_files(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "checkpoint.pth"
    checkpoint.save_checkpoint({"model": {"a": torch.arange(3)}, "step": 4}, path)
    content = checkpoint.load_checkpoint(path)
    assert content["step"] == 4 and content["format"] == checkpoint.FORMAT
    assert torch.equal(content["model"]["a"], torch.arange(3))
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pth"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    checkpoint.atomic_write_text(path, "old")

    def fail(file: object) -> None:
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        checkpoint.atomic_write(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also if the writer changes the error: torch.save raises a RuntimeError instead."""

    def write(file: object) -> None:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            raise RuntimeError("unexpected pos 704 vs 598")

    path = tmp_path / "a.pth"
    with pytest.raises(OSError, match="No space left on device: .*a.pth") as caught:
        checkpoint.atomic_write(path, write)
    assert caught.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())
    assert tool(lambda argv: checkpoint.atomic_write(path, write))([]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"error: {path}: No space left on device; free")


class Bomb:
    def __reduce__(self) -> tuple:
        return (open, ("bomb_went_off", "w"))


class Interrupted(io.BytesIO):
    """A file whose third write is interrupted by an error."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self._error, self._writes = error, 0

    def write(self, data: Any) -> int:
        self._writes += 1
        if self._writes == 3:
            raise self._error
        return super().write(data)


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_interrupts_a_write_is_raised(error: BaseException, tmp_path: Path) -> None:
    """torch.save, left early, raises a RuntimeError of its own over the error that it met."""
    content = {"big": torch.zeros(1000)}
    with pytest.raises(RuntimeError, match="unexpected pos"):
        torch.save(content, Interrupted(error))
    with pytest.raises(type(error)) as caught:
        checkpoint.atomic_write(
            tmp_path / "x.pth", lambda file: torch.save(content, Interrupted(error))
        )
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


def test_bad_files_are_one_line_and_never_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    good = tmp_path / "good.pth"
    checkpoint.save_checkpoint({"model": {"a": torch.zeros(1000)}}, good)
    cases = {
        "missing": tmp_path / "none.pth",
        "folder": tmp_path,
        "empty": tmp_path / "empty.pth",
        "cut": tmp_path / "cut.pth",
        "bomb": tmp_path / "bomb.pth",
        "other": tmp_path / "other.pth",
    }
    cases["empty"].write_bytes(b"")
    cases["cut"].write_bytes(good.read_bytes()[:700])
    cases["bomb"].write_bytes(pickle.dumps(Bomb()))
    torch.save({"state_dict": {}}, cases["other"])
    for name, path in cases.items():
        with pytest.raises(InputError) as error:
            checkpoint.load_checkpoint(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value), name
    assert not (tmp_path / "bomb_went_off").exists()


def test_random_state_resumes(tmp_path: Path) -> None:
    path = tmp_path / "rng.pth"
    checkpoint.save_checkpoint({"rng": checkpoint.rng_state()}, path)
    first = (random.random(), np.random.rand(), torch.rand(1).item())
    checkpoint.set_rng_state(checkpoint.load_checkpoint(path)["rng"])
    assert first == (random.random(), np.random.rand(), torch.rand(1).item())


def test_facts_travel_with_weights(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    checkpoint.save_weights(path, {"conv1.weight": torch.ones(2)}, {"epochs": 100})
    state = checkpoint.load_torch_file(path)
    assert checkpoint.read_facts(state) == {"epochs": 100}
    assert checkpoint.read_facts({"a": torch.ones(1)}) is None


def test_a_file_kept_twice_leaves_no_third_name(tmp_path: Path) -> None:
    """A kill between the two renames of a save leaves both names of one content."""
    path, previous = tmp_path / "checkpoint.pth", tmp_path / "checkpoint.prev.pth"
    path.write_bytes(b"content")
    for _ in range(2):
        checkpoint._keep(path, previous)
    assert sorted(tmp_path.iterdir()) == [previous, path]
