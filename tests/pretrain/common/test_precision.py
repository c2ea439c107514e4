"""The dtype of mixed precision by GPU generation."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest
import torch

from pretrain.common.config import config_sha256
from pretrain.common.precision import amp_dtype, describe_precision
from pretrain.defaults import get_defaults


@pytest.mark.parametrize(
    "major, dtype", [(7, torch.float16), (8, torch.bfloat16), (9, torch.bfloat16)]
)
def test_bfloat16_only_where_the_hardware_has_it(
    major: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Properties:
        def __init__(self, device: object) -> None:
            self.major = major

    @contextlib.contextmanager
    def current(device: torch.device) -> object:
        asked.append(device)
        yield

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", current)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", Properties)
    assert amp_dtype(torch.device("cuda", 3)) is dtype and asked == [torch.device("cuda", 3)]


@pytest.mark.parametrize("kind", ["cpu", "mps", "meta"])
def test_elsewhere_all_is_float32(kind: str) -> None:
    assert amp_dtype(torch.device(kind)) is None


def test_the_log_says_why() -> None:
    assert describe_precision(torch.bfloat16) == "bf16"
    assert describe_precision(torch.float16).startswith("fp16 with scaled gradients")
    assert describe_precision(None) == "fp32"


TF32 = """
import torch
from pretrain.common.precision import allow_tf32

for device, capability in ("cpu", (8, 0)), ("cuda:0", (7, 5)), ("cuda:0", (8, 0)):
    torch.cuda.get_device_capability = lambda device: capability
    print(allow_tf32(torch.device(device), "A.KEY"))
    print(torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.fp32_precision)
    print(torch.backends.cudnn.conv.fp32_precision)
"""


def test_tf32_is_set_for_products_only_where_a_gpu_has_it() -> None:
    """Runs in a separate process; both interfaces of PyTorch can be read afterwards."""
    command = [sys.executable, "-c", TF32]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    said, products, convolutions = lines[::3], lines[1::3], lines[2::3]
    parts = ("A.KEY has no effect on this device", "no effect on this GPU", "round their factors")
    assert all(part in line for part, line in zip(parts, said, strict=True))
    assert products == ["highest none", "highest none", "high tf32"]
    assert convolutions == ["tf32"] * 3, "PyTorch's own default"


def test_tf32_is_part_of_the_recipe_only_if_it_is_on() -> None:
    plain, tf32 = get_defaults(), get_defaults()
    tf32.SOLVER.TF32 = True
    assert config_sha256(plain) != config_sha256(tf32)
