"""The protocol `logistic`: its metrics, its choice of a penalty, and its warnings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from pretrain.digits.dataset import make_digits
from tools.train_cls import main
from transfer.checkpoints.read import random_weights
from transfer.checkpoints.writers import write_weights
from transfer.classification.metrics import mean_per_class
from transfer.classification.protocols.logistic import judge
from transfer.classification.replicates import average_precisions, draw_replicates
from transfer.classification.score import Outcomes
from transfer.results.group import DETERMINISTIC_TASKS
from transfer.results.record import read_record

SMALL = (
    "BACKBONE.NAME tiny_resnet DATALOADER.NUM_WORKERS 0 DATALOADER.BATCH_SIZE 32 REPLICATES 10 "
    "QUALITY.IMAGES 0 PROTOCOL.RESIZE 32 PROTOCOL.IMAGE_SIZE 32"
).split()
FOLDERS = "DATASETS.TRAIN folder:digits_cls:train DATASETS.TEST folder:digits_cls:test".split()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logistic") / "digits"
    make_digits(folder, seed=3, classification=(80, 0, 40), scenes=(40, 20, 40))
    return folder


@pytest.fixture
def digits(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    return root


def run(output: Path, *words: str, config: str = "logistic.yaml") -> int:
    command = ["--config", config, "--weights", "random", "--output", str(output)]
    return main([*command, *SMALL, *words])


def test_mean_per_class_is_scikit_learns_balanced_accuracy() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 3], size=50, p=[0.7, 0.2, 0.1])  # no image of class 2
    scores = torch.from_numpy(rng.normal(size=(50, 4)))
    predicted = scores.argmax(dim=1).numpy()
    wanted = np.mean([(predicted[labels == c] == c).mean() for c in (0, 1, 3)])
    with pytest.warns(UserWarning):  # a class that was predicted only
        assert wanted == pytest.approx(balanced_accuracy_score(labels, predicted))
    targets = torch.from_numpy(labels)
    assert judge(scores, targets, "mean_per_class") == pytest.approx(100 * wanted)
    assert mean_per_class(scores.argmax(dim=1) == targets, targets) == pytest.approx(100 * wanted)
    assert judge(scores, targets, "top1") == pytest.approx(100 * (predicted == labels).mean())


def test_eleven_point_ap_by_its_definition() -> None:
    """VOC2007's devkit: the mean, over 11 recalls, of the best precision at that recall or more."""
    rng = np.random.default_rng(1)
    scores, targets = rng.normal(size=(40, 3)), rng.integers(-1, 2, (40, 3))
    found = average_precisions(scores, targets)
    for c in range(3):
        ranked = [row for row in np.argsort(-scores[:, c]) if targets[row, c] != -1]
        right = [targets[row, c] == 1 for row in ranked]
        precision = [sum(right[: n + 1]) / (n + 1) for n in range(len(right))]
        recall = [sum(right[: n + 1]) / sum(right) for n in range(len(right))]
        best = [
            max((p for p, r in zip(precision, recall) if r >= level / 10 - 1e-12), default=0)
            for level in range(11)
        ]
        assert found[c] == pytest.approx(100 * sum(best) / 11)


def test_replicates_are_the_metric_on_copies_of_images() -> None:
    rng = np.random.default_rng(2)
    labels, right = rng.integers(0, 3, 30), rng.random(30) < 0.5
    scores, targets = rng.normal(size=(30, 2)), rng.integers(-1, 2, (30, 2))
    outcomes = Outcomes(by_class={"m": (right, labels)}, ranked_11point={"v": (scores, targets)})
    metrics = {
        "m": mean_per_class(torch.from_numpy(right), torch.from_numpy(labels)),
        "v": float(average_precisions(scores, targets).mean()),
    }
    names = [f"{row:02d}" for row in range(30)]
    found = draw_replicates(outcomes, names, metrics, 5)
    assert found is not None and found.full == pytest.approx(metrics)
    for draw in range(1, 6):
        rows = np.repeat(np.arange(30), found.weights[:, draw])
        copies = (torch.from_numpy(right[rows]), torch.from_numpy(labels[rows]))
        assert found.values["m"][draw - 1] == pytest.approx(mean_per_class(*copies))


