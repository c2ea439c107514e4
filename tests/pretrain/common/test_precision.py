"""The dtype of mixed precision by GPU generation."""

from __future__ import annotations

import contextlib

import pytest
import torch

from pretrain.common.precision import amp_dtype, describe_precision


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
