"""Each command reads its weights file once in each of its processes.

A trial's `model_final.pth`, which is read again for predictions, is a different file.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.data.preprocess import Preprocess
from pretrain.digits.dataset import make_digits
from tools import doctor, train_cls, train_det
from transfer.checkpoints.opened import OpenedWeights
from transfer.checkpoints.read import random_weights
from transfer.checkpoints.readers import raw
from transfer.checkpoints.weights import tensors_sha256
from transfer.detection.config import load_detection_config
from transfer.detection.torchvision_engine.engine import make_detector
from transfer.detection.weights.detector_file import DETECTOR, kind_of
from transfer.results.record import read_record
from transfer.training.files import write_model
from transfer.trials import command

DETECTION = (
    "SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 2 DATALOADER.NUM_WORKERS 0 INPUT.MIN_SIZE_TRAIN 64 "
    "INPUT.MIN_SIZE_TEST 64 MODEL.RPN.POST_NMS_TOPK_TEST 10 TRANSFER.DRAW_DETECTIONS 0 "
    "SOLVER.STEPS (1,) SOLVER.WARMUP_ITERS 1"
).split()
SEGMENTATION = (
    "SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 2 SOLVER.STEPS (1,) SOLVER.WARMUP_ITERS 1 "
    "DATALOADER.NUM_WORKERS 0 TRANSFER.SEMANTIC.CROP_SIZE 64 TRANSFER.DRAW_DETECTIONS 0"
).split()
CLASSIFICATION = (
    "DATASETS.TRAIN folder:digits_cls:train DATASETS.TEST folder:digits_cls:test "
    "PROTOCOL.RESIZE 16 PROTOCOL.IMAGE_SIZE 16 DATALOADER.NUM_WORKERS 0"
).split()
KNN = [*CLASSIFICATION, "PROTOCOL.K", "(3,5)"]
LINEAR = [*CLASSIFICATION, "SOLVER.EPOCHS", "2"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of all ten digits, and the files `backbone.pth` and `detector.pth` to start from."""
    folder = tmp_path_factory.mktemp("digits")
    make_digits(folder, seed=3, classification=(20, 20, 20), scenes=(24, 1, 2))
    torch.save(random_weights("tiny_resnet", seed=3).state, folder / "backbone.pth")
    state = make_detector(load_detection_config("digits_voc.yaml"), Preprocess()).state_dict()
    facts: dict[str, Any] = {"preprocess": Preprocess(), "architecture": {}, "seconds": 1.0}
    write_model(folder, state, iteration=1, **facts).rename(folder / "detector.pth")
    return folder


class Reads:
    """How often each process read each file: the command, and then the one that it started."""

    def __init__(self) -> None:
        self.command: Counter[str] = Counter()
        self.started: Counter[str] = Counter()
        self.running = self.command

    def counted(self, read: Callable[..., Any]) -> Callable[..., Any]:
        """The reader of one kind of file, counting."""

        def reader(file: Path, *args: Any) -> Any:
            self.running[file.name] += 1
            return read(file, *args)

        return reader

    def launch(self, function: Callable[..., Any], _: int, args: tuple) -> None:
        """As with several processes: another process gets what can be pickled."""
        self.running = self.started
        function(*pickle.loads(pickle.dumps(args)))


@pytest.fixture
def reads(root: Path, monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Counts from here on; the process that the command starts is the command's own."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    found = Reads()
    for kind, read in dict(raw.READERS).items():
        monkeypatch.setitem(raw.READERS, kind, found.counted(read))
    return found


@pytest.fixture(params=["one process", "a process for each GPU"])
def counts(
    reads: Reads, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[[str], list[int]]:
    """Returns a function that says how often each of the processes read the file of a name."""
    if request.param == "one process":
        return lambda name: [reads.command[name]]
    monkeypatch.setattr(command, "launch", reads.launch)
    monkeypatch.setattr(command, "will_launch", lambda num_processes: True)
    return lambda name: [reads.command[name], reads.started[name]]


def check_records(output: Path, source: Path) -> None:
    """Both trials began with the numbers in the file: training one did not change the other's."""
    sha256 = {
        read_record(path)["checkpoint"]["sha256"] for path in output.glob("trial_*/record.json")
    }
    assert len(list(output.glob("trial_*/record.json"))) == 2
    kind = kind_of(OpenedWeights(source))
    state = torch.load(source, weights_only=True)
    assert sha256 == {tensors_sha256(state["model"] if kind == DETECTOR else state)}


@pytest.mark.parametrize(
    "config, source, words",
    [
        ("digits_voc.yaml", "backbone.pth", DETECTION),
        ("digits_voc.yaml", "detector.pth", DETECTION),
        ("digits_fcn.yaml", "backbone.pth", SEGMENTATION),
    ],
    ids=["backbone", "detector", "segmentation"],
)
def test_train_det(
    root: Path,
    tmp_path: Path,
    counts: Callable[[str], list[int]],
    config: str,
    source: str,
    words: list[str],
) -> None:
    options = ["--config", config, "--weights", str(root / source), "--trials", "2"]
    train_det.main([*options, "--output", str(tmp_path), *words])
    assert set(counts(source)) == {1}
    assert counts("model_final.pth")[-1] == 2, "each trial's own"
    check_records(tmp_path, root / source)


def test_eval_only(root: Path, tmp_path: Path, counts: Callable[[str], list[int]]) -> None:
    """The engine reads the detector once more: Detectron2's own takes nothing but a path."""
    options = ["--config", "digits_voc.yaml", "--weights", str(root / "detector.pth")]
    train_det.main([*options, "--eval-only", "--output", str(tmp_path), *DETECTION])
    assert counts("detector.pth") in ([2], [1, 2])


@pytest.mark.parametrize(
    "config, words", [("knn.yaml", KNN), ("linear.yaml", LINEAR)], ids=["knn", "linear"]
)
def test_train_cls(
    root: Path,
    tmp_path: Path,
    reads: Reads,
    config: str,
    words: list[str],
) -> None:
    options = ["--config", config, "--weights", str(root / "backbone.pth"), "--trials", "2"]
    train_cls.main([*options, "--output", str(tmp_path), *words])
    assert reads.command["backbone.pth"] == 1
    check_records(tmp_path, root / "backbone.pth")


@pytest.mark.parametrize(
    "config, source, words",
    [
        ("digits_voc.yaml", "backbone.pth", DETECTION),
        ("digits_voc.yaml", "detector.pth", DETECTION),
        ("digits_fcn.yaml", "backbone.pth", SEGMENTATION),
        ("knn.yaml", "backbone.pth", KNN),
    ],
)
def test_doctor(
    root: Path, tmp_path: Path, reads: Reads, config: str, source: str, words: list[str]
) -> None:
    options = ["--config", config, "--weights", str(root / source), "--output", str(tmp_path)]
    assert doctor.main([*options, *words]) == 0
    assert reads.command == {source: 1}
