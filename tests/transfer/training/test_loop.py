"""One training step: micro-batches against the complete batch, and mixed precision."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.transfer.detection import specs
from tests.two_processes import run_in_two
from transfer.training.loop import micro_batches, steps, take_step
from transfer.training.precision import Precision

# Every anchor and every proposal is in the losses, so that no draw decides about them, and every
# image brings as many of both: then the mean over micro-batches is the mean over the batch.
ALL = {
    **specs.TINY,
    "MODEL.ANCHOR_GENERATOR.SIZES": ((16, 32),),
    "MODEL.ROI_HEADS.NUM_CLASSES": 3,
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 4096,
    "MODEL.RPN.POSITIVE_FRACTION": 1.0,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 60,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 12,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 64,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 1.0,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 5,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.PIXEL_MEAN": (123.675, 116.28, 103.53),
    "MODEL.PIXEL_STD": (58.395, 57.12, 57.375),
}


def batch(count: int) -> list[dict[str, Any]]:
    random, samples = np.random.default_rng(4), []
    for _ in range(count):
        corners = random.uniform(0, 20, (2, 2))
        boxes = np.concatenate([corners, corners + random.uniform(15, 40, (2, 2))], 1)
        image = torch.from_numpy(random.integers(0, 256, (3, 64, 64), np.uint8))
        classes = torch.from_numpy(random.integers(0, 3, 2))
        samples.append({"image": image, "boxes": torch.from_numpy(boxes).float()})
        samples[-1].update(classes=classes, polygons=[[], []], height=64, width=64)
    return samples


def detector(norm: str) -> nn.Module:
    torch.manual_seed(0)
    model = specs.make_detector({**ALL, "MODEL.RESNETS.NORM": norm})
    if norm == "FrozenBN":  # as trained weights would: without any scale activations overflow
        for name, value in model.named_buffers():
            if name.endswith("running_var"):
                value.fill_(20.0)
    return model


def stepped(norm: str, accumulate: int, **options: Any) -> tuple[dict, dict]:
    model = detector(norm)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for iteration in range(3):
        parts = micro_batches(batch(4), accumulate)
        losses = take_step(model, parts, optimizer, f"iteration {iteration}", **options)
    return losses, model.state_dict()


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_are_the_batch_without_batch_norm(accumulate: int) -> None:
    losses, weights = stepped("FrozenBN", 1)
    found, accumulated = stepped("FrozenBN", accumulate)
    assert found == pytest.approx(losses, rel=1e-4)
    for name, value in weights.items():
        torch.testing.assert_close(accumulated[name], value, rtol=1e-4, atol=1e-5)


def run_process(rank: int, folder: str) -> None:
    model = detector("FrozenBN")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    ready = DistributedDataParallel(model, broadcast_buffers=False)
    parts = micro_batches(batch(4)[2 * rank : 2 * rank + 2], 2)
    for iteration in range(3):
        take_step(ready, parts, optimizer, f"iteration {iteration}")
    torch.save(model.state_dict(), Path(folder) / f"{rank}.pth")


def test_micro_batches_are_processes(tmp_path: Path) -> None:
    """Two processes with two micro-batches each are one process with four."""
    run_in_two(run_process, tmp_path)
    _, weights = stepped("FrozenBN", 4)
    for rank in range(2):
        for name, value in torch.load(tmp_path / f"{rank}.pth").items():
            torch.testing.assert_close(value, weights[name], rtol=1e-5, atol=1e-6)


class Absolute(nn.Module):
    """A stand-in for a detector, whose loss is as finite as its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, batch: list[float]) -> dict[str, torch.Tensor]:
        return {"loss": self.weight.abs() * sum(batch)}


def diverge_on_one(rank: int, folder: str) -> None:
    model = DistributedDataParallel(Absolute())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    take_step(model, [[1.0]], optimizer, "iteration 0")
    place = " on another process" if rank == 0 else ""
    with pytest.raises(FloatingPointError, match=f"a loss is not finite{place} at iteration 1"):
        take_step(model, [[1.0 if rank == 0 else float("nan")]], optimizer, "iteration 1")
    assert model.module.weight.item() == pytest.approx(0.9), "the bad step was taken"


