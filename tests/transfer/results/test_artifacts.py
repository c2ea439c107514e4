"""Kernels, curves and the files that are copied from a pretraining run."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.common.errors import InputError
from transfer.results import artifacts
from transfer.results.artifacts import copy_pretrain_artifacts, draw_kernels, thin, write_curves


def _weights(kernels: torch.Tensor, order: str = "RGB") -> SimpleNamespace:
    return SimpleNamespace(
        state={"conv1.weight": kernels},
        backbone="resnet18",
        preprocess=SimpleNamespace(channel_order=order),
    )


def test_kernels_show_sign_and_channel(tmp_path: Path) -> None:
    kernels = torch.zeros(2, 3, 3, 3)
    kernels[0, 0, 1, 1] = 5.0  # a red dot; the scale is per kernel
    kernels[1, 2, 0, 0] = -0.1
    image = np.asarray(Image.open(draw_kernels(_weights(kernels), tmp_path / "k.png", cell=3)))
    first, second = image[1:4, 1:4], image[1:4, 6:9]
    assert first[1, 1].tolist() == [255, 128, 128]
    assert second[0, 0].tolist() == [128, 128, 0]
    swapped = draw_kernels(_weights(kernels, "BGR"), tmp_path / "b.png", cell=3)
    assert np.asarray(Image.open(swapped))[2, 2].tolist() == [128, 128, 255]


def test_kernels_need_a_first_layer(tmp_path: Path) -> None:
    weights = _weights(torch.zeros(1, 3, 3, 3))
    weights.state = {}
    with pytest.raises(InputError, match="no convolution with 3 input channels"):
        draw_kernels(weights, tmp_path / "k.png")


def test_thinning_keeps_ends_and_rare_rows() -> None:
    rows = [{"step": i, "loss": 1.0} for i in range(1000)] + [{"step": 999, "knn": 40.0}]
    kept = thin(rows, limit=50)
    assert len(kept) == 51
    assert kept[0]["step"] == 0 and kept[-2]["step"] == 999 and kept[-1]["knn"] == 40.0


def test_curves_need_steps(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs 'step'"):
        write_curves(tmp_path / "curves.json", [{"loss": 1.0}])


def test_copies_from_a_pretraining_run(tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "trial_0"
    run.mkdir()
    for name in ("checkpoint.pth", "views.png", "config.yaml"):
        (run / name).write_bytes(b"x")
    (run / "metrics.jsonl").write_text('{"step": 0, "loss": 2.0}\n{"step": 1, "lo')
    found = copy_pretrain_artifacts(run / "checkpoint.pth", folder)
    assert found == {"views": "views.png", "pretrain_curves": "pretrain_curves.json"}
    assert json.loads((folder / "pretrain_curves.json").read_text()) == [{"step": 0, "loss": 2.0}]
    assert copy_pretrain_artifacts("random", folder) == {}


@pytest.mark.parametrize("lost, kept", [("views", "pretrain_curves"), ("pretrain_curves", "views")])
def test_a_picture_that_this_user_may_not_read_does_not_lose_the_result(
    lost: str,
    kept: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The training has ended when the artifacts are copied; a colleague's run may hide files."""

    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    source = tmp_path / "run"
    source.mkdir()
    for name in ("checkpoint.pth", "views.png", "config.yaml"):
        (source / name).write_bytes(b"x")
    (source / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    reader = {"views": "read_regular", "pretrain_curves": "read_metrics"}[lost]
    monkeypatch.setattr(artifacts, reader, refuse)
    found = copy_pretrain_artifacts(source / "checkpoint.pth", tmp_path / "out")
    assert list(found) == [kept] and (tmp_path / "out" / found[kept]).is_file()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be read (Permission denied)" in caplog.text
