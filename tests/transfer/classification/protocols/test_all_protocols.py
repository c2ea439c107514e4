"""Every shipped config is checked and scored by its protocol; bad input names its key."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from pretrain.common.config import CHECKOUT, load_config
from pretrain.digits.dataset import make_digits
from tools.train_cls import main
from transfer.classification.defaults import READS, get_defaults, reads
from transfer.classification.protocols.all_protocols import PROTOCOLS, ROWS
from transfer.classification.protocols.protocol import OfTrainedHead, OnFeatures

CONFIGS = sorted((CHECKOUT / "configs/classification").glob("*.yaml"))
SMALL = (
    "BACKBONE.NAME tiny_resnet DATALOADER.NUM_WORKERS 0 DATALOADER.BATCH_SIZE 32 REPLICATES 10 "
    "QUALITY.IMAGES 4 PROTOCOL.RESIZE 32 PROTOCOL.IMAGE_SIZE 32 DATASETS.LIMIT_PER_CLASS 4 "
    "DATASETS.TRAIN folder:digits_cls:train DATASETS.TEST folder:digits_cls:test"
).split()
SHORT = {
    "knn": "PROTOCOL.K (1,3)",
    "linear": "SOLVER.EPOCHS 2",
    "logistic": (
        "DATASETS.TRAIN folder:digits_cls:train LOGISTIC.STEPS 2 LOGISTIC.VAL '' "
        "LOGISTIC.HOLDOUT 0.2 LOGISTIC.METRIC mean_per_class"
    ),
    "robustness": "HEAD.RUN {root}/head",
    "kshot": "KSHOT.SHOTS (1,2)",
    "svm": (
        "DATASETS.TRAIN voc:digits_voc:train DATASETS.TEST voc:digits_voc:test "
        "DATASETS.LIMIT_PER_CLASS 0 SVM.COSTS (1.0,) "
        "SVM.FOLDS 2 SVM.SHOTS (1,) PROTOCOL.RESIZE 64 PROTOCOL.IMAGE_SIZE 64"
    ),
    "train_on_crops": (
        "SOLVER.EPOCHS 2 SOLVER.BATCH_SIZE 16 SOLVER.LR_PER_256 (0.1,) TRAIN.SPLIT_LIST '' "
        "TRAIN.SPLIT_LINES 0 TRAIN.WARMUP_EPOCHS 0 TRAIN.MILESTONES (1,) TRAIN.NORM_BATCH 0"
    ),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("protocols") / "digits"
    make_digits(folder, seed=2, classification=(60, 0, 30), scenes=(40, 0, 40))
    _train_head(folder)
    (folder / "one/train/a").mkdir(parents=True)
    image = next((folder / "digits_cls/train").rglob("*.png"))
    (folder / "one/train/a/0.png").write_bytes(image.read_bytes())
    return folder


def _train_head(folder: Path) -> None:
    """A run of `linear`, whose head `robustness` scores."""
    words = ["--config", "linear.yaml", "--weights", "random", "--output", str(folder / "head")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(folder))
        assert main([*words, *SMALL, *SHORT["linear"].split()]) == 0


@pytest.fixture
def digits(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    return root


def words_for(config: str) -> list[str]:
    """The overrides that make a shipped config small."""
    name = load_config(config, get_defaults()).PROTOCOL.NAME
    row = PROTOCOLS[name].check.__module__.rpartition(".")[2]
    short = SHORT[row].format(root=os.environ.get("DETECTRON2_DATASETS", ""))
    return [*SMALL, *(word.strip("'") for word in short.split())]


def test_the_table_and_the_keys_name_the_same_protocols() -> None:
    assert len(ROWS) == 7 and set(PROTOCOLS) == set(READS)
    cfg = get_defaults()
    for name, row in PROTOCOLS.items():
        cfg.PROTOCOL.NAME = name
        assert reads(cfg, "FEATURES") == isinstance(row, (OnFeatures, OfTrainedHead))
        assert reads(cfg, "TRAIN") != reads(cfg, "FEATURES")
    assert sum(len(row.names) for row in ROWS) == len(PROTOCOLS), "a name in two rows"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_scored_by_its_row(path: Path, digits: Path, tmp_path: Path) -> None:
    words = ["--config", str(path), "--weights", "random", "--output", str(tmp_path)]
    assert main([*words, *words_for(str(path))]) == 0
    record = json.loads((tmp_path / "trial_0/record.json").read_text())
    assert record["task"] in PROTOCOLS and record["protocol"]["name"] == path.stem
    scores = {k: v for k, v in record["metrics"].items() if not k.startswith("features/")}
    assert scores and all(0 <= value <= 100 for value in scores.values())
    on_features = isinstance(PROTOCOLS[record["task"]], OnFeatures)
    assert on_features == ("features/rank" in record["metrics"])
    assert all(math.isfinite(value) for value in record["metrics"].values())


BAD = [
    ("knn.yaml", "PROTOCOL.K (500,)", "PROTOCOL.K asks for 500 neighbours"),
    ("knn.yaml", "PROTOCOL.K ()", "PROTOCOL.K () must list"),
    ("knn.yaml", "PROTOCOL.K (0,)", "PROTOCOL.K (0,) must list"),
    ("knn.yaml", "PROTOCOL.K (1.5,)", "PROTOCOL.K must be a list of whole numbers"),
    ("knn.yaml", "PROTOCOL.TEMPERATURE 0.0", "PROTOCOL.TEMPERATURE 0.0"),
    ("knn.yaml", "KNN.MORE_TEMPERATURES (-1.0,)", "KNN.MORE_TEMPERATURES -1.0"),
    ("knn.yaml", "PROTOCOL.IMAGE_SIZE 64", "PROTOCOL.IMAGE_SIZE 64"),
    ("knn.yaml", "PROTOCOL.NAME nn", "PROTOCOL.NAME"),
    ("knn.yaml", "QUALITY.IMAGES -1", "QUALITY.IMAGES -1"),
    ("knn.yaml", "REPLICATES -1", "REPLICATES"),
    ("kshot.yaml", "SEED -1", "SEED -1"),
    ("knn.yaml", "DATASETS.TEST_LIMIT_PER_CLASS -1", "DATASETS.TEST_LIMIT_PER_CLASS -1"),
    ("knn.yaml", "DATASETS.TRAIN folder:one:train", "has only one class"),
    ("knn.yaml", "DATASETS.TEST folder:digits_cls:val2", "digits_cls/val2"),
    ("linear.yaml", "SOLVER.LR_PER_256 ()", "SOLVER.LR_PER_256 ()"),
    ("linear.yaml", "SOLVER.LR_PER_256 (-0.1,)", "SOLVER.LR_PER_256 (-0.1,)"),
    ("linear.yaml", "SOLVER.EPOCHS 0", "SOLVER.EPOCHS"),
    ("linear.yaml", "SOLVER.MOMENTUM 1.0", "SOLVER.MOMENTUM 1.0"),
    ("linear.yaml", "SOLVER.WEIGHT_DECAY -1.0", "SOLVER.WEIGHT_DECAY -1.0"),
    ("linear.yaml", "PROTOCOL.HOLDOUT 1.0", "PROTOCOL.HOLDOUT 1.0"),
    ("linear.yaml", "DATASETS.LIMIT_PER_CLASS 1", "has one training image"),
    ("kshot.yaml", "KSHOT.SHOTS (500,)", "KSHOT.SHOTS 500: class '0' has 4"),
    ("kshot.yaml", "KSHOT.SHOTS ()", "KSHOT.SHOTS () must list"),
    ("kshot.yaml", "KSHOT.SHOTS (1.5,)", "KSHOT.SHOTS must be a list of whole numbers"),
    ("kshot.yaml", "KSHOT.PENALTY -1.0", "KSHOT.PENALTY -1.0"),
    ("svm_voc07.yaml", "SVM.COSTS ()", "SVM.COSTS ()"),
    ("svm_voc07.yaml", "SVM.COSTS (-1.0,)", "SVM.COSTS (-1.0,)"),
    ("svm_voc07.yaml", "SVM.FOLDS 1", "SVM.FOLDS 1 must be 2 or more"),
    ("svm_voc07.yaml", "SVM.FOLDS 39", "the 39 folds of SVM.FOLDS"),
    ("svm_voc07.yaml", "SVM.MAX_ITER 0", "SVM.MAX_ITER 0"),
    ("svm_voc07.yaml", "SVM.WINDOW -1", "SVM.WINDOW -1"),
    ("svm_voc07.yaml", "DATASETS.TEST ''", "DATASETS.TEST is empty"),
    ("svm_voc07_lowshot.yaml", "SVM.SHOTS ()", "SVM.SHOTS () must list"),
    ("svm_voc07_lowshot.yaml", "SVM.SHOTS (0,)", "SVM.SHOTS (0,) must list"),
    ("svm_voc07_lowshot.yaml", "SVM.SHOTS (39,)", "SVM.SHOTS 39: class"),
    ("linear_crops.yaml", "PROTOCOL.GRAY True", "PROTOCOL.GRAY True is only for protocols"),
    ("linear_crops.yaml", "SOLVER.LR_PER_256 ()", "SOLVER.LR_PER_256 ()"),
    ("linear_crops.yaml", "SOLVER.BATCH_SIZE 0", "SOLVER.BATCH_SIZE"),
    ("linear_crops.yaml", "SOLVER.BATCH_SIZE 400 TRAIN.DROP_LAST True", "SOLVER.BATCH_SIZE 400"),
    ("linear_crops.yaml", "TRAIN.FLIP_PROB 2.0", "TRAIN.FLIP_PROB 2.0"),
    ("linear_crops.yaml", "TRAIN.CROP_SCALE (0.5,)", "TRAIN.CROP_SCALE (0.5,)"),
    ("linear_crops.yaml", "TRAIN.CROP_SCALE (0.9,0.1)", "TRAIN.CROP_SCALE (0.9, 0.1)"),
    ("linear_crops.yaml", "TRAIN.GAMMA -1.0", "TRAIN.GAMMA -1.0"),
    ("linear_crops.yaml", "TRAIN.HEAD mlp", "TRAIN.HEAD"),
    ("linear_crops.yaml", "TRAIN.NORM_BATCH 1", "TRAIN.NORM_BATCH"),
    ("finetune_folder.yaml", "TRAIN.BACKBONE_LR_RATIO 0.0", "TRAIN.BACKBONE_LR_RATIO 0.0"),
    ("finetune_folder.yaml", "TRAIN.SPLIT_LIST nowhere.txt", "nowhere.txt"),
]


@pytest.mark.parametrize("config, words, said", BAD, ids=lambda value: str(value))
def test_bad_input_is_one_line_that_names_the_key(
    config: str,
    words: str,
    said: str,
    digits: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    options = ["--config", config, "--weights", "random", "--output", str(tmp_path / "out")]
    overrides = [word.strip("'") for word in words.split()]
    assert main([*options, *words_for(config), *overrides]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1], lines
    assert lines[-1].startswith("error: ") and not any("Traceback" in line for line in lines)
    assert not (tmp_path / "out/trial_0").exists(), "refused before anything was computed"
