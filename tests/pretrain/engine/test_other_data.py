"""A pretraining run continues only with the data with which it began."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fvcore.common.config import CfgNode
from PIL import Image

from pretrain.common.checkpoint import load_checkpoint
from pretrain.common.config import dump_yaml
from pretrain.common.errors import InputError
from pretrain.data.datasets import open_images
from pretrain.engine.run import pretrain


def test_it_is_refused_on_other_data(
    tiny_config: Callable[..., CfgNode],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Also if an epoch has equally many steps: one image is changed, then removed."""
    short = (
        "SOLVER.MAX_STEPS",
        1,
        "SOLVER.WARMUP_EPOCHS",
        0.0,
        "PRECISE_BN.IMAGES",
        0,
        "SOLVER.BATCH_SIZE",
        5,
    )
    source = Path(tiny_config().DATASETS.TRAIN.split(":")[1])
    copy = tmp_path / "root/mine"
    shutil.copytree(source, copy)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "root"))
    text = dump_yaml(tiny_config(*short, "DATASETS.TRAIN", "folder:mine", "DATASETS.KNN_TRAIN", ""))
    run = tmp_path / "run"
    pretrain(text, str(run), False)
    checkpoint = run / "checkpoint.pth"
    kept = load_checkpoint(checkpoint)["data"]
    assert kept == {"train": open_images("folder:mine").fingerprint.to_dict()}
    shutil.copytree(copy, tmp_path / "moved/mine")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "moved"))
    pretrain(text, str(run), True)  # the same data at another place
    image = sorted((tmp_path / "moved/mine").rglob("*.png"))[0]
    Image.new("RGB", (9, 9)).save(image)
    with pytest.raises(
        InputError, match="checkpoint.pth was trained on different .*content: the sizes"
    ):
        pretrain(text, str(run), True)
    image.unlink()
    count = kept["train"]["images"]
    with pytest.raises(InputError, match=f"data .{count} images then, {count - 1} images now.; "):
        pretrain(text, str(run), True)
    content = load_checkpoint(checkpoint)
    del content["data"]
    torch.save(content, checkpoint)
    pretrain(text, str(run), True)
    assert "does not say which data it was trained on" in capfd.readouterr().err
