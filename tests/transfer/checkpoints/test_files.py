"""Paths that are given as weights and are not a file, or a file of an unusual name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pretrain.common.errors import InputError
from tests.transfer.checkpoints.builders import trained_state
from transfer.checkpoints.files import local_file
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
