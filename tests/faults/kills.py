"""Kills a command, resumes it until it ends, and compares what it leaves with an undisturbed run.

Weights, optimizer, metrics, records and logs must be equal bit by bit; times, hosts and the name of
the folder may differ.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from pretrain.common.config import CHECKOUT
from tests.faults.preloaded import Preloaded

AT_FILES = ("before", "after", "torn")
ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
SIGNALS = (signal.SIGKILL, signal.SIGKILL, *ASKING)
ENDED = (*(-number for number in set(SIGNALS)), 130, 143)
COMPARED = ("*.pth", "metrics.json", "metrics.jsonl", "record.json", "curves.json", "rates.json")
UNSEEDED = {"python", "numpy"}  # global generators that pretraining does not use
LONGEST = 600.0  # seconds of a command
Kill = tuple[str, Any]


class Runner:
    """Runs commands on data below a folder, each in a new interpreter.

    Args:
        preloaded: starts the commands instead, as forks.
    """

    def __init__(self, data: Path, preloaded: Preloaded | None = None) -> None:
        self._data, self._preloaded = data, preloaded

    def run(self, command: Sequence[str], kill: Kill | None = None) -> int:
        """The exit status of a command.

        Args:
            kill: (an operation of `kill_at`, its number), ("signal", (seconds from the start, which
                signal)) or ("child", (seconds from the start, which share of the list)): SIGKILL to
                a process that the command has started, a worker or a rank, after which the command
                has to end by itself.
        """
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
        environment |= {"DETECTRON2_DATASETS": str(self._data), "CUDA_VISIBLE_DEVICES": ""}
        if kill is not None and kill[0] in AT_FILES:
            environment["KILL_AT"] = f"{kill[0]} {kill[1]}"
            environment["PYTHONPATH"] = f"{Path(__file__).parent / 'kill_at'}:{CHECKOUT}"
        with tempfile.TemporaryDirectory() as folder:
            errors = Path(folder, "stderr")
            number, wait = self._start(command, environment, errors)
            allowed = (0, *ENDED, 1) if kill is not None and kill[0] == "child" else (0, *ENDED)
            if kill is not None and kill[0] in ("signal", "child"):
                _hit(number, kill)
            status = wait(LONGEST)
            said = errors.read_text(errors="replace")
        launched = "torch.distributed.run" in command  # the launcher prints a traceback of its own
        assert status in allowed, (command, kill, status, said[-2000:])
        assert launched or "Traceback" not in said, (command, kill, status, said[-2000:])
        return status

    def _start(
        self, command: Sequence[str], environment: Mapping[str, str], errors: Path
    ) -> tuple[int, Callable[[float], int]]:
        if self._preloaded is not None:
            return self._preloaded.start(command, environment, errors), self._preloaded.wait
        with errors.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=CHECKOUT,
                env=dict(environment),
                stdout=subprocess.DEVNULL,
                stderr=stream,
            )
        return process.pid, process.wait

    def run_with_kills(
        self, command: Sequence[str], kills: Sequence[Kill]
    ) -> list[tuple[Kill, int]]:
        """Runs a command that has --resume, hit once by each of `kills`, and then to its end.

        Returns the kills that came in time, with their status.
        """
        came = []
        for kill in kills:
            status = self.run(command, kill)
            if status == 0:
                return came
            came.append((kill, status))
        assert self.run(command) == 0
        return came


def _hit(number: int, kill: Kill) -> None:
    """Sends the signal at its time, to the process or to one that it has started."""
    began, to_child = time.monotonic(), kill[0] == "child"
    seconds, which = kill[1]
    while Path(f"/proc/{number}").exists() and not _has_ended(number):
        targets = descendants(number) if to_child else [number]
        if targets and time.monotonic() - began >= seconds:
            target = targets[int(which * len(targets))] if to_child else number
            with suppress(ProcessLookupError):
                os.kill(target, signal.SIGKILL if to_child else which)
            return
        time.sleep(0.02)


def _has_ended(number: int) -> bool:
    """Whether a process is a zombie, whose status nobody has asked for."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def descendants(number: int) -> list[int]:
    """The living processes that a process has started, and theirs."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{number}/task").glob("*/children"):
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


def draw_kill(draws: random.Random, longest: float) -> Kill:
    """A kill at a file operation, at a random moment within `longest` seconds, or very early."""
    if draws.random() < 0.5:
        return draws.choice(AT_FILES), draws.randint(1, 12)
    latest = longest if draws.random() < 0.8 else min(longest, 3.0)
    return "signal", (draws.uniform(0.1, latest), draws.choice(SIGNALS))


def draw_kill_of_a_part(draws: random.Random, longest: float) -> Kill:
    """A kill of one of the processes that the command starts, from 30 % to 80 % of `longest`."""
    return "child", (draws.uniform(0.3, 0.8) * longest, draws.random())


def differences(one: Path, other: Path) -> list[str]:
    """Where the results in two folders differ, and what is in one of them alone."""
    names = [
        {str(path.relative_to(folder)) for kind in COMPARED for path in folder.rglob(kind)}
        for folder in (one, other)
    ]
    found = [f"{name} is in one alone" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        contents = _load(one / name, one), _load(other / name, other)
        if name.endswith(".prev.pth") and _moment(contents[0]) != _moment(contents[1]):
            continue  # a signal saves between two checkpoints, and that one is the last but one
        _compare(*contents, name, found)
    hidden = [path for path in other.rglob(".*") if path.name != ".gitignore"]
    return found + [f"{path} is left" for path in hidden]


def _load(path: Path, folder: Path) -> Any:
    if path.suffix == ".pth":
        return torch.load(path, weights_only=True)
    text = path.read_text().replace(str(folder), "FOLDER")
    if path.name.startswith("metrics"):
        return [json.loads(line) for line in text.splitlines()]
    return json.loads(text)


def _moment(checkpoint: Any) -> Any:
    """The step of a pretraining checkpoint; of a classifier, the steps of its unfinished epoch."""
    return checkpoint.get("step"), [part["step"] for part in checkpoint.get("part", ())]


def _is_of_a_moment(key: Any) -> bool:
    return isinstance(key, str) and (
        "second" in key
        or "time" in key
        or key in ("images_per_s", "environment", "started", "config", "OUTPUT_DIR")
        or key == "before"  # seconds before a classifier's run was resumed
    )


def _compare(one: Any, other: Any, where: str, found: list[str]) -> None:
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            if not _is_of_a_moment(key) and not ("rng" in where and key in UNSEEDED):
                _compare(one[key], other[key], f"{where} {key}", found)
    elif isinstance(one, (list, tuple)) and isinstance(other, type(one)) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other)):
            _compare(*pair, f"{where} {number}", found)
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or not torch.equal(one, other):
            found.append(where)
    elif isinstance(one, str) and isinstance(other, str) and one.startswith("{"):
        _compare(json.loads(one), json.loads(other), where, found)
    elif one != other:
        found.append(f"{where}: {one!r:.60} and {other!r:.60}")
