"""Checkpoints of Detectron2's trainer know their data.

fvcore's Checkpointer, the base class of Detectron2's, writes and reads them here.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from fvcore.common.checkpoint import Checkpointer
from torch import nn

from pretrain.common.errors import InputError
from pretrain.data.fingerprint import Fingerprint
from transfer.training.checkpointed_data import CheckpointedData


def data(images: int) -> Fingerprint:
    return Fingerprint(images, 7, 2, f"{images:064d}", {"names": f"{images:016d}"})


def resumed(folder: Path, now: Fingerprint | None) -> None:
    """Continues from the folder's last checkpoint, or begins, and saves; as Detectron2's trainer
    does. None: a version that does not know the data."""
    checkpointer = Checkpointer(nn.Linear(2, 2), str(folder), other=nn.Linear(1, 1))
    kept = None if now is None else CheckpointedData(checkpointer, now)
    goes_on = checkpointer.has_checkpoint()
    checkpointer.resume_or_load("", resume=True)
    if goes_on and kept is not None:
        kept.warn_if_unknown()
    checkpointer.save("model_0000001", iteration=1)


def test_a_run_continues_on_its_own_data_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resumed(tmp_path, data(60))
    with caplog.at_level(logging.WARNING):
        resumed(tmp_path, data(60))
    assert "training data" not in caplog.text
    with pytest.raises(InputError, match=r"model_0000001.pth was trained on different .*\(60 im"):
        resumed(tmp_path, data(59))


def test_a_checkpoint_of_an_older_version_is_continued_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resumed(tmp_path, None)
    with caplog.at_level(logging.WARNING):
        resumed(tmp_path, data(60))
    assert "model_0000001.pth does not say which data it was trained on" in caplog.text
    with pytest.raises(InputError):
        resumed(tmp_path, data(59))


def test_a_start_from_weights_compares_nothing(tmp_path: Path) -> None:
    resumed(tmp_path, data(60))
    checkpointer = Checkpointer(nn.Linear(2, 2), str(tmp_path / "other"))
    CheckpointedData(checkpointer, data(59))
    checkpointer.resume_or_load(str(tmp_path / "model_0000001.pth"), resume=True)
