"""A weights file that is opened once: what is kept, what other processes get, a changed file."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from pretrain.common.errors import InputError
from transfer.checkpoints.files import RANDOM, file_sha256
from transfer.checkpoints.opened import OpenedWeights, as_opened
from transfer.checkpoints.read import random_weights, read_weights
from transfer.checkpoints.sources import check_source


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "backbone.pth"
    torch.save(random_weights("tiny_resnet", seed=1).state, path)
    return path


def test_the_content_is_read_once_and_serves_every_question(file: Path) -> None:
    opened = OpenedWeights(file)
    first = read_weights(opened)
    file.unlink()
    second = read_weights(opened)
    assert second.sha256 == first.sha256 == random_weights("tiny_resnet", seed=1).sha256
    assert second.account == first.account and second.provenance == first.provenance
    assert str(opened) == str(file) and opened.file == file
    opened.close()
    with pytest.raises(InputError, match="no weights file at|No such file"):
        read_weights(opened)


def test_a_missing_file_is_told_with_what_may_have_been_meant(file: Path, tmp_path: Path) -> None:
    (tmp_path / "backbones.py").touch()
    for name, told in (
        (str(tmp_path / "backbon.pth"), " (did you mean 'backbone.pth'?)"),
        (str(tmp_path / "gone" / "a.pth"), f": {tmp_path / 'gone'} is not a folder"),
        ("resnet50", "; names of published weights begin with torchvision:, timm: or hf-hub:"),
    ):
        with pytest.raises(InputError) as error:
            check_source(name)
        assert str(error.value) == f"no weights file at {name}{told}"


def test_another_process_gets_the_source_alone(file: Path) -> None:
    opened = OpenedWeights(file, trust=True)
    assert opened.raw.content
    text = pickle.dumps(opened)
    assert len(text) < 500
    copy = pickle.loads(text)
    assert vars(copy) == {"source": str(file), "trust": True}


def test_a_source_is_opened_or_taken_as_it_is(file: Path) -> None:
    opened = OpenedWeights(file)
    assert as_opened(opened) is opened
    assert as_opened(str(file), trust=True).trust and not as_opened(file).trust
    assert OpenedWeights(RANDOM).is_random and not opened.is_random


def test_the_sha256_is_of_the_bytes_that_were_read(file: Path) -> None:
    """A run that still trains replaces its checkpoint by the next one."""
    assert OpenedWeights(file).raw.sha256 == file_sha256(file)
    raw = OpenedWeights(file).raw
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    with pytest.raises(InputError, match="backbone.pth was changed while it was read; wait"):
        raw.sha256
    longer = OpenedWeights(file).raw
    time = file.stat().st_mtime_ns
    file.write_bytes(file.read_bytes() + b" ")
    os.utime(file, ns=(time, time))
    with pytest.raises(InputError, match="was changed"):
        longer.sha256
