"""The loop: order of calls, learning rates, the guard against non-finite losses, seeds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pretrain.data.loader import Batch
from pretrain.engine.loop import Callback, Training, clip_gradients, step_generator, train
from pretrain.engine.nonfinite_guard import NonFiniteLoss, StepGuard
from pretrain.methods.base import Method


class Line(Method):
    """A method with one weight and a batch norm; the loss is 1 / 0 in the steps given."""

    def __init__(self, *bad_steps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm2d(3, affine=False)
        self.bad_steps, self.calls, self.updates = bad_steps, 0, []

    def forward(
        self, views: list[Tensor], branches: list[int], labels: Tensor, generator: Any
    ) -> dict[str, Any]:
        self.calls += 1
        self.norm(views[0] * self.calls)
        scale = 0.0 if self.calls in self.bad_steps else 1.0
        loss = (self.weight * views[0].mean()).sum() / scale
        return {"loss": loss, "terms": {"line": loss.detach()}, "features": views[0][:, :, 0, 0]}

    def after_step(self, step: int, total_steps: int) -> None:
        self.updates.append(step)


class Steps:
    """Three steps an epoch; records which steps were asked for."""

    steps_per_epoch = 3

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def steps(self, first: int, end: int) -> Any:
        self.asked.append((first, end))
        crops = [torch.ones(4, 3, 2, 2, dtype=torch.uint8)] * 2
        batch = Batch(crops, torch.zeros(4, dtype=torch.long), torch.arange(4))
        return iter([batch] * (end - first))


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


def make(method: Line, max_skipped: int = 0, **fields: Any) -> Training:
    fields.setdefault("lr_at", lambda step: 0.1 * step)
    return Training(
        method=method,
        model=method,
        optimizer=torch.optim.SGD([{"params": list(method.parameters()), "lr_ratio": 1.0}], lr=9.0),
        loader=Steps(),
        make_views=lambda crops, generator: [crop.float() for crop in crops],
        branches=[0, 1],
        guard=StepGuard(method, max_skipped),
        device=torch.device("cpu"),
        batch_size=4,
        **fields,
    )


def test_runs_from_where_it_stands_to_the_last_step() -> None:
    training, record = make(Line(), total_steps=7, step=2), Record()
    train(training, [record])
    assert training.loader.asked == [(2, 7)], "the loader is not stopped between epochs"
    expected = [(3, 1, 0, 2), (4, 1, 1, 3), (5, 1, 2, 4), (6, 2, 0, 5), (7, 2, 1, 6)]
    steps = [(a, b, c, round(rate * 10)) for a, b, c, rate in record.seen[1:-2]]
    assert steps == expected and record.seen[0] == "start" and record.seen[-2:] == ["end", "close"]
    assert (training.images_seen, training.views_seen, training.gpu_seconds) == (28, 56, 0.0)


@pytest.mark.parametrize("bad_step", [1, 3, 4])
def test_a_non_finite_loss_stops_with_step_and_terms(bad_step: int) -> None:
    record = Record()
    with pytest.raises(
        NonFiniteLoss, match=rf"loss inf.* at step {bad_step} \(line inf\), after 0"
    ):
        train(make(Line(bad_step), total_steps=4), [record])
    assert record.seen[-1] == "close" and "end" not in record.seen


def test_a_skipped_step_changes_nothing() -> None:
    """Steps 2 and 3 of 5 are not finite: weights and statistics are those of the other three."""
    skipping, short = Line(2, 3), Line()
    training = make(skipping, max_skipped=2, total_steps=5)
    training.lr_at = lambda step: 0.1
    train(training, [])
    assert training.guard.skipped == 2 and training.step == 5 and skipping.updates == [0, 3, 4]
    short.calls = 0
    for call in (1, 4, 5):  # what the calls that counted saw
        short.norm(torch.full((4, 3, 2, 2), float(call)))
    torch.testing.assert_close(skipping.norm.running_mean, short.norm.running_mean)
    torch.testing.assert_close(skipping.weight.data, torch.tensor([1.0 - 3 * 0.1]))


def test_too_many_skipped_steps_stop() -> None:
    with pytest.raises(NonFiniteLoss, match="at step 4 .* after 2 skipped steps"):
        train(make(Line(1, 3, 4), max_skipped=2, total_steps=5), [])


def test_a_non_finite_gradient_of_a_finite_loss_is_skipped() -> None:
    method = Line()
    training = make(method, max_skipped=1, total_steps=2)
    method.weight.register_hook(lambda grad: grad * float("nan") if method.calls == 1 else grad)
    train(training, [])
    assert training.guard.skipped == 1 and method.updates == [1]
    assert torch.isfinite(method.weight).all()


def test_clipping_leaves_out_the_groups_that_ask_for_it() -> None:
    a, b, c = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    a.grad, b.grad, c.grad = torch.tensor([3.0, 0]), torch.tensor([0, 4.0]), torch.tensor([12.0, 0])
    groups = [{"params": [a]}, {"params": [b], "clip": True}, {"params": [c], "clip": False}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    assert clip_gradients(optimizer, 0.0).item() == pytest.approx(13.0)
    assert torch.equal(a.grad, torch.tensor([3.0, 0]))
    assert clip_gradients(optimizer, 1.0).item() == pytest.approx(13.0)
    torch.testing.assert_close(a.grad, torch.tensor([0.6, 0.0]), rtol=1e-5, atol=0)
    torch.testing.assert_close(b.grad, torch.tensor([0.0, 0.8]), rtol=1e-5, atol=0)
    assert torch.equal(c.grad, torch.tensor([12.0, 0]))
    assert clip_gradients(optimizer, 50.0).item() < 13.0, "the norm of what is there now"
    torch.testing.assert_close(b.grad, torch.tensor([0.0, 0.8]), rtol=1e-5, atol=0)


def test_rates_and_decay_of_groups() -> None:
    """Scheduled, constant and proportional rates; a weight-decay schedule where decay applies."""
    method = Line()
    training = make(method, total_steps=3, base_lr=7.0, weight_decay_at=lambda step: 0.5 + step)
    extra = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    training.optimizer.add_param_group(
        {"params": extra[:1], "lr_ratio": 1.0, "constant_lr": True, "decays": True}
    )
    training.optimizer.add_param_group({"params": extra[1:], "lr_ratio": 0.25, "weight_decay": 9.0})
    seen = []

    class Rates(Callback):
        def step(self, training: Training, outcome: dict[str, Any]) -> None:
            groups = training.optimizer.param_groups
            seen.append([(round(g["lr"], 6), g["weight_decay"]) for g in groups])

    train(training, [Rates()])
    assert seen[1] == [(0.1, 0), (7.0, 1.5), (0.025, 9.0)]
    assert seen[2] == [(0.2, 0), (7.0, 2.5), (0.05, 9.0)]


def test_generators_depend_on_seed_and_step_alone() -> None:
    draws = {
        (seed, step): torch.rand(3, generator=step_generator(seed, step)).tolist()
        for seed in (0, 1)
        for step in (0, 1)
    }
    assert len({tuple(values) for values in draws.values()}) == 4
    assert torch.rand(3, generator=step_generator(0, 1)).tolist() == draws[0, 1]


def scaled_training(method: Method, init_scale: float, **fields: Any) -> Training:
    """Float16's scaling of gradients, on a CPU and without autocast."""
    training = make(method, lr_at=lambda step: 0.1, **fields)
    training.scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=1000)
    return training


