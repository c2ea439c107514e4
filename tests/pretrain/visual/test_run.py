"""What is read from a run directory in addition to its metrics."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.common.errors import InputError
from pretrain.data.pictures import open_pictures
from pretrain.visual.run import describe_run

METRICS = '{"step": 1, "output_std": 0.2, "batch_feature_std": 0.1}\n'
CONFIG = """
BACKBONE: {NAME: vit_tiny_patch16_224}
METHOD: {NAME: simsiam, PROJECTOR: {OUT_DIM: 16}}
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "metrics.jsonl").write_text(METRICS)
    return tmp_path


def test_references_come_from_the_config(run: Path) -> None:
    assert describe_run(run, "a", None).references == {}
    (run / "config.yaml").write_text(CONFIG)
    found = describe_run(run, "a", None)
    assert found.run == "a" and set(found.curves) == {"output_std", "batch_feature_std"}
    assert found.references == {"output_std": 0.25, "batch_feature_std": 192**-0.5}


def test_a_damaged_config_is_named(run: Path) -> None:
    (run / "config.yaml").write_text("BACKBONE: {NAEM: resnet50}")
    with pytest.raises(InputError, match="config.yaml: unknown key BACKBONE.NAEM"):
        describe_run(run, "a", None)


def test_a_damaged_checkpoint_is_named(run: Path) -> None:
    (run / "config.yaml").write_text("BACKBONE: {NAME: tiny_resnet}")
    images = open_pictures(f"folder:{Path(__file__).parents[3] / 'docs' / 'images'}")
    assert len(images) >= 1
    assert describe_run(run, "a", images).spectrum is None, "no checkpoint, no spectrum"
    (run / "checkpoint.pth").write_bytes(b"PK")
    with pytest.raises(InputError, match="checkpoint.pth is truncated"):
        describe_run(run, "a", images)
