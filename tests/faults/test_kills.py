"""Each trainer that is killed and resumed leaves what an undisturbed run leaves.

`make test` kills pretraining in the middle of a save. `make test-faults` kills each trainer
$FAULTS_KILLS times (100); a process of torchrun and a worker of the loader are killed a tenth as
often, since those runs take longer. The undisturbed run with which the others are compared, and
every tenth run with kills, start a new Python interpreter, and so do the processes of torchrun; the
others are forks of a process that has loaded torch.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pretrain.digits.dataset import make_digits

from .counts import add_row
from .kills import Runner, differences, draw_kill, draw_kill_of_a_part
from .preloaded import Preloaded

WANTED = int(os.environ.get("FAULTS_KILLS") or 100)
FIRST = int(os.environ.get("FAULTS_SEED") or 0)  # gives other kills
KILLS_A_RUN = 5
TRAINERS = ("pretraining", "detection", "segmentation", "classification")
PARTS = ("pretraining, two processes", "pretraining, a worker")  # one of their processes is killed
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
SEGMENT = (
    "tools/train_det.py --config digits_fcn.yaml --weights random SOLVER.MAX_ITER 8 "
    "SOLVER.STEPS () "
    "SOLVER.CHECKPOINT_PERIOD 3 SOLVER.WARMUP_ITERS 2 SOLVER.IMS_PER_BATCH 2 TRANSFER.LOG_PERIOD 1 "
    "TEST.EVAL_PERIOD 4 DATALOADER.NUM_WORKERS 0 TRANSFER.LIMIT_IMAGES 6"
)
TORCHRUN = "-m torch.distributed.run --standalone --nproc-per-node 2"


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
        "segmentation": SEGMENT,
        "classification": CLASSIFY,
        "pretraining, two processes": f"{TORCHRUN} tools/train_ssl.py --config {config}",
        "pretraining, a worker": f"tools/train_ssl.py --config {config} DATALOADER.NUM_WORKERS 1",
    }


def words(command: str, output: Path) -> list[str]:
    """The command with its output; options come before the overrides."""
    before, option, rest = command.partition(" --config ")
    config, _, overrides = rest.partition(" ")
    options = [option.strip(), config, "--output", str(output), "--resume"]
    return [*before.split(), *options, *overrides.split()]


def test_a_killed_pretraining_loses_nothing(
    commands: dict[str, str], data: Path, tmp_path: Path
) -> None:
    """Killed while it writes a checkpoint, which is left torn."""
    runner = Runner(data)
    runner.run(words(commands["pretraining"], tmp_path / "whole"))
    killed = words(commands["pretraining"], tmp_path / "killed")
    came = runner.run_with_kills(killed, [("torn", 6)])
    assert [status for _, status in came] == [-signal.SIGKILL]
    assert differences(tmp_path / "whole", tmp_path / "killed") == []


@pytest.fixture(name="preloaded", scope="module")
def preloaded_fixture() -> Iterator[Preloaded]:
    loaded = Preloaded()
    yield loaded
    loaded.close()


def compared(name: str, came: int, planned: int, began: float, whole: Path, killed: Path) -> None:
    """Adds a row to the counts, and raises if a killed run left something else."""
    found = differences(whole, killed)
    row = {"trainer": name, "runs": 1, "kills": came, "late": int(came < planned)}
    seconds = round(time.monotonic() - began, 1)
    add_row({**row, "different": int(bool(found)), "seconds": seconds})
    assert found == [], killed
    shutil.rmtree(killed)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TRAINERS, *PARTS])
def test_kills_at_length(
    name: str, commands: dict[str, str], data: Path, preloaded: Preloaded, tmp_path: Path
) -> None:
    plain = Runner(data)
    quick = plain if TORCHRUN in commands[name] else Runner(data, preloaded)
    plain.run(words(commands[name], tmp_path / "whole"))
    began = time.monotonic()
    quick.run(words(commands[name], tmp_path / "again"))
    seconds = time.monotonic() - began
    compared(name, 0, 0, began, tmp_path / "whole", tmp_path / "again")
    draw, wanted = (draw_kill_of_a_part, WANTED / 10) if name in PARTS else (draw_kill, WANTED)
    total, number = 0, FIRST
    while total < wanted:
        draws, began = random.Random(number), time.monotonic()
        kills = [draw(draws, longest=seconds) for _ in range(KILLS_A_RUN)]
        runner, folder = plain if number % 10 == 9 else quick, tmp_path / f"killed_{number}"
        came = runner.run_with_kills(words(commands[name], folder), kills)
        compared(name, len(came), len(kills), began, tmp_path / "whole", folder)
        total, number = total + len(came), number + 1
