"""Views on a separate stream: which stream waits, with pretended streams, and equal results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from pretrain.engine import footprint, loop
from pretrain.engine.checks import load_checked
from pretrain.engine.side_stream import SideStream
from tests.pretrain.engine.test_loop import Line, make


class Streams:
    """In place of CUDA's streams: the order of what is asked of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.current: Any = self.named("main")
        self.recorded: dict[int, str] = {}
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: self.named("side"))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.current)
        monkeypatch.setattr(torch.cuda, "stream", self.switched)
        record = self.recorded
        monkeypatch.setattr(
            Tensor, "record_stream", lambda t, stream: record.update({id(t): stream.name})
        )

    def named(self, name: str) -> Any:
        """A stream."""
        streams = self

        class Stream:
            def __init__(self) -> None:
                self.name = name

            def wait_stream(self, other: Stream) -> None:
                streams.said.append((self.name, "waits for", other.name))

        return Stream()

    @contextmanager
    def switched(self, stream: Any) -> Iterator[None]:
        """Works like torch.cuda.stream."""
        before, self.current = self.current, stream
        yield
        self.current = before


def test_views_are_made_beside_and_the_training_waits_once_a_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams = Streams(monkeypatch)
    plain, beside = Line(), Line()
    expected = list(loop.steps(make(plain, total_steps=3)))
    training = make(beside, total_steps=3)
    training.side = SideStream(torch.device("cpu"))

    def make_views(crops: list[Tensor], generator: torch.Generator) -> list[Tensor]:
        streams.said.append(("views on", streams.current.name))
        return [crop.float() for crop in crops]

    def model(views: list[Tensor], branches: Any, *, labels: Tensor, **others: Any) -> Any:
        assert {streams.recorded.get(id(t)) for t in (*views, labels)} == {"main"}
        streams.said.append(("step on", streams.current.name))
        return beside(views, branches, labels=labels, **others)

    training.make_views = make_views  # type: ignore[assignment]
    training.model = model  # type: ignore[assignment]
    found = list(loop.steps(training))
    assert set(streams.recorded) >= {id(t) for outcome in found for t in outcome["crops"]}
    views, wait, step = (
        ("views on", "side"),
        ("main", "waits for", "side"),
        ("step on", "main"),
    )
    # The views of the next step are launched after the backward pass, before it is waited for.
    assert streams.said == [views, wait, step, views, wait, step, views, wait, step]
    assert [outcome["loss"] for outcome in found] == [outcome["loss"] for outcome in expected]
    assert torch.equal(plain.weight, beside.weight)


def test_a_second_batch_is_counted() -> None:
    peaks = []
    for value in ("False", "True"):
        options = ["SOLVER.BATCH_SIZE", "4", "SOLVER.SIDE_STREAM", value]
        cfg = load_checked("simclr_r50_tiny100.yaml", options, 1)
        peaks.append(footprint.step_cost(cfg).peak_bytes)
        views = 4 * 2 * 3 * cfg.VIEWS.SIZE**2  # values of 4 images
    assert peaks[1] - peaks[0] == views * (4 + 1), "float32 views and their bytes"