def test_scaled_gradients_move_the_weights_alike() -> None:
    plain, scaled = Line(), Line()
    train(make(plain, total_steps=3, lr_at=lambda step: 0.1), [])
    train(scaled_training(scaled, 2.0**16, total_steps=3), [])
    assert torch.equal(plain.weight, scaled.weight)
    assert torch.equal(plain.norm.running_mean, scaled.norm.running_mean)


def test_an_overflow_of_the_scale_is_skipped_and_not_counted() -> None:
    """2^130 is beyond float32: the scale is halved until the gradients fit, and no step of those
    counts against the limit or leaves a trace."""
    method, record = Line(), Record()
    training = scaled_training(method, 2.0**127, total_steps=6)
    method.weight.register_hook(lambda grad: grad * 16)  # gradients overflow, the loss does not
    train(training, [record])
    taken = len(method.updates)
    assert 0 < taken < 6 and training.guard.skipped == 0 and training.step == 6
    assert training.scaler.get_scale() == 2.0 ** (127 - (6 - taken))
    torch.testing.assert_close(method.weight.data, torch.tensor([1.0 - taken * 1.6]))


def test_a_gradient_that_no_scale_saves_counts() -> None:
    method = Line()
    method.weight.register_hook(lambda grad: grad * float("inf"))
    training = scaled_training(method, 4.0, total_steps=9, max_skipped=1)
    with pytest.raises(NonFiniteLoss, match="at step 4 .* after 1 skipped"):
        train(training, [])  # 4, 2: halved; 1 and 0.5: counted


def test_a_loss_that_is_not_finite_counts_under_scaling() -> None:
    with pytest.raises(NonFiniteLoss, match="loss inf"):
        train(scaled_training(Line(2), 2.0**16, total_steps=3), [])
