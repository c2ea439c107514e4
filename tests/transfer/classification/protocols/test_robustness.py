"""A trained head on further test sets, against the run that trained it and slow loops over images.

`linear` is run once; its features and its head are then used here without the protocol's code.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.common.errors import InputError
from pretrain.data.robustness_sets import CORRUPTIONS, SEVERITIES
from pretrain.digits.dataset import make_digits
from tests.transfer.classification.slow_features import features
from tools.report import main as report
from tools.train_cls import main
from transfer.classification.protocols.robustness import (
    head_hits,
    mean_corruption_error,
    numbered,
)
from transfer.classification.trained_head import TrainedHead

WORDS = (
    "BACKBONE.NAME tiny_resnet DATALOADER.NUM_WORKERS 0 DATALOADER.BATCH_SIZE 32 REPLICATES 10 "
    "QUALITY.IMAGES 0 PROTOCOL.RESIZE 32 PROTOCOL.IMAGE_SIZE 32 DATASETS.TRAIN "
    "folder:digits_cls:train"
).split()
TEST = "DATASETS.TEST folder:digits_cls:test".split()
WORDNET = [f"n{100 + 7 * number:08d}" for number in range(12)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, and a run `head` of two trials on them."""
    root = tmp_path_factory.mktemp("robustness")
    make_digits(root, seed=2, classification=(60, 0, 40), scenes=(1, 0, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(root))
        words = ["--config", "linear.yaml", "--weights", "random", "--output", str(root / "head")]
        epochs = ["SOLVER.EPOCHS", "5", "SOLVER.LR_PER_256", "(1.0,)"]
        assert main([*words, "--trials", "2", *WORDS, *TEST, *epochs]) == 0
    return root


@pytest.fixture
def root(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(trained))
    return trained


def run(root: Path, output: Path, *words: str, trials: int = 1) -> int:
    given = ["--config", "robustness.yaml", "--weights", "random", "--output", str(output)]
    return main([*given, "--trials", str(trials), *WORDS, "HEAD.RUN", str(root / "head"), *words])


def record(folder: Path, trial: int = 0) -> dict[str, Any]:
    return json.loads((folder / f"trial_{trial}/record.json").read_text())


def names_and_numbers(root: Path, names: list[str]) -> None:
    """Twelve classes of one colour each, below `names`, and the same images below V2's numbers."""
    rng = np.random.default_rng(5)
    for number, name in enumerate(names):
        for split, count in (("train", 12), ("test", 6)):
            for image in range(count):
                pixels = rng.normal(20 * number, 30, (32, 32, 3)).clip(0, 255).astype(np.uint8)
                folders = [root / split / name]
                if split == "test":
                    folders.append(root / f"imagenetv2-top-images/{number}")
                for folder in folders:
                    folder.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(folder / f"{image}.png")


def train_on_colours(root: Path, names: list[str]) -> list[str]:
    """Writes the images of `names_and_numbers` and runs `head` on them; returns their data keys."""
    names_and_numbers(root, names)
    data = ["DATASETS.TRAIN", f"folder:{root}:train", "DATASETS.TEST", f"folder:{root}:test"]
    words = ["--config", "linear.yaml", "--weights", "random", "--output", str(root / "head")]
    steps = ["SOLVER.EPOCHS", "5", "SOLVER.LR_PER_256", "(1.0,)"]
    assert main([*words, *WORDS, *data, *steps]) == 0
    return data


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head that is right about half of its test images: of digits, few are right by chance."""
    root = tmp_path_factory.mktemp("colours")
    train_on_colours(root, WORDNET)
    assert 30 < record(root / "head")["metrics"]["top1"] < 90
    return root


def run_on_colours(root: Path, output: Path, test: str, *words: str) -> int:
    sets = ["DATASETS.TRAIN", f"folder:{root}:train", "DATASETS.TEST", test]
    return run(root, output, *sets, *words)


def test_the_heads_own_test_set_gives_its_own_result(root: Path, tmp_path: Path) -> None:
    """Bit for bit: the same images are right, so the replicates are equal too."""
    assert run(root, tmp_path / "out", *TEST, trials=2) == 0
    for trial in range(2):
        ours, its = record(tmp_path / "out", trial), record(root / "head", trial)
        for key in ("metrics", "per_class"):
            assert ours[key] == its[key]
        replicates = f"trial_{trial}/replicates.json"
        assert (tmp_path / "out" / replicates).read_text() == (
            root / "head" / replicates
        ).read_text()
        assert ours["task"] == "robustness" and its["task"] == "linear"
        assert ours["protocol"]["config_sha256"] != its["protocol"]["config_sha256"]
        assert ours["views_seen"] == 40
    assert record(root / "head", 0)["metrics"] != record(root / "head", 1)["metrics"]


@pytest.mark.parametrize("kind", ["linear", "batchnorm_linear"])
def test_a_head_that_was_trained_on_random_crops(root: Path, tmp_path: Path, kind: str) -> None:
    """Its own test set gives its own result; a batch norm before the head is part of it."""
    train = ["--config", "linear_imagenet_mae.yaml", "--weights", "random"]
    train += ["--output", str(tmp_path / "head"), *WORDS, *TEST]
    train += ["TRAIN.HEAD", kind, "SOLVER.BATCH_SIZE", "20", "SOLVER.EPOCHS", "8", "TRAIN.SYNC_BN"]
    train += [
        "False",
        "TRAIN.WARMUP_EPOCHS",
        "1",
        "SOLVER.LR_PER_256",
        "(1.0,)",
    ]
    assert main(train) == 0
    words = [*TEST, "PROTOCOL.INTERPOLATION", "bicubic", "HEAD.RUN", str(tmp_path / "head")]
    assert run(root, tmp_path / "out", *words) == 0
    ours, its = record(tmp_path / "out"), record(tmp_path / "head")
    for key in ("top1", "top5"):
        assert ours["metrics"][key] == its["metrics"][key]
    assert ours["per_class"] == its["per_class"] and its["task"] == "linear_crops"
    head = TrainedHead.read(tmp_path / "head/trial_0/head.pth")
    assert (kind == "linear") == bool((head.mean == 0).all() and (head.scale == 1).all())


def test_it_is_never_in_the_column_of_linear(root: Path, tmp_path: Path) -> None:
    """On the same data set, with the same weights: two columns, each with its own value."""
    assert run(root, tmp_path / "out", *TEST) == 0
    folders = [str(root / "head"), str(tmp_path / "out")]
    assert report([*folders, "--output", str(tmp_path / "report")]) == 0
    with (tmp_path / "report/report.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "top1"]
    assert sorted((row["task"], row["n"]) for row in rows) == [("linear", "2"), ("robustness", "1")]


def test_only_present_classes_can_be_predicted(colours: Path, tmp_path: Path) -> None:
    """Four of twelve classes, as ImageNet-R's 200 of 1,000; a loop over images is the reference."""
    present, folder = [1, 4, 5, 6], tmp_path / "imagenet-r"
    for place in present:
        shutil.copytree(colours / "test" / WORDNET[place], folder / WORDNET[place])
    assert run_on_colours(colours, tmp_path / "all", f"folder:{folder}") == 2
    words = ["HEAD.CLASSES", "present"]
    assert run_on_colours(colours, tmp_path / "out", f"folder:{folder}", *words) == 0
    found = record(tmp_path / "out")
    assert list(found["metrics"]) == ["top1"], "top-5 of four classes says nothing"
    per_class = found["per_class"]["top1"]
    assert [WORDNET.index(name) for name, v in per_class.items() if v is not None] == present
    head, right, among_all = TrainedHead.read(colours / "head/trial_0/head.pth"), [], []
    for path in sorted(folder.rglob("*.png")):
        row = features([np.asarray(Image.open(path))], side=32)
        logits = head.logits(torch.from_numpy(row).float())[0]
        best = max(present, key=lambda place: float(logits[place]))
        right.append(WORDNET[best] == path.parent.name)
        among_all.append(WORDNET[int(logits.argmax())] == path.parent.name)
    assert found["metrics"]["top1"] == pytest.approx(100 * sum(right) / len(right))
    assert sum(right) > sum(among_all) > 0, "the other classes would have won sometimes"


def test_hits_equal_a_loop_over_images() -> None:
    generator = torch.Generator().manual_seed(3)
    draw = [torch.randn(*shape, generator=generator) for shape in ((6, 12), (12,), (6,), (6,))]
    head = TrainedHead(*draw, tuple(f"c{n}" for n in range(12)))
    features = torch.randn(50, 6, generator=generator)
    for columns in (None, torch.tensor([0, 2, 3, 5, 7, 8, 11])):
        allowed = list(range(12)) if columns is None else columns.tolist()
        picks = torch.randint(len(allowed), (50,), generator=generator).tolist()
        labels = [allowed[pick] for pick in picks]
        found = head_hits(head, features, torch.tensor(labels), columns)
        for x, label, (top1, top5) in zip(features, labels, found.tolist()):
            scores = {
                c: float(((x - head.mean) * head.scale * head.weight[:, c]).sum() + head.bias[c])
                for c in allowed
            }
            order = sorted(scores, key=lambda c: -scores[c])
            assert (top1, top5) == (order[0] == label, label in order[:5])


def test_v2s_folder_names_are_numbers_of_the_classes(root: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in (root / "digits_cls/test").iterdir())
    folder = root / "imagenetv2-top-images"
    for number, name in enumerate(names):
        shutil.copytree(root / "digits_cls/test" / name, folder / str(number))
    try:
        assert run(root, tmp_path / "out", "DATASETS.TEST", "imagenet_v2:top-images") == 0
        assert record(tmp_path / "out")["metrics"] == record(root / "head")["metrics"]
        shutil.rmtree(folder / "9")
        assert run(root, tmp_path / "less", "DATASETS.TEST", "imagenet_v2:top-images") == 2
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "names",
    [WORDNET, [str(number) for number in range(12)]],
    ids=["WordNet ids", "numbers"],
)
def test_v2s_numbers_among_classes_in_the_order_of_texts(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve classes notice it: as texts, 10 and 11 come before 2, in a head's classes too."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    train_on_colours(tmp_path, names)
    assert run_on_colours(tmp_path, tmp_path / "v2", "imagenet_v2:top-images") == 0
    ours, its = record(tmp_path / "v2"), record(tmp_path / "head")
    assert ours["metrics"] == its["metrics"] and ours["per_class"] == its["per_class"]
    assert its["metrics"]["top1"] > 30, "wrong labels would be seen"


def test_v2_needs_a_head_whose_classes_have_an_order() -> None:
    """Names in a language are not in the order of WordNet's ids."""
    numbers = [str(number) for number in range(3)]
    assert numbered("v2", numbers, ["n00000005", "n00000001", "n00000003"]) == (
        "n00000001",
        "n00000003",
        "n00000005",
    )
    assert numbered("v2", numbers, ["2", "0", "1"]) == ("0", "1", "2")
    with pytest.raises(InputError, match="the head's classes are not such ids .'goldfish'.; train"):
        numbered("v2", numbers, ["n00000005", "goldfish", "tench"])


def test_corruptions(colours: Path, tmp_path: Path) -> None:
    """Each severity's accuracy is that of a run on its images alone, also if one has fewer of them;
    a corruption has the mean of its severities, and top1 is the mean of the corruptions.
    """
    images = sorted((colours / "test").rglob("*.png"))
    for name, shift in (("bright", 25), ("none", 0)):
        for severity in ("1", "2"):
            for path in images[:: 1 + (name == "bright" and severity == "2")]:
                to = tmp_path / "set" / name / severity / path.parent.name / path.name
                to.parent.mkdir(parents=True, exist_ok=True)
                Image.open(path).point(lambda v: v + shift * int(severity)).save(to)
    assert run_on_colours(colours, tmp_path / "out", f"corrupted:{tmp_path / 'set'}") == 0
    metrics = record(tmp_path / "out")["metrics"]
    assert set(metrics) == {"top1", "bright_top1", "none_top1"}, "mCE is only of ImageNet-C"
    alone = []
    for severity in ("1", "2"):
        data = f"folder:{tmp_path / 'set/bright'}:{severity}"
        assert run_on_colours(colours, tmp_path / severity, data) == 0
        alone.append(record(tmp_path / severity)["metrics"]["top1"])
    assert metrics["bright_top1"] == pytest.approx(sum(alone) / 2) and alone[0] != alone[1]
    assert metrics["none_top1"] == record(colours / "head")["metrics"]["top1"] != alone[0]
    assert metrics["top1"] == pytest.approx((metrics["bright_top1"] + metrics["none_top1"]) / 2)


def test_imagenet_c_has_mce(colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(colours))
    folder = colours / "imagenet-c"
    images = sorted((colours / "test").rglob("*.png"))
    chosen = {path.parent.name: path for path in images}
    try:
        for number, name in enumerate(CORRUPTIONS):
            for severity in SEVERITIES:
                for kind, path in chosen.items():
                    to = folder / name / severity / kind / "0.png"
                    to.parent.mkdir(parents=True, exist_ok=True)
                    Image.open(path).point(lambda v, n=number: v * (15 - n) // 15).save(to)
        assert run_on_colours(colours, tmp_path / "out", "imagenet_c:test") == 0
    finally:
        shutil.rmtree(folder)
    metrics = record(tmp_path / "out")["metrics"]
    top1 = {name: metrics[f"{name}_top1"] for name in CORRUPTIONS}
    assert metrics["mCE"] == pytest.approx(mean_corruption_error(top1))
    assert len(set(top1.values())) > 3, "corruptions that differ"
    assert report([str(tmp_path / "out"), "--output", str(tmp_path / "report")]) == 0


def test_mean_corruption_error() -> None:
    """AlexNet itself has 100. Table 1 of arXiv 1903.12261 has its errors, rounded."""
    alexnet = {name: 100 - error for name, (_, error) in CORRUPTIONS.items()}
    assert mean_corruption_error(alexnet) == pytest.approx(100)
    assert mean_corruption_error(dict.fromkeys(CORRUPTIONS, 100.0)) == 0
    half = {name: 100 - error / 2 for name, (_, error) in CORRUPTIONS.items()}
    assert mean_corruption_error({**alexnet, "fog": half["fog"]}) == pytest.approx(100 - 50 / 15)
    table = [88.6, 89.4, 92.3, 82.0, 82.6, 78.6, 79.8, 86.7, 82.7, 81.9, 56.5, 85.3, 64.6]
    table += [71.8, 60.7]
    assert [error for _, error in CORRUPTIONS.values()] == pytest.approx(table, abs=0.051)


def test_a_file_that_is_not_a_head(tmp_path: Path) -> None:
    head = TrainedHead(torch.ones(3, 2), torch.ones(2), torch.zeros(3), torch.ones(3), ("a", "b"))
    again = TrainedHead.read(head.write(tmp_path))
    assert torch.equal(again.weight, head.weight) and again.classes == head.classes
    bad = {"weight": torch.ones(2, 3), "bias": torch.ones(3, 1), "classes": ["a", "a"]}
    for key, value in bad.items():
        content = {**vars(head), "classes": ["a", "b"], key: value}
        torch.save(content, tmp_path / "bad.pth")
        with pytest.raises(InputError, match="does not contain the head of a linear probe"):
            TrainedHead.read(tmp_path / "bad.pth")


def test_bad_input_ends_in_a_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("0", "1"):
        shutil.copytree(root / "digits_cls/test" / name, tmp_path / "other" / name)
    (tmp_path / "other/1").rename(tmp_path / "other/x")
    shutil.copytree(root / "head", tmp_path / "old")
    old = record(tmp_path / "old")
    del old["artifacts"]["head"]
    (tmp_path / "old/trial_0/record.json").write_text(json.dumps(old))
    cases = {
        "HEAD.RUN is empty": ["HEAD.RUN", ""],
        "trial_0/record.json does not exist": ["HEAD.RUN", str(tmp_path / "no")],
        "has no trained head": ["HEAD.RUN", str(tmp_path / "old")],
        "PROTOCOL.IMAGE_SIZE is 16, but the head": ["PROTOCOL.IMAGE_SIZE", "16"],
        "DATASETS.TRAIN is folder:digits_cls:test": ["DATASETS.TRAIN", "folder:digits_cls:test"],
        "trained on different images": ["DATASETS.LIMIT_PER_CLASS", "3"],
        "that the head was not trained on": ["DATASETS.TEST", f"folder:{tmp_path / 'other'}"],
        "unknown choice of classes 'some'": ["HEAD.CLASSES", "some"],
        "not of random; give the weights": ["SEED", "7"],
    }
    for number, (words, overrides) in enumerate(cases.items()):
        assert run(root, tmp_path / f"out{number}", *TEST, *overrides) == 2, words
        lines = capsys.readouterr().err.strip().splitlines()
        assert words in lines[-1], lines[-1]
    three = ["--config", "robustness.yaml", "--weights", "random", "--output", str(tmp_path / "t")]
    head = ["HEAD.RUN", str(root / "head")]
    assert main([*three, "--trials", "3", *WORDS, *TEST, *head]) == 2
    assert "trial_2/record.json does not exist" in capsys.readouterr().err
