"""Adds rows about Python, torch, GPUs, Detectron2 and the disk."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path

import torch

from pretrain.common.distributed import missing_gpus
from pretrain.common.resources import cores
from pretrain.data.root import VARIABLE, datasets_root
from transfer.doctor.rows import FAIL, OK, WARN, Rows

LEAST_PYTHON, LEAST_TORCH = (3, 10), (2, 10)  # setup.cfg
LOW_DISK_GIB = 10.0  # a checkpoint of a ResNet-50 detector with its optimizer takes 0.3 GiB


def check_environment(
    rows: Rows, output: Path, num_gpus: int, engine: str = "auto", asked: str = ""
) -> None:
    """Adds a row for each part of the machine.

    Args:
        output: output folder of the run.
        num_gpus: number of GPUs that the run would use.
        engine: detection engine: auto, detectron2 or torchvision; "": the run is not a detection.
        asked: the GPU of a different machine that the run would use; "": this machine's.
    """
    good = sys.version_info[:2] >= LEAST_PYTHON
    rows.add("python", OK if good else FAIL, platform.python_version())
    found = tuple(map(int, torch.__version__.split("+")[0].split(".")[:2]))
    needed = ".".join(map(str, LEAST_TORCH))
    text = f"{torch.__version__} ({needed} or newer is needed)"
    text += f"; torchvision {metadata.version('torchvision')}"
    rows.add("torch", OK if found >= LEAST_TORCH else FAIL, text)
    if asked:
        rows.add("gpu", OK, f"{num_gpus} x {asked} by --gpu; this machine's GPUs are not checked")
    else:
        _check_gpus(rows, num_gpus)
    if engine:
        _check_detectron2(rows, engine)
    _check_disk(rows, output)
    root = datasets_root()
    given = bool(os.environ.get(VARIABLE))
    text = f"{root.resolve()} ({f'${VARIABLE}' if given else 'the default'})"
    if not root.is_dir():
        verb = "correct" if given else "set"
        text += (
            f" is missing: put your data sets there, or {verb} the environment variable {VARIABLE}"
        )
    rows.add("data root", OK if root.is_dir() else WARN, text)


def _check_gpus(rows: Rows, num_gpus: int) -> None:
    count = torch.cuda.device_count()
    missing = missing_gpus(num_gpus)
    if missing:
        rows.add("gpu", FAIL, missing)
    elif count == 0:
        rows.add("gpu", WARN, f"none: CUDA is not available, runs use {cores()} CPU cores")
    else:
        each = [torch.cuda.get_device_properties(number) for number in range(count)]
        names = ", ".join(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in each)
        rows.add("gpu", OK, f"{count}: {names}; CUDA {torch.version.cuda}")


def _check_detectron2(rows: Rows, engine: str) -> None:
    if importlib.util.find_spec("detectron2") is not None:
        rows.add("detectron2", OK, "importable: --engine auto uses it")
    elif engine == "detectron2":
        rows.add("detectron2", FAIL, "not installed, but --engine detectron2 needs it; install it")
    else:
        rows.add("detectron2", OK, "not installed: the torchvision engine computes the same")


def _check_disk(rows: Rows, output: Path) -> None:
    place = output.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    writable = os.access(place, os.W_OK)
    word = FAIL if not writable else WARN if free < LOW_DISK_GIB else OK
    text = f"{free:.0f} GiB free at {place}" if writable else f"{place} cannot be written to"
    rows.add("disk", word, text)
