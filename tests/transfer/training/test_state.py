"""A run's restored state: the next steps are those of a run that was never interrupted."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pretrain.common.errors import InputError
from pretrain.data.fingerprint import Fingerprint
from tests.two_processes import run_in_two
from transfer.checkpoints.read import read_weights
from transfer.training.files import (
    MODEL_FILE,
    checkpoints,
    forget_last_checkpoint,
    last_checkpoint,
    name_newest_whole,
    read_model,
)
from transfer.training.state import TrainingState, gather_state, restore_state


def make() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Input and dropout are drawn from the global generator."""
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values())
    return all(torch.equal(a, b) for a, b in pairs)


def test_weights_momentum_and_draws_go_on(tmp_path: Path) -> None:
    whole, optimizer = make()
    train(whole, optimizer, 2)
    torch.save(gather_state(whole, optimizer), tmp_path / "state")
    train(whole, optimizer, 3)
    again, its_optimizer = make()
    torch.rand(7)
    state = torch.load(tmp_path / "state", weights_only=True)
    restore_state(state, tmp_path / "state", again.load_state_dict, again, its_optimizer)
    train(again, its_optimizer, 3)
    assert same(whole, again)


def worker(rank: int, folder: str) -> None:
    torch.manual_seed(rank)
    model, optimizer = make()
    torch.manual_seed(rank)
    state = gather_state(model, optimizer)
    expected = torch.rand(3)
    restore_state(state, Path(folder), model.load_state_dict, model, optimizer)
    assert torch.equal(torch.rand(3), expected), "another process's random state"
    if rank == 0:
        torch.save(state, f"{folder}/two")


def test_each_process_gets_its_own_draws(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run_in_two(worker, tmp_path)
    state: dict[str, Any] = torch.load(tmp_path / "two", weights_only=True)
    model, optimizer = make()
    torch.manual_seed(4)
    with caplog.at_level(logging.WARNING):
        restore_state(state, tmp_path / "two", model.load_state_dict, model, optimizer)
    assert "two was written by a different number of processes" in caplog.text
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(4)))


def test_files_of_a_run(tmp_path: Path) -> None:
    model, optimizer = make()
    weights = read_weights("random", backbone="tiny_resnet", seed=0)
    options = {"weights": weights, "max_iter": 9, "classes": ("a", "b")}
    run = TrainingState(model, optimizer, tmp_path, **options)
    run.restore(model.load_state_dict)
    assert run.start_iter == 0, "an empty folder has nothing to go on from"
    run.save(1)
    for iteration in (2, 5):
        train(model, optimizer, 3)
        run.save(iteration)
    kept = [tmp_path / "model_0000005.pth", tmp_path / "model_0000002.pth"]
    assert checkpoints(tmp_path) == kept == sorted(tmp_path.glob("model_*"), reverse=True)
    assert last_checkpoint(tmp_path) == kept[0]
    again, its_optimizer = make()
    resumed = TrainingState(again, its_optimizer, tmp_path, **options)
    resumed.restore(again.load_state_dict)
    assert resumed.start_iter == 6 and same(model, again)

    fitted = resumed.finish()
    assert fitted.model_file == tmp_path / MODEL_FILE == last_checkpoint(tmp_path)
    assert fitted.seconds > 0 and checkpoints(tmp_path) == kept[:1]
    kept[1].touch()  # as a kill leaves it after model_final.pth was written
    forget_last_checkpoint(tmp_path)
    assert not checkpoints(tmp_path)
    content = read_model(fitted.model_file, part="0.", kind="pair of layers")
    assert content.classes == ("a", "b") and content.preprocess == weights.preprocess
    assert torch.equal(content.state["2.bias"], again.state_dict()["2.bias"])
    with pytest.raises(InputError, match="is not a detector; give the model_final.pth"):
        read_model(fitted.model_file)


def test_a_run_goes_on_with_its_own_training_data(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = read_weights("random", backbone="tiny_resnet", seed=0)
    model, optimizer = make()

    def run(data: Fingerprint | None) -> TrainingState:
        return TrainingState(model, optimizer, tmp_path, weights=weights, max_iter=9, data=data)

    def data(images: int, letter: str) -> Fingerprint:
        return Fingerprint(images, 7, 2, letter * 64, {"boxes": letter * 16, "names": "n"})

    run(data(9, "a")).save(2)
    run(data(9, "a")).restore(model.load_state_dict)
    with pytest.raises(
        InputError, match="model_0000002.pth .*training data .9 images .*, 8 images"
    ):
        run(data(8, "b")).restore(model.load_state_dict)
    with pytest.raises(
        InputError, match="then and now, but different content: the boxes differ.; "
    ):
        run(data(9, "b")).restore(model.load_state_dict)
    run(None).save(4)
    with caplog.at_level(logging.WARNING):
        run(data(9, "b")).restore(model.load_state_dict)
    assert "model_0000004.pth does not say which data it was trained on" in caplog.text


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = make()
    weights = read_weights("random", backbone="tiny_resnet", seed=0)
    run = TrainingState(model, optimizer, tmp_path, weights=weights, max_iter=9)
    states = {}
    for iteration in (2, 5):
        train(model, optimizer, 3)
        run.save(iteration)
        states[iteration] = {name: value.clone() for name, value in model.state_dict().items()}
    path = tmp_path / "model_0000005.pth"
    content = bytearray(path.read_bytes())
    for kind, damaged in {"cut": content[:-100], "empty": b"", "flipped": flipped(path)}.items():
        path.write_bytes(damaged)
        caplog.clear()
        name_newest_whole(tmp_path / "none")
        resumed = TrainingState(*make(), tmp_path, weights=weights, max_iter=9)
        resumed.restore(resumed.model.load_state_dict)
        assert resumed.start_iter == 3, kind
        assert torch.equal(resumed.model.state_dict()["0.weight"], states[2]["0.weight"])
        (line,) = [r.getMessage() for r in caplog.records if "is used" in r.getMessage()]
        assert "model_0000005.pth.damaged, and model_0000002.pth is used" in line
        path.with_name(f"{path.name}.damaged").rename(path)
    name_newest_whole(tmp_path)
    assert last_checkpoint(tmp_path) == tmp_path / "model_0000002.pth"
    (tmp_path / "model_0000002.pth").write_bytes(b"x")
    with pytest.raises(InputError, match="model_0000002.pth is not a readable checkpoint"):
        resumed.restore(resumed.model.load_state_dict)


def flipped(path: Path) -> bytes:
    """A zip file with the lowest bit of the first byte of its longest entry the other way round."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        entry = max(file.infolist(), key=lambda entry: entry.file_size)
    name, extra = (
        int.from_bytes(content[entry.header_offset + at :][:2], "little") for at in (26, 28)
    )
    content[entry.header_offset + 30 + name + extra] ^= 1
    return bytes(content)


class Averaging(nn.Linear):
    """A model that keeps a number of its training outside of its state_dict."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.running = {"mean": 1.0}


def test_running_numbers_are_kept_beside_the_weights(tmp_path: Path) -> None:
    model, again = Averaging(), Averaging()
    model.running["mean"] = 0.1 + 0.2
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.save(gather_state(model, optimizer), tmp_path / "state")
    state = torch.load(tmp_path / "state", weights_only=True)
    assert set(state["model"]) == {"weight", "bias"}
    its = torch.optim.SGD(again.parameters(), lr=0.1)
    restore_state(state, tmp_path / "state", again.load_state_dict, again, its)
    assert again.running == {"mean": 0.1 + 0.2}
