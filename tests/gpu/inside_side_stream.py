"""Views on a separate stream of a pretended GPU.

torch's own streams are used, the host does not wait more often, and the tensors belong to the
training's stream when it reads them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from pretrain.data.loader import Batch
from pretrain.engine import loop
from pretrain.engine.checks import load_checked
from pretrain.engine.side_stream import SideStream
from tests.gpu.counting import process_group
from tests.gpu.pretend_cuda import CUDA, PretendCuda
from tests.gpu.pretraining_cases import TenSteps, crops, pretended_training


def run_steps(beside: bool) -> tuple[dict[str, int], list[Any]]:
    """Three steps: the places where the host waited, and the stream of each making of views."""
    made: list[Any] = []
    with process_group(1), PretendCuda(False) as cuda:
        cfg = load_checked(
            "simclr_r50_tiny100.yaml", ["SOLVER.BATCH_SIZE", "4", "BACKBONE.NAME", "resnet18"], 1
        )
        training = pretended_training(cfg)
        training.total_steps = 3
        if beside:
            training.side = SideStream(CUDA)

        class Batches(TenSteps):
            def steps(self, first: int, end: int) -> Iterator[Batch]:
                return (crops(cfg, 4) for _ in range(first, end))

        training.loader = Batches()
        maker = training.make_views

        def make_views(given: list[Tensor], generator: torch.Generator) -> list[Tensor]:
            made.append(torch.cuda.current_stream(CUDA))
            return maker(given, generator)

        training.make_views = make_views  # type: ignore[assignment]
        cuda.reset()
        assert len(list(loop.steps(training))) == 3
        return dict(cuda.synchronisations), made


def test_the_host_waits_no_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    main = torch.cuda.current_stream(CUDA)
    recorded: list[torch.cuda.Stream] = []
    # A pretended tensor has no memory of CUDA's allocator, which would keep the note.
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: recorded.append(stream))
    waits: list[tuple[torch.cuda.Stream, torch.cuda.Stream]] = []
    wait = torch.cuda.Stream.wait_stream

    def wait_stream(stream: torch.cuda.Stream, other: torch.cuda.Stream) -> None:
        waits.append((stream, other))
        wait(stream, other)

    monkeypatch.setattr(torch.cuda.Stream, "wait_stream", wait_stream)
    plain, on_main = run_steps(beside=False)
    assert not recorded and not waits and set(on_main) == {main}
    beside, on_side = run_steps(beside=True)
    assert beside == plain and sum(plain.values()) == 3, "the guard's, one a step"
    (side,) = set(on_side)
    assert side != main and waits == [(main, side)] * 3
    assert recorded == [main] * 3 * 5, "two crops, two views and the labels of each step"
