"""A signal ends a command at once, or after a training step, and equally on all processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.launcher.api import LaunchConfig
from torch.utils.data import DataLoader, Dataset

from pretrain.common import stop_signals
from pretrain.common.cli import interrupt_says, tool
from pretrain.common.distributed import _passed_on, rank
from pretrain.common.resources import loader_processes
from pretrain.common.stop_signals import (
    Stopped,
    agreed,
    asked,
    deferred,
    heard,
    held_back,
    stop,
)
from pretrain.engine.nonfinite_guard import StepGuard
from tests.two_processes import run_in_two
from transfer.training.loop import check_finite

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143, signal.SIGUSR1: 143}


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """The usual handlers of Ctrl-C, which a shell lets its background jobs ignore, and of a closed
    terminal, which `nohup` ignores."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_what_is_ignored_stays_ignored(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with heard():
            os.kill(os.getpid(), number)
            launched = _passed_on(LaunchConfig)["signals_to_handle"].split(",")
            assert ("SIGHUP" in launched) == (number != signal.SIGHUP) and "SIGTERM" in launched
        with pytest.raises(Stopped), heard(always=[number]):
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_what_begins_is_not_broken_off(capfd: pytest.CaptureFixture[str]) -> None:
    done = []
    with heard(says=b"stopping\n"):
        with pytest.raises(Stopped) as found, held_back():
            os.kill(os.getpid(), signal.SIGHUP)
            done.append("begun")
        assert done == ["begun"] and found.value.number == signal.SIGHUP
        with held_back():
            pass
    assert capfd.readouterr().err == "stopping\n"


def test_a_worker_of_a_loader_outlives_the_terminal() -> None:
    """The terminal's signal reaches all of its processes; the batches are needed for one step."""
    loader = DataLoader(_Slow(), batch_size=1, **loader_processes(1))
    batches = iter(loader)
    assert next(batches).item() == 0
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1):
        for worker in multiprocessing.active_children():
            os.kill(worker.pid or 0, number)
    assert next(batches).item() == 1


class _Slow(Dataset):
    """Two numbers; the second comes late."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        time.sleep(0.3 * index)
        return index


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