def test_processes_stop_together(tmp_path: Path) -> None:
    """A sweep of rates continues after a rate that diverges, in all processes."""
    run_in_two(diverge_on_one, tmp_path)


def test_micro_batches_are_not_the_batch_under_batch_norm() -> None:
    """Which is why the log says so and the protocol's identity differs."""
    found, losses = stepped("BN", 2)[0], stepped("BN", 1)[0]
    assert found != pytest.approx(losses, rel=1e-3)


def test_one_part_is_the_plain_step() -> None:
    model = detector("BN")
    theirs = copy.deepcopy(model)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01) for m in (model, theirs)]
    torch.manual_seed(1)
    take_step(model, [batch(2)], optimizers[0], "iteration 0")
    torch.manual_seed(1)
    sum(theirs(batch(2)).values()).backward()
    optimizers[1].step()
    for ours, expected in zip(model.parameters(), theirs.parameters()):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_bf16_and_fp16_are_close_to_float32(accumulate: int) -> None:
    plain, _ = stepped("BN", accumulate)
    for dtype in (torch.bfloat16, torch.float16):
        losses, weights = stepped("BN", accumulate, precision=Precision(dtype))
        assert losses == pytest.approx(plain, rel=0.2, abs=0.02), dtype
        assert losses != plain, "computed in float32"
        assert all(value.dtype != dtype for value in weights.values())


def test_a_step_whose_gradients_overflow_is_left_out() -> None:
    weight = nn.Parameter(torch.ones(1))

    class Model(nn.Module):
        def forward(self, batch: list) -> dict[str, torch.Tensor]:
            return {"loss": (weight * batch[0]).sum()}

    optimizer = torch.optim.SGD([weight], lr=0.25)
    precision = Precision(torch.float16)
    before = precision.state_dict()["scale"]
    take_step(Model(), [[1e36]], optimizer, "iteration 0", precision=precision)
    assert weight.item() == 1.0 and precision.state_dict()["scale"] == before / 2
    take_step(Model(), [[2.0]], optimizer, "iteration 1", precision=precision)
    assert weight.item() == 0.5
    again = Precision(torch.float16)
    again.load_state_dict(precision.state_dict())
    assert again.state_dict() == precision.state_dict()
    again.load_state_dict({})  # of a run in float32
    assert Precision(torch.bfloat16).state_dict() == {}


def test_steps_take_the_rate_of_each_iteration_and_the_groups_own() -> None:
    """Gradient 1 everywhere: a step is the rate. The losses of a batch's two parts are averaged."""
    weights = [nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))]

    class Model(nn.Module):
        def forward(self, part: float) -> dict[str, torch.Tensor]:
            return {"a": sum(weights) + part, "b": torch.zeros(())}

    groups = [{"params": [w], "lr_ratio": ratio} for w, ratio in zip(weights, (1.0, 0.25))]
    taken = steps(
        Model(),
        batches=iter([[1.0, 3.0]] * 2 + [[float("inf"), 0.0]]),
        optimizer=torch.optim.SGD(groups, lr=0.0),
        rate_at=lambda iteration: float(iteration),
        iterations=range(4, 8),
        place=lambda iteration: f"step {iteration} of 8",
        remedy="lower THE_RATE",
    )
    first, second = next(taken), next(taken)
    assert [first.iteration, second.iteration] == [4, 5]
    assert first.losses == {"a": 2.0, "b": 0.0} and first.loss == 2.0
    assert second.losses == {"a": 2.0 - 4.0 - 1.0, "b": 0.0}
    assert [w.item() for w in weights] == [-9.0, -2.25]
    assert first.time >= first.data_time >= 0
    with pytest.raises(FloatingPointError, match="at step 6 of 8: a=inf, b=0; lower THE_RATE"):
        next(taken)
    assert [w.item() for w in weights] == [-9.0, -2.25], "the bad step was taken"


def test_losses_that_are_shares_of_the_batch_are_added_up() -> None:
    weight = nn.Parameter(torch.zeros(()))

    class Model(nn.Module):
        def forward(self, part: float) -> dict[str, torch.Tensor]:
            return {"loss": weight * part + part}

    optimizer = torch.optim.SGD([weight], lr=1.0)
    assert take_step(Model(), [1.0, 2.0], optimizer, "step 1", mean=False) == {"loss": 3.0}
    assert weight.item() == -3.0
