"""Every task is looked at before the first job starts, and all that is wrong is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from pretrain.common.digits import make_digits
from tools.run_suite import main

SUITE = """
CHECKPOINTS: [{name: untrained, weights: random}]
TASKS:
  - {name: knn, command: cls, config: knn_digits.yaml}
  - {name: boxes, command: det, config: digits_voc.yaml}
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    make_digits(folder, classification=(120, 20, 20), scenes=(6, 4, 4))
    return folder


@pytest.fixture
def suite(tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The options of a small suite on the digits."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(digits))
    (tmp_path / "suite.yaml").write_text(SUITE)
    return ["--config", str(tmp_path / "suite.yaml"), "--output", str(tmp_path / "out")]


def errors(capsys: pytest.CaptureFixture) -> list[str]:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return [line.removeprefix("error: ") for line in lines]


def test_all_missing_data_is_named_before_anything_starts(
    tmp_path: Path, suite: list[str], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "empty"))
    assert main(suite) == 2
    knn, boxes = errors(capsys)
    assert knn.startswith("knn: ") and "digits_cls" in knn
    assert boxes.startswith("boxes: ") and "digits_voc" in boxes
    assert not (tmp_path / "out").exists()


def test_typos_in_configs_are_told_together(
    tmp_path: Path, suite: list[str], capsys: pytest.CaptureFixture
) -> None:
    text = SUITE.replace("knn_digits.yaml}", "knn_digits.yaml, overrides: [PROTOCOL.KK, 3]}")
    text = text.replace("digits_voc.yaml}", "digits_voc.yaml, overrides: [SOLVER.BASE_LRR, 1.0]}")
    (tmp_path / "suite.yaml").write_text(text)
    for more in ([], ["--dry-run"]):
        assert main([*suite, *more]) == 2
        first, second = errors(capsys)
        assert first.startswith("knn: ") and "PROTOCOL.K" in first
        assert second.startswith("boxes: ") and "SOLVER.BASE_LR" in second


def test_weights_are_compared_with_what_the_tasks_build(
    tmp_path: Path, suite: list[str], capsys: pytest.CaptureFixture
) -> None:
    torch.save(resnet18().state_dict(), tmp_path / "r18.pth")
    (tmp_path / "bad.pth").write_bytes(b"not weights")
    given = ["--checkpoint", f"r18={tmp_path / 'r18.pth'}"]
    given += ["--checkpoint", f"bad={tmp_path / 'bad.pth'}"]
    assert main([*suite, *given]) == 2
    lines = errors(capsys)
    assert [line.split(":")[0] for line in lines] == ["checkpoint bad", "boxes/r18"]
    assert "resnet18" in lines[1] and "tiny_resnet" in lines[1]


def test_a_batch_that_does_not_divide(
    tmp_path: Path, suite: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert main([*suite, "--gpus-per-job", "3", "--dry-run", "--probe-seconds", "0"]) == 0
    assert "SOLVER.IMS_PER_BATCH 8 is not a multiple of 3" in capsys.readouterr().out


def test_plan_first(tmp_path: Path, suite: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main([*suite, "--dry-run", "--probe-seconds", "0", "--task", "knn"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("to do knn/untrained") and lines[-1] == "1 of 1 jobs to do"
    assert not (tmp_path / "out").exists()
