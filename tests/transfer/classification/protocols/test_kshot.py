"""k-shot logistic regression: the optimum by a different solver, the draws, and a complete run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.common.errors import InputError
from pretrain.digits.dataset import make_digits
from tools.train_cls import main
from transfer.classification.protocols.kshot import draw_shots, fit_and_predict, standardize_rows

SMALL = (
    "PROTOCOL.RESIZE 32 PROTOCOL.IMAGE_SIZE 32 BACKBONE.NAME tiny_resnet DATALOADER.NUM_WORKERS 0 "
    "DATASETS.TRAIN folder:digits_cls:train DATASETS.TEST folder:digits_cls:test"
).split()


def test_rows() -> None:
    rows = standardize_rows(np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]))
    assert rows[0] == pytest.approx([-(0.5**0.5), 0, 0.5**0.5]) and not rows[1].any()


@pytest.mark.parametrize("classes, penalty", [(2, 0.1), (4, 0.1), (4, 0.01)])
def test_against_the_objective_written_out(classes: int, penalty: float) -> None:
    """sum of cross-entropies + penalty / 2 |W|^2, minimised by torch's L-BFGS in float64."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), 5)
    values = rng.normal(size=(len(labels), 8)) + labels[:, None] * rng.normal(size=8)
    test = rng.normal(size=(7, 8))
    x, y = torch.tensor(standardize_rows(values)), torch.tensor(labels)
    weight = torch.zeros(classes, 8, dtype=torch.float64, requires_grad=True)
    options = {"max_iter": 500, "tolerance_grad": 1e-12, "line_search_fn": "strong_wolfe"}
    solver = torch.optim.LBFGS([weight], **options)

    def closure() -> torch.Tensor:
        solver.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ weight.T, y, reduction="sum")
        loss = loss + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    expected = (torch.tensor(standardize_rows(test)) @ weight.T).detach().numpy()
    found = fit_and_predict(values, labels, test, penalty)
    assert np.array_equal(found.argmax(axis=1), expected.argmax(axis=1))
    if classes > 2:  # scikit-learn has one weight vector for two classes
        assert np.allclose(found, expected, atol=2e-3)


def test_draws_are_nested_and_seeded() -> None:
    labels = np.random.default_rng(0).integers(0, 5, size=200)
    five = draw_shots(labels, 5, seed=3).reshape(5, 5)
    assert all((labels[row] == c).all() for c, row in enumerate(five))
    assert np.array_equal(draw_shots(labels, 2, seed=3).reshape(5, 2), five[:, :2])
    assert not np.array_equal(draw_shots(labels, 5, seed=4).reshape(5, 5), five)
    assert len(set(five.ravel())) == 25
    with pytest.raises(InputError, match="KSHOT.SHOTS 90: class 0"):
        draw_shots(labels, 90, seed=0)


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_digits(tmp_path / "data", classification=(200, 0, 60), scenes=(0, 0, 0))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))


def test_trials_read_what_they_draw(
    digits: None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "run"
    command = ["--config", "kshot_imagenet.yaml", "--weights", "random", "--output", str(output)]
    assert main([*command, "--trials", "3", *SMALL]) == 0
    records = [json.loads((output / f"trial_{t}" / "record.json").read_text()) for t in range(3)]
    accuracies = {name for name in records[0]["metrics"] if not name.startswith("features/")}
    assert accuracies == {"shots1_top1", "shots2_top1", "shots5_top1"}
    assert records[0]["task"] == "kshot"
    spreads = []
    for name in ("shots1_top1", "shots5_top1"):  # the headlines of the task, shots2 is none
        values = [record["metrics"][name] for record in records]
        spreads.append(f"{name} {np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"mean ± sample standard deviation of 3 trials: {', '.join(spreads)}"
    crops = 2 * 60  # of the test images, for features/alignment
    drawn = records[0]["views_seen"] - crops
    assert 110 <= drawn <= 150 + 60  # what three draws of 50 have in all
    picked = [json.loads((output / f"trial_{t}" / "selection.json").read_text()) for t in range(3)]
    assert len(picked[0]["shots5"]) == 50 and picked[0] != picked[1]


def test_bad_input(digits: None, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["--config", "kshot_imagenet.yaml", "--weights", "random", "--output"]
    for words, message in (
        (("KSHOT.SHOTS", "(500,)"), "KSHOT.SHOTS 500: class '0' has 20"),
        (("KSHOT.SHOTS", "(0,)"), "KSHOT.SHOTS (0,) must list"),
        (("KSHOT.PENALTY", "0.0"), "KSHOT.PENALTY 0.0"),
    ):
        assert main([*command, str(tmp_path / "x"), *SMALL, *words]) == 2
        assert message in capsys.readouterr().err
