"""What torch's CUDA backend reports and chooses on each GPU generation, with the no-op runtime."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.gpu.pretend_cuda import ROOT
from tests.gpu.rehearsal import measured
from tests.gpu.runtime.build import environment, missing

# A ResNet's convolution in the dtype that is chosen, and in bfloat16; the dtype.
CODE = """
import torch
from pretrain.common.precision import NAMES, amp_dtype

def backend(dtype):
    last = {"device": "cuda", "dtype": dtype}
    images = torch.empty(2, 64, 56, 56, **last).contiguous(memory_format=torch.channels_last)
    weight = torch.empty(64, 64, 3, 3, **last).contiguous(memory_format=torch.channels_last)
    once = ((1, 1), (1, 1), (1, 1), False, (0, 0), 1)
    return torch._C._select_conv_backend(images, weight, None, *once).name

dtype = amp_dtype(torch.device("cuda", 0))
print(NAMES[dtype], backend(dtype), backend(torch.bfloat16))
"""


@pytest.fixture(autouse=True)
def over_the_runtime() -> None:
    if reason := missing():
        pytest.skip(reason)


@pytest.mark.parametrize(
    "capability, expected",
    [
        pytest.param(70, ["fp16", "Cudnn", "Slow2d"], marks=pytest.mark.slow),
        (75, ["fp16", "Cudnn", "Slow2d"]),
        (80, ["bf16", "Cudnn", "Cudnn"]),
        pytest.param(90, ["bf16", "Cudnn", "Cudnn"], marks=pytest.mark.slow),
    ],
)
def test_convolutions_stay_in_cudnn(capability: int, expected: list[str]) -> None:
    command = [sys.executable, "-c", CODE]
    seen = environment(capability=capability)
    done = subprocess.run(command, env=seen, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == expected


def test_a_step_before_ampere_is_in_float16() -> None:
    """Scaled gradients cost no wait: SimCLR's step waits for the GPU once, as in bfloat16."""
    (now,) = measured(["simclr_r50@1"], capability=75).values()
    assert "error" not in now, now["error"]
    assert now["dtypes"]["convolution torch.float16"] == 53
    assert not any("bfloat16" in dtype for dtype in now["dtypes"])
    assert now["synchronisations"] == 1, now["places"]
