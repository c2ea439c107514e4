"""Each trainer killed and resumed leaves what an undisturbed run leaves.

`make test` kills pretraining in the middle of a save; `make test-faults` kills each trainer
$FAULTS_KILLS times (100).
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pretrain.digits.dataset import make_digits

from .kills import differences, draw_kill, run_with_kills

KILLS_A_RUN = 5
PRETRAIN = """
_BASE_: simclr_demo.yaml
SOLVER: {MAX_STEPS: 12, BATCH_SIZE: 16, WARMUP_STEPS: 2}
LOG: {EVERY_STEPS: 2}
CHECKPOINT: {EVERY_EPOCHS: 1, EVERY_STEPS: 3}
KNN: {EVERY_EPOCHS: 1, TRAIN_LIMIT: 20, TEST_LIMIT: 20}
PRECISE_BN: {IMAGES: 32, BATCH_SIZE: 16}
DATALOADER: {NUM_WORKERS: 0}
VIEWS: {SIZE: 32}
"""
DETECT = (
    "tools/train_det.py --config digits_voc.yaml --weights random SOLVER.MAX_ITER 8 "
    "SOLVER.STEPS () "
    "SOLVER.CHECKPOINT_PERIOD 3 SOLVER.WARMUP_ITERS 2 SOLVER.IMS_PER_BATCH 2 TRANSFER.LOG_PERIOD 1 "
    "TEST.EVAL_PERIOD 4 TEST.PRECISE_BN.NUM_ITER 2 DATALOADER.NUM_WORKERS 0 TRANSFER.LIMIT_IMAGES 6"
)
CLASSIFY = (
    "tools/train_cls.py --config linear_crops.yaml --weights random BACKBONE.NAME tiny_resnet "
    "DATASETS.TRAIN folder:digits_cls:train DATASETS.TEST folder:digits_cls:test "
    "PROTOCOL.RESIZE 32 PROTOCOL.IMAGE_SIZE 32 SOLVER.EPOCHS 3 SOLVER.BATCH_SIZE 16 "
    "SOLVER.LR_PER_256 (1.0,0.3) "
    "TRAIN.MILESTONES (2,) DATALOADER.NUM_WORKERS 0"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills") / "digits"
    make_digits(folder, classification=(60, 20, 20), scenes=(8, 4, 4))
    return folder


@pytest.fixture(name="commands")
def commands_fixture(tmp_path: Path) -> dict[str, str]:
    """The command line of each trainer, without --output and --resume."""
    config = tmp_path / "pretrain.yaml"
    shipped = Path(__file__).parents[2] / "configs" / "pretrain" / "simclr_demo.yaml"
    config.write_text(PRETRAIN.replace("simclr_demo.yaml", str(shipped)))
    return {
        "pretraining": f"tools/train_ssl.py --config {config}",
        "detection": DETECT,
        "classification": CLASSIFY,
    }


def words(command: str, output: Path) -> list[str]:
    """The command with its output; options come before the overrides."""
    tool, option, config, *rest = command.split()
    return [tool, option, config, "--output", str(output), "--resume", *rest]


def test_a_killed_pretraining_loses_nothing(
    commands: dict[str, str], data: Path, tmp_path: Path
) -> None:
    """Killed while it writes a checkpoint, which is left torn."""
    run_with_kills(words(commands["pretraining"], tmp_path / "whole"), data, [])
    killed = words(commands["pretraining"], tmp_path / "killed")
    came = run_with_kills(killed, data, [("torn", 6)])
    assert [status for _, status in came] == [-signal.SIGKILL]
    assert differences(tmp_path / "whole", tmp_path / "killed") == []


def rounds() -> Iterator[random.Random]:
    """Draws of each run with KILLS_A_RUN kills."""
    for number in range(-(-int(os.environ.get("FAULTS_KILLS", 100)) // KILLS_A_RUN)):
        yield random.Random(number)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pretraining", "detection", "classification"])
def test_kills_at_length(name: str, commands: dict[str, str], data: Path, tmp_path: Path) -> None:
    run_with_kills(words(commands[name], tmp_path / "whole"), data, [])
    total = 0
    for number, draws in enumerate(rounds()):
        kills = [draw_kill(draws, longest=15.0) for _ in range(KILLS_A_RUN)]
        folder = tmp_path / f"killed_{number}"
        came = run_with_kills(words(commands[name], folder), data, kills)
        total += len(came)
        assert differences(tmp_path / "whole", folder) == [], came
    print(f"{name}: {total} kills came in time")