def test_the_penalty_is_chosen_on_held_out_images_and_all_trials_agree(
    digits: Path, tmp_path: Path
) -> None:
    write_weights(random_weights("tiny_resnet", 0), tmp_path / "w.pth")
    words = [*FOLDERS, "LOGISTIC.STEPS", "5", "LOGISTIC.METRIC", "mean_per_class"]
    command = ["--config", "logistic.yaml", "--weights", str(tmp_path / "w.pth"), "--trials", "2"]
    assert main([*command, "--output", str(tmp_path), *SMALL, *words]) == 0
    record = read_record(tmp_path / "trial_0/record.json")
    assert record["task"] == "logistic" and list(record["metrics"])[0] == "mean_per_class"
    value, classes = record["metrics"]["mean_per_class"], record["per_class"]["mean_per_class"]
    assert value == pytest.approx(np.mean(list(classes.values())))
    notes = json.loads((tmp_path / "trial_0/selection.json").read_text())
    judged = notes["validation_mean_per_class"]
    assert len(judged) == 5 and f"{notes['penalty']:g}" in judged
    assert judged[f"{notes['penalty']:g}"] == max(judged.values())
    assert notes["final_fit"]["converged"] and notes["not_converged"] == []
    assert "logistic" in DETERMINISTIC_TASKS
    records = [read_record(tmp_path / f"trial_{trial}/record.json") for trial in (0, 1)]
    assert records[0]["seed"] != records[1]["seed"]
    assert records[0]["metrics"] == records[1]["metrics"]


def test_fits_that_do_not_converge_are_warned_of(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, *FOLDERS, "LOGISTIC.STEPS", "3", "LOGISTIC.MAX_ITER", "2") == 0
    said = capsys.readouterr().err
    assert "fits have not converged after LOGISTIC.MAX_ITER 2 evaluations" in said
    notes = json.loads((tmp_path / "trial_0/selection.json").read_text())
    assert notes["not_converged"][0] == "1e-06"


def test_several_labels_per_image(digits: Path, tmp_path: Path) -> None:
    """Objects of a VOC folder; the validation set is named, and has to be a part."""
    words = "DATASETS.TRAIN voc:digits_voc:train DATASETS.TEST voc:digits_voc:test"
    words += " PROTOCOL.RESIZE 64 PROTOCOL.IMAGE_SIZE 64 LOGISTIC.METRIC mAP_11point"
    words += " LOGISTIC.STEPS 3 LOGISTIC.VAL voc:digits_voc:part"
    lists = digits / "digits_voc/ImageSets/Main"
    names = (lists / "train.txt").read_text().split()
    (lists / "part.txt").write_text("\n".join(names[::3]) + "\n")
    assert run(tmp_path, *words.split()) == 0
    record = read_record(tmp_path / "trial_0/record.json")
    found = record["per_class"]["mAP_11point"]
    assert record["metrics"]["mAP_11point"] == pytest.approx(np.mean(list(found.values())))


BAD = [
    ("LOGISTIC.METRIC top2", "unknown metric 'top2' in LOGISTIC.METRIC"),
    ("LOGISTIC.METRIC mAP_11point", "mAP_11point needs a validation set: set LOGISTIC.VAL"),
    ("LOGISTIC.LEAST 0.0", "LOGISTIC.LEAST 0.0 and LOGISTIC.MOST 100000.0 must be penalties"),
    ("LOGISTIC.LEAST 1.0 LOGISTIC.MOST 0.5", "the smaller one first"),
    ("LOGISTIC.STEPS 0", "LOGISTIC.STEPS 0"),
    ("LOGISTIC.MAX_ITER 0", "LOGISTIC.MAX_ITER 0"),
    ("LOGISTIC.TOLERANCE 0.0", "LOGISTIC.TOLERANCE 0.0 must be above 0"),
    ("LOGISTIC.HOLDOUT 1.0", "LOGISTIC.HOLDOUT 1.0 must be between 0 and 1"),
    (
        "DATASETS.LIMIT_PER_CLASS 1",
        "is left for choosing the penalty; add images of this class, or set LOGISTIC.VAL",
    ),
    ("LOGISTIC.VAL folder:digits_cls:test", "must be a part of DATASETS.TRAIN"),
    ("LOGISTIC.VAL folder:digits_cls:train", "all of its images are in it"),
]


@pytest.mark.parametrize("words, said", BAD)
def test_bad_values_name_their_key(
    words: str, said: str, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "out", *FOLDERS, *words.split()) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and said in line
    assert not (tmp_path / "out/trial_0").exists()
