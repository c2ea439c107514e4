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
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pretrain.common.config import CHECKOUT

AT_FILES = ("before", "after", "torn")
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
ENDED = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGUSR1, 130, 143)
COMPARED = ("*.pth", "metrics.json", "metrics.jsonl", "record.json", "curves.json", "rates.json")
UNSEEDED = {"python", "numpy"}  # global generators that pretraining does not use


def run(command: Sequence[str], data: Path, kill: tuple[str, Any] | None = None) -> int:
    """The exit status of a command; `kill`: (an operation of `kill_at`, its number), or ("signal",
    (seconds from the start, which signal))."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    environment |= {"DETECTRON2_DATASETS": str(data), "CUDA_VISIBLE_DEVICES": ""}
    if kill is not None and kill[0] in AT_FILES:
        environment["KILL_AT"] = f"{kill[0]} {kill[1]}"
        environment["PYTHONPATH"] = f"{Path(__file__).parent / 'kill_at'}:{CHECKOUT}"
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=CHECKOUT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if kill is not None and kill[0] == "signal":
        seconds, number = kill[1]
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
    _, said = process.communicate(timeout=600)
    assert process.returncode in (0, *ENDED), said[-2000:]
    return process.returncode


def draw_kill(draws: random.Random, longest: float) -> tuple[str, Any]:
    """A kill at a file operation, at a random moment within `longest` seconds, or very early."""
    if draws.random() < 0.5:
        return draws.choice(AT_FILES), draws.randint(1, 12)
    latest = longest if draws.random() < 0.8 else 3.0
    return "signal", (draws.uniform(0.3, latest), draws.choice(SIGNALS))


def run_with_kills(
    command: Sequence[str], data: Path, kills: Sequence[tuple[str, Any]]
) -> list[tuple[tuple[str, Any], int]]:
    """Runs a command that has --resume, killed once by each of `kills`, and then to its end.

    Returns the kills that came in time, with their status.
    """
    came = []
    for kill in kills:
        status = run(command, data, kill)
        if status == 0:
            return came
        came.append((kill, status))
        time.sleep(0.1)
    assert run(command, data) == 0
    return came


def differences(one: Path, other: Path) -> list[str]:
    """Where the results in two folders differ, and what is in one of them alone."""
    names = [
        {str(path.relative_to(folder)) for kind in COMPARED for path in folder.rglob(kind)}
        for folder in (one, other)
    ]
    found = [f"{name} is in one alone" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        _compare(_load(one / name, one), _load(other / name, other), name, found)
    hidden = [path for path in other.rglob(".*") if path.name != ".gitignore"]
    return found + [f"{path} is left" for path in hidden]


def _load(path: Path, folder: Path) -> Any:
    if path.suffix == ".pth":
        return torch.load(path, weights_only=True)
    text = path.read_text().replace(str(folder), "FOLDER")
    if path.name.startswith("metrics"):
        return [json.loads(line) for line in text.splitlines()]
    return json.loads(text)


def _is_of_a_moment(key: Any) -> bool:
    return isinstance(key, str) and (
        "second" in key
        or "time" in key
        or key in ("images_per_s", "environment", "started", "config", "OUTPUT_DIR")
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
