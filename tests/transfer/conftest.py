"""Fixtures for the trials of every task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from transfer.results.record import read_record
from transfer.training import loop

Interrupted = Callable[[int], AbstractContextManager[None]]


@pytest.fixture
def check_trials(tmp_path: Path) -> Callable[[Callable[..., list[Path]]], None]:
    """A check of run(folder, **changes of the request), which runs two trials.

    They differ by their seed alone, finished ones are left as they are, and one that runs alone is
    the one among others.
    """

    def check(run: Callable[..., list[Path]]) -> None:
        paths = run(tmp_path)
        first, second = map(read_record, paths)
        assert (first["seed"], second["seed"]) == (0, 1)
        assert first["protocol"]["config_sha256"] == second["protocol"]["config_sha256"]
        before = [path.read_bytes() for path in paths]
        run(tmp_path, resume=True)
        assert [path.read_bytes() for path in paths] == before
        (path,) = run(tmp_path / "alone", first_trial=1)
        assert path.parent.name == "trial_1" and read_record(path)["metrics"] == second["metrics"]

    return check


@pytest.fixture
def interrupted_at(monkeypatch: pytest.MonkeyPatch) -> Interrupted:
    """A block that a Ctrl-C before the step of an iteration of the training loop has to end."""

    @contextmanager
    def interrupted(iteration: int) -> Iterator[None]:
        take_step = loop.take_step

        def stop(model: Any, parts: Any, optimizer: Any, place: str, **options: Any) -> Any:
            if place == f"iteration {iteration}":
                raise KeyboardInterrupt
            return take_step(model, parts, optimizer, place, **options)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "take_step", stop)
            with pytest.raises(KeyboardInterrupt):
                yield

    return interrupted
