"""A signal ends a command at once, or after a training step, and equally on all processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from pretrain.common import stop_signals
from pretrain.common.cli import interrupt_says, tool
from pretrain.common.distributed import rank
from pretrain.common.stop_signals import agreed, asked, deferred, heard, stop
from pretrain.engine.nonfinite_guard import StepGuard
from tests.two_processes import run_in_two
from transfer.training.loop import check_finite

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Python's own handler of Ctrl-C, which a shell lets its background jobs ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", STATUS)
def test_a_command_ends_with_what_was_saved(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    @tool
    def main(argv: object = None) -> None:
        with interrupt_says(lambda: "nothing was saved yet"):
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    assert main() == STATUS[number] and signal.getsignal(number) is before
    by = "" if number == signal.SIGINT else f" by {number.name}"
    assert capsys.readouterr().err == f"interrupted{by}; nothing was saved yet\n"


@pytest.mark.parametrize("number", STATUS)
def test_a_loop_is_left_where_it_says(number: signal.Signals) -> None:
    @tool
    def main(argv: object = None) -> None:
        with deferred():
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # a launcher passes on what all processes have got
            assert asked() and not agreed()
            stop()

    assert main() == STATUS[number] and not asked()


def test_a_second_ctrl_c_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_signals, "IGNORE_SECONDS", -1.0)
    with heard(), deferred():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(stop_signals.Stopped):
            os.kill(os.getpid(), signal.SIGINT)


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with heard():
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_processes_learn_of_a_signal_that_one_has_got(tmp_path: Path) -> None:
    run_in_two(_step_with_a_signal_to_one, tmp_path)
    assert len(list(tmp_path.glob("agreed_*"))) == 2


def _step_with_a_signal_to_one(number: int, folder: str) -> None:
    guard, one = StepGuard(nn.Linear(1, 1)), torch.tensor(1.0)
    for step in (guard_step(guard, one), lambda: check_finite({"a": one}, "step 1", "")):
        with heard(), deferred():
            step()
            assert not agreed()
            if rank() == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            step()
            assert agreed()
    with heard(), deferred():  # a loss that is not finite is found all the same
        if rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        bad = torch.tensor(float("nan") if rank() == 0 else 1.0)
        with pytest.raises(FloatingPointError):
            check_finite({"a": bad}, "step 2", "")
        with pytest.raises(FloatingPointError):
            guard.allows(2, {"loss": bad, "terms": {}}, one)
    Path(folder, f"agreed_{number}").touch()


def guard_step(guard: StepGuard, one: torch.Tensor) -> object:
    return lambda: guard.allows(1, {"loss": one, "terms": {}}, one)
