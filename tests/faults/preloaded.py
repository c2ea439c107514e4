"""A process that has imported what the trainers need, and starts each command as a fork of itself.

A small run that is killed early spends most of its time importing torch. A fork does not need to
import it again, and ends like a separate process, with any signal that it gets.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from pretrain.common.config import CHECKOUT

MODULES = (
    *("torch", "torchvision", "torch.utils.tensorboard", "pycocotools.mask", "PIL.ImageDraw"),
    *("pretrain.engine.run", "transfer.trials.command", "transfer.detection.task"),
    *("transfer.segmentation.task", "transfer.classification.task", "matplotlib.figure"),
)


class Preloaded:
    """Runs one command after the other; `close` ends the process."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.preloaded"],
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._answer(600)

    def start(self, command: Sequence[str], environment: Mapping[str, str], errors: Path) -> int:
        """The process number of a command (a script and its words) that writes stderr to a file."""
        order = {"command": list(command), "environment": dict(environment), "errors": str(errors)}
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(order).encode() + b"\n")
        return self._answer(60)

    def wait(self, seconds: float) -> int:
        """The exit status of what was started. Raises TimeoutError if it has not ended."""
        return self._answer(seconds)

    def close(self) -> None:
        """Ends the process."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(60)

    def _answer(self, seconds: float) -> int:
        stream = self._server.stdout
        assert stream is not None
        if not select.select([stream], [], [], seconds)[0]:
            raise TimeoutError
        return int(stream.readline())


def main() -> None:
    """The loaded process: an order a line, answered by the fork's number and its exit status."""
    for module in MODULES:
        importlib.import_module(module)
    threads = len(os.listdir("/proc/self/task"))
    assert threads == 1, f"{threads} threads run, which a fork would not have"
    gc.freeze()  # a fork that ends would look through all that is loaded
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    print(0, file=answers)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            answers.close()
            _become(order)
            return
        print(child, file=answers)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers)


def _become(order: dict[str, object]) -> None:
    """Runs the command of an order as if the interpreter had been started with it."""
    os.environ.clear()
    os.environ.update(order["environment"])  # type: ignore[arg-type]
    null = os.open(os.devnull, os.O_RDWR)
    errors = os.open(str(order["errors"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream, target in enumerate((null, null, errors)):
        os.dup2(target, stream)
    sys.argv = list(order["command"])  # type: ignore[call-overload]
    try:
        if "KILL_AT" in os.environ:
            runpy.run_path(str(Path(__file__).parent / "kill_at" / "sitecustomize.py"))
        runpy.run_path(sys.argv[0], run_name="__main__")
    except Exception:
        traceback.print_exc()
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
