"""Paths that are given as weights and are not a file, or a file of an unusual name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pretrain.common.cli import tool
from pretrain.common.config import CHECKOUT
from pretrain.common.errors import InputError
from tests.transfer.checkpoints.builders import trained_state
from transfer.checkpoints.files import Source, local_file
from transfer.checkpoints.read import read_weights


def empty(path: Path) -> None:
    path.write_bytes(b"")


def link_to_nothing(path: Path) -> None:
    path.symlink_to(path.with_name("gone.bin"))


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def nothing(path: Path) -> None:
    path.with_name("resnet_50.pth").write_bytes(b"PK")


@pytest.mark.parametrize(
    "make, message",
    [
        (Path.mkdir, "resnet50.pth is a folder"),
        (os.mkfifo, "resnet50.pth is a pipe or a device; give a file$"),
        (empty, "resnet50.pth is empty"),
        (link_to_nothing, "resnet50.pth is a link to .*gone.bin, which is missing; names of"),
        (link_to_itself, "no weights file at .*resnet50.pth: Too many levels of symbolic links"),
        (nothing, "no weights file at .*resnet50.pth .did you mean 'resnet_50.pth'"),
    ],
)
def test_what_is_not_a_file_is_named(
    make: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    """A pipe would be waited for, and what cannot be read is not proposed."""
    os.mkfifo(tmp_path / "resnet51.pth")
    make(tmp_path / "resnet50.pth")
    with pytest.raises(InputError, match=message):
        local_file(tmp_path / "resnet50.pth")


ASK = """
import sys
from pretrain.common.cli import tool
from transfer.checkpoints.files import local_file
sys.exit(sum(tool(lambda _: local_file(path) and 0)([]) for path in sys.argv[1:]))
"""
# root may read everything without this
PLAIN_USER = ["setpriv", "--inh-caps=-dac_override,-dac_read_search"]
PLAIN_USER.append("--bounding-set=-dac_override,-dac_read_search")


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root reads all")
def test_what_this_user_may_not_read_is_bad_input(tmp_path: Path) -> None:
    """It has the status of a wrong path, not that of a disk that cannot be written."""
    paths = [
        tmp_path / name for name in ("a.pth", "model/pytorch_model.bin", "closed", "closed/b.pth")
    ]
    for path in (paths[0], paths[1], paths[3]):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"PK")
        path.chmod(0)
    paths[2].chmod(0)
    asked = [paths[0], paths[1].parent, *paths[2:]]
    words = [
        *(PLAIN_USER if os.geteuid() == 0 else []),
        sys.executable,
        "-c",
        ASK,
        *map(str, asked),
    ]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True)
    paths[2].chmod(0o700)
    may_not = "this user may not read it; change its permissions (chmod), or give a copy"
    assert done.stderr.splitlines() == [
        f"error: {paths[0]}: {may_not}",
        f"error: {paths[1]}: {may_not}",
        f"error: {paths[2]}: {may_not}",
        f"error: no weights file at {paths[3]}: Permission denied; give another path",
    ]
    assert done.returncode == 4 * 2


def test_a_file_that_vanishes_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.pth"
    torch.save(trained_state("tiny_resnet"), path)

    def found(source: str) -> Source:
        file = local_file(source)
        file.unlink()
        return Source(file)

    monkeypatch.setattr("transfer.checkpoints.opened.resolve", found)
    assert tool(lambda _: read_weights(path) and 0)([]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line and ("No such file" in line or "no weights file" in line)


def test_a_device_is_not_opened() -> None:
    with pytest.raises(InputError, match="/dev/zero is a pipe or a device"):
        read_weights("/dev/zero")


@pytest.mark.parametrize("name", [b"\xff\xfe.pth", b"line\n\x1b[31m.pth"])
def test_any_name_of_a_file_is_read(name: bytes, tmp_path: Path) -> None:
    """A name that is not UTF-8 comes from an old archive or another system."""
    state = trained_state("tiny_resnet")
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
    with open(path, "wb") as stream:
        torch.save(state, stream)
    assert read_weights(path).state.keys() == state.keys()
