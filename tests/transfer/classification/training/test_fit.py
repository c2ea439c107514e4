"""Complete runs: resumed bit for bit, frozen exactly, stopped if the loss is not finite."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pretrain.common.errors import InputError
from pretrain.common.loggers import LOGGERS, Run, TensorBoardLogger
from pretrain.common.stop_signals import Stopped, heard
from pretrain.data.fingerprint import Fingerprint
from transfer.checkpoints.read import read_weights
from transfer.classification.crops import ImageTransform
from transfer.classification.training import fit as fit_module
from transfer.classification.training.fit import STATE_FILE, Progress, fit
from transfer.classification.training.images import TrainImages
from transfer.classification.training.loop import Trainer
from transfer.classification.training.optimizer_and_schedule import Recipe

from .conftest import SIZE, splits_of

TEST = ImageTransform(SIZE, SIZE)
LARC = Recipe(4, 8, optimizer="lars", lars="all", schedule="cosine", weight_decay=1e-3)


def run(
    pair: tuple[Trainer, TrainImages], folder: Path, images: Path, **more: Any
) -> tuple[Progress, Tensor]:
    trainer, batches = pair
    test = splits_of(images)[1]
    options = {"epochs": 4, "eval_period": 1, "resume": False, "facts": {"config": "a"}, **more}
    weights = read_weights("random", backbone="tiny_resnet", seed=0)
    options = {"frozen_state": weights.state, **options}
    return fit(
        trainer,
        batches,
        test=lambda: trainer.evaluate(test, TEST, 5, 0),
        state=folder,
        **options,
    )


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("step", [1, 3, 4, 7, 8])
def test_a_run_that_is_asked_to_end_goes_on_from_that_step(
    step: int, frozen: bool, make: Callable, folder: Path, tmp_path: Path
) -> None:
    """In the middle and at the last step of an epoch of 4 steps, also while it tests."""
    whole = make(LARC, 3.0, frozen=frozen)
    done, hits = run(whole, tmp_path / "whole", folder, eval_period=2)

    asked = make(LARC, 3.0, frozen=frozen)
    original, taken = asked[0].parts, []

    def parts(batch: Any) -> Any:
        taken.append(batch)
        if len(taken) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(batch)

    asked[0].parts = parts
    with heard(), pytest.raises(Stopped) as stopped:
        run(asked, tmp_path / "parts", folder, eval_period=2)
    assert stopped.value.status == 143 and len(taken) == step
    resumed = make(LARC, 3.0, frozen=frozen)
    again, again_hits = run(resumed, tmp_path / "parts", folder, eval_period=2, resume=True)
    for key, value in whole[0].model.state_dict().items():
        assert torch.equal(value, resumed[0].model.state_dict()[key]), key
    assert torch.equal(hits, again_hits) and again.before > 0
    assert (again.rows, again.best, again.views) == (done.rows, done.best, done.views)


class Killed(Exception):
    pass


@pytest.mark.parametrize("frozen", [True, False])
def test_a_resumed_run_equals_an_uninterrupted_one(
    frozen: bool, make: Callable, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(LARC, 3.0, frozen=frozen)
    done, hits = run(whole, tmp_path / "whole", folder)
    assert done.epochs == 4 and len(done.rows) == 4 and done.views == 4 * (30 + 12)

    killed = make(LARC, 3.0, frozen=frozen)
    original = Trainer.epoch

    def epoch(self: Trainer, images: TrainImages, number: int, epochs: int) -> dict[str, float]:
        if number == 2:
            next(images.epoch(number))  # in the middle of the third epoch
            raise Killed
        return original(self, images, number, epochs)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trainer, "epoch", epoch)
        run(killed, tmp_path / "parts", folder)
    resumed = make(LARC, 3.0, frozen=frozen)
    again, again_hits = run(resumed, tmp_path / "parts", folder, resume=True)
    for key, value in whole[0].model.state_dict().items():
        assert torch.equal(value, resumed[0].model.state_dict()[key]), key
    assert torch.equal(hits, again_hits) and again.before > 0
    assert (again.rows, again.best, again.views) == (done.rows, done.best, done.views)

    finished, third = run(make(LARC, 3.0, frozen=frozen), tmp_path / "parts", folder, resume=True)
    assert torch.equal(third, hits) and finished.rows == done.rows


def test_without_resume_it_starts_again_and_another_run_is_refused(
    make: Callable, folder: Path, tmp_path: Path
) -> None:
    run(make(LARC, 3.0), tmp_path, folder, epochs=1)
    again, _ = run(make(LARC, 3.0), tmp_path, folder, epochs=2)
    assert len(again.rows) == 2 and again.before == 0
    with pytest.raises(
        InputError, match=f"{STATE_FILE} was written by a different run .its config"
    ):
        run(make(LARC, 3.0), tmp_path, folder, facts={"config": "b"}, resume=True)
    (tmp_path / STATE_FILE).write_bytes(b"torn")
    run(make(LARC, 3.0), tmp_path, folder, resume=True, epochs=2)  # from the one before
    (tmp_path / STATE_FILE).write_bytes(b"torn")
    (tmp_path / "training.prev.pth").write_bytes(b"torn")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        run(make(LARC, 3.0), tmp_path, folder, resume=True)


def test_loggers_get_a_row_for_each_epoch(
    make: Callable, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[int, dict[str, float]]] = []
    begun: list[int] = []

    class Listed(TensorBoardLogger):
        def __init__(self, run: Run) -> None:
            begun.append(run.resume_step)
            super().__init__(run)

        def write(self, step: int, values: Mapping[str, float]) -> None:
            shown.append((step, dict(values)))
            super().write(step, values)

    monkeypatch.setitem(LOGGERS, "tensorboard", (Listed, "tensorboard", "tensorboard"))
    first, _ = run(make(LARC, 3.0), tmp_path, folder, epochs=2, loggers="tensorboard")
    whole, _ = run(make(LARC, 3.0), tmp_path, folder, resume=True, loggers="tensorboard")
    assert begun == [-1, 2] and [step for step, _ in shown] == [1, 2, 3, 4]
    assert [{"step": step, **values} for step, values in shown] == whole.rows
    assert len(list(tmp_path.glob("events.out.tfevents*"))) == 2 and first.rows == whole.rows[:2]


def test_best_epoch_is_the_first_of_the_highest(
    make: Callable, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = iter([2, 9, 9, 4])

    def evaluate(self: Trainer, *arguments: Any) -> Tensor:
        hits = torch.zeros(12, 1, 2, dtype=torch.bool)
        hits[: next(right)] = True
        return hits

    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    done, hits = run(make(LARC, 3.0), tmp_path, folder)
    assert done.best == {"": {"epoch": 2, "top1": 75.0, "top5": 75.0}}
    assert [round(row["top1"], 2) for row in done.rows] == [16.67, 75.0, 75.0, 33.33]
    assert fit_module.percentages(hits)[0] == [pytest.approx(100 / 3)]


def test_tested_only_as_often_as_asked(make: Callable, folder: Path, tmp_path: Path) -> None:
    done, _ = run(make(LARC, 3.0), tmp_path / "a", folder, eval_period=3)
    assert ["top1" in row for row in done.rows] == [False, False, True, True]
    done, _ = run(make(LARC, 3.0), tmp_path / "b", folder, eval_period=0)
    assert ["top1" in row for row in done.rows] == [False, False, False, True]
    assert done.views == 4 * 30 + 12


def test_images_that_an_epoch_leaves_out_are_not_counted(
    make: Callable, folder: Path, tmp_path: Path
) -> None:
    done, _ = run(make(LARC, 3.0, drop_last=True), tmp_path, folder, eval_period=0)
    assert done.views == 4 * 24 + 12


def test_a_backbone_that_moves_is_an_error(make: Callable, folder: Path, tmp_path: Path) -> None:
    """Batch norm left in training mode moves its statistics without any gradient."""
    trainer, images = make(LARC, 3.0)
    trainer.model.train = lambda mode=True: torch.nn.Module.train(trainer.model, mode)
    with pytest.raises(RuntimeError, match="frozen backbone has changed: .*bn1.running_mean"):
        run((trainer, images), tmp_path / "a", folder)
    assert not (tmp_path / "a" / STATE_FILE).exists()

    trainer, images = make(LARC, 3.0)
    before = trainer.epoch

    def epoch(*arguments: Any) -> dict[str, float]:
        with torch.no_grad():
            trainer.model.trunk.layer2[0].conv1.weight[0, 0, 0, 0] += 1e-3
        return before(*arguments)

    trainer.epoch = epoch
    with pytest.raises(RuntimeError, match="1 tensors differ .*layer2.0.conv1.weight"):
        run((trainer, images), tmp_path / "b", folder)


def test_a_loss_that_is_not_finite_stops_the_run(
    make: Callable, folder: Path, tmp_path: Path
) -> None:
    pair = make(Recipe(4, 8, schedule="cosine"), 1e30, frozen=False)
    with pytest.raises(
        FloatingPointError, match="loss is .* of epoch 1, .*lower SOLVER.LR_PER_256"
    ):
        run(pair, tmp_path, folder)
    assert not (tmp_path / STATE_FILE).exists()


def test_a_run_goes_on_with_its_own_training_data(
    make: Callable, folder: Path, tmp_path: Path
) -> None:
    own, other = (Fingerprint(12, None, 2, letter * 64) for letter in "ab")
    run(make(LARC, 3.0), tmp_path, folder, epochs=1, data=own)
    with pytest.raises(
        InputError, match=f"{STATE_FILE} was trained on different training data .12 im"
    ):
        run(make(LARC, 3.0), tmp_path, folder, epochs=2, data=other, resume=True)
    again, _ = run(make(LARC, 3.0), tmp_path, folder, epochs=2, data=own, resume=True)
    assert again.before > 0
