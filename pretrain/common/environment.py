"""The software versions and the hardware of a run, as plain strings for checkpoints and records."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from pretrain.common.config import CHECKOUT
from pretrain.common.resources import cores

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "fvcore",
    "pycocotools",
    "faster-coco-eval",
    "scikit-learn",
)


def describe_environment() -> dict[str, str]:
    """Returns versions of Python and of packages that change numbers, and this checkout's git
    commit.
    """
    versions = {"python": platform.python_version(), "platform": platform.system()}
    versions.update({name: _version(name) for name in (*PACKAGES, "detectron2", "mscn")})
    cuda = torch.version.cuda if torch.cuda.is_available() else None
    versions["cuda"] = cuda or "absent"
    versions["git_commit"] = _git_commit()
    return versions


def describe_hardware() -> dict[str, str | int]:
    """Returns the device name and count, processor, and the cores this process may use."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "count": torch.cuda.device_count() if cuda else 1,
        "cpu": _cpu_name(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _git_commit() -> str:
    """Returns the commit of the project's own checkout; "absent" for an installed wheel.

    Git also searches the parent folders. For an environment inside another repository it would
    report the commit of that repository.
    """
    if not (CHECKOUT / ".git").exists():
        return "absent"
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
