"""The loop: order of calls, learning rates, the guard against non-finite losses, seeds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pretrain.engine.loop import Callback, LossGuard, NonFiniteLoss, Training, step_generator, train


class Line(nn.Module):
    """A method with one weight; the loss is 1 / 0 in the step given."""

    def __init__(self, bad_step: int = -1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.bad_step, self.calls = bad_step, 0

    def forward(self, views: Tensor, branches: list[int]) -> dict[str, Any]:
        self.calls += 1
        loss = (self.weight * views.mean()).sum() / (0.0 if self.calls == self.bad_step else 1.0)
        return {"loss": loss, "terms": {"line": loss.detach()}, "features": views[:, :, 0, 0]}


class Steps:
    """Three steps an epoch; records from where each epoch was read."""

    steps_per_epoch = 3

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def epoch(self, epoch: int, start_step: int = 0) -> Any:
        self.asked.append((epoch, start_step))
        batch = SimpleNamespace(crops=torch.ones(2, 4, 3, 2, 2, dtype=torch.uint8))
        return iter([batch] * (self.steps_per_epoch - start_step))


class Record(Callback):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def start(self, training: Training) -> None:
        self.seen.append("start")

    def step(self, training: Training, outcome: dict[str, Any]) -> None:
        rate = training.optimizer.param_groups[0]["lr"]
        self.seen.append((training.step, training.epoch, training.step_in_epoch, rate))

    def end(self, training: Training) -> None:
        self.seen.append("end")

    def close(self) -> None:
        self.seen.append("close")


def make(method: Line, **fields: Any) -> Training:
    return Training(
        method=method,
        model=method,
        optimizer=torch.optim.SGD(method.parameters(), lr=9.0),
        lr_at=lambda step: 0.1 * step,
        loader=Steps(),
        make_views=lambda crops, generator: crops.float(),
        branches=[0, 1],
        device=torch.device("cpu"),
        batch_size=4,
        **fields,
    )


def test_runs_from_where_it_stands_to_the_last_step() -> None:
    training, record = make(Line(), total_steps=7, step=2), Record()
    train(training, [record])
    assert training.loader.asked == [(0, 2), (1, 0), (2, 0)]
    expected = [(3, 1, 0, 2), (4, 1, 1, 3), (5, 1, 2, 4), (6, 2, 0, 5), (7, 2, 1, 6)]
    steps = [(a, b, c, round(rate * 10)) for a, b, c, rate in record.seen[1:-2]]
    assert steps == expected and record.seen[0] == "start" and record.seen[-2:] == ["end", "close"]
    assert (training.images_seen, training.views_seen, training.gpu_seconds) == (28, 56, 0.0)


@pytest.mark.parametrize("bad_step", [1, 3, 4])
def test_a_non_finite_loss_stops_with_step_and_terms(bad_step: int) -> None:
    record = Record()
    with pytest.raises(NonFiniteLoss, match=rf"loss inf at step {bad_step} \(line inf\)"):
        train(make(Line(bad_step), total_steps=4), [record])
    assert record.seen[-1] == "close" and "end" not in record.seen


def test_the_guard_checks_before_a_checkpoint() -> None:
    guard = LossGuard()
    guard.push(1, {"loss": torch.tensor(2.0), "terms": {}})
    guard.push(2, {"loss": torch.tensor(float("nan")), "terms": {}})
    assert guard.last == 2.0
    with pytest.raises(NonFiniteLoss, match="at step 2"):
        guard.flush()


def test_generators_depend_on_seed_and_step_alone() -> None:
    draws = {
        (seed, step): torch.rand(3, generator=step_generator(seed, step)).tolist()
        for seed in (0, 1)
        for step in (0, 1)
    }
    assert len({tuple(values) for values in draws.values()}) == 4
    assert torch.rand(3, generator=step_generator(0, 1)).tolist() == draws[0, 1]
