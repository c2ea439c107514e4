"""Every tool as a small command on small inputs, and how a failure of the machine may look.

A failed command ends with status 1. Its last line on stderr begins with `error:` and says what to
do. Only an error in the program may print a traceback.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.common.config import CHECKOUT
from pretrain.digits.dataset import make_digits

from .kills import LONGEST
from .preloaded import Preloaded
from .test_kills import CLASSIFY, DETECT, PRETRAIN, SEGMENT

OUTPUT = "--output {OUT} --weights"
KNN = (
    "tools/train_cls.py --config knn_digits.yaml --weights random --output {OUT} "
    "DATALOADER.NUM_WORKERS 0 PROTOCOL.K (5,) CACHE_DIR {OUT}/cache"
)
CONVERT = "tools/convert_weights.py {SEEDS}/run/checkpoint.pth"
COMMANDS = {
    "train_ssl": "tools/train_ssl.py --config {SEEDS}/pretrain.yaml --output {OUT}",
    "train_det": DETECT.replace("--weights", OUTPUT),
    "train_det, segmentation": SEGMENT.replace("--weights", OUTPUT),
    "train_cls, crops": CLASSIFY.replace("--weights", OUTPUT),
    "train_cls, features": KNN,
    "convert_weights": f"{CONVERT} {{OUT}}/weights.pkl",
    "convert_weights, hub": f"{CONVERT} hf-hub:a/b --output {{OUT}}",
    "report": "tools/report.py {SEEDS}/knn --output {OUT}",
    "visualize, views": "tools/visualize.py views --config mscn_demo.yaml --images "
    "{DATA}/digits_cls/train --rows 2 --output {OUT}",
    "visualize, kernels": "tools/visualize.py kernels --weights {SEEDS}/run/checkpoint.pth "
    "--output {OUT}",
    "visualize, spectrum": "tools/visualize.py spectrum --run {SEEDS}/run --images "
    "{DATA}/digits_cls/train --output {OUT}",
    "make_digits": "tools/make_digits.py --output {OUT} --classification 40 20 20 --scenes 6 4 4",
    "bench": "tools/bench.py knn --bank 500 --dim 16 --queries 8 --repetitions 1 --output {OUT}",
    "run_suite": "tools/run_suite.py --config {SEEDS}/suite.yaml --output {OUT}",
    "doctor": "tools/doctor.py --config {SEEDS}/pretrain.yaml --output {OUT}",
}


@dataclass(frozen=True)
class Ended:
    """How a command ended: its status, and what it wrote to stderr."""

    status: int
    said: str

    @property
    def line(self) -> str:
        """The error line, "" without one."""
        found = [line for line in self.said.splitlines() if line.startswith("error:")]
        return found[0] if len(found) == 1 else ""

    def is_one_line(self) -> bool:
        """Whether the command failed as a command may: status 1 and one line, at the end."""
        last = self.said.strip().splitlines()[-1:]
        told = [self.line] == last and " " in self.line and "Traceback" not in self.said
        return self.status == 1 and told and len(self.line) < 2000


class Tools:
    """Runs the commands on seeds that it has made; `close` ends its process.

    Args:
        folder: gets the seeds, and is left to its owner.
    """

    def __init__(self, folder: Path) -> None:
        self.seeds, self.data, self._errors = folder, folder / "digits", folder / "stderr"
        self._preloaded = Preloaded()
        make_digits(self.data, classification=(60, 20, 20), scenes=(8, 4, 4))
        shipped = CHECKOUT / "configs" / "pretrain" / "simclr_demo.yaml"
        (folder / "pretrain.yaml").write_text(PRETRAIN.replace("simclr_demo.yaml", str(shipped)))
        task = "{name: knn, command: cls, config: knn_digits.yaml, overrides: [PROTOCOL.K, '(5,)']}"
        suite = f"PRETRAIN: [{{name: a, config: {folder}/pretrain.yaml}}]\nTASKS: [{task}]\n"
        (folder / "suite.yaml").write_text(suite)
        for name, output in (("train_ssl", "run"), ("train_cls, features", "knn")):
            made = self.run(name, folder / output)
            assert made.status == 0, made.said

    def close(self) -> None:
        """Ends the process of which the commands are forks."""
        self._preloaded.close()

    def words(self, name: str, output: Path, more: Sequence[str] = ()) -> list[str]:
        """A command of COMMANDS as words, with more overrides at its end."""
        places = {"OUT": output, "SEEDS": self.seeds, "DATA": self.data}
        return [word.format(**places) for word in COMMANDS[name].split()] + list(more)

    def environment(self) -> dict[str, str]:
        """The variables of a command."""
        return {
            **os.environ,
            "PYTHONPATH": str(CHECKOUT),
            "OMP_NUM_THREADS": "1",
            "DETECTRON2_DATASETS": str(self.data),
            "CUDA_VISIBLE_DEVICES": "",
        }

    def run(self, name: str, output: Path, more: Sequence[str] = ()) -> Ended:
        """Runs a command of COMMANDS to its end."""
        self.start(name, output, more)
        return self.wait()

    def start(self, name: str, output: Path, more: Sequence[str] = ()) -> int:
        """Starts a command of COMMANDS; returns its process number. `wait` has to follow."""
        words = self.words(name, output, more)
        return self._preloaded.start(words, self.environment(), self._errors)

    def wait(self) -> Ended:
        """Waits for the command that was started."""
        status = self._preloaded.wait(LONGEST)
        return Ended(status, self._errors.read_text(errors="replace"))


def can_mount(folder: Path) -> bool:
    """Whether this user may mount a file system of a few pages."""
    place = folder / "mount"
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        return False
    subprocess.run(["umount", str(place)], check=True)
    return True
