"""The pretended GPU: it refuses what CUDA refuses, counts what makes the host wait, and does not
report anything else.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.gpu.pretend_cuda import CUDA, CudaTensor, PretendCuda


@pytest.fixture(params=[False, True], ids=["shapes", "values"])
def cuda(request: pytest.FixtureRequest) -> PretendCuda:
    return PretendCuda(values=request.param)


def refused(cuda: PretendCuda, code: Callable[[], object]) -> str:
    with cuda, pytest.raises(RuntimeError) as failure:
        code()
    return str(failure.value)


@pytest.mark.parametrize(
    "code",
    [
        lambda: torch.ones(3, device=CUDA) + torch.ones(3),
        lambda: F.linear(torch.ones(2, 3, device=CUDA), torch.ones(4, 3)),
        lambda: torch.cat([torch.ones(3), torch.ones(3).to(CUDA)]),
        lambda: torch.zeros(3, device=CUDA).index_select(0, torch.tensor([1])),
        lambda: torch.ones(3).add_(torch.ones(3, device=CUDA)),
    ],
)
def test_tensors_on_two_devices_are_refused(cuda: PretendCuda, code: Callable) -> None:
    message = refused(cuda, code)
    assert "same device" in message and "tests/gpu/inside_pretend_cuda.py:" in message


def test_a_cpu_generator_is_refused(cuda: PretendCuda) -> None:
    generator = torch.Generator()
    message = refused(cuda, lambda: torch.rand(3, device=CUDA, generator=generator))
    assert "'cuda' device type for generator but found 'cpu'" in message
    assert "aten::normal_" in refused(
        cuda, lambda: torch.zeros(3, device=CUDA).normal_(generator=generator)
    )


def test_numbers_and_indices_of_the_cpu_are_taken(cuda: PretendCuda) -> None:
    with cuda:
        x = torch.ones(4, 3, device=CUDA)
        assert (x * torch.tensor(2.0)).device == CUDA
        assert x[torch.tensor([0, 2])].shape == (2, 3)
    assert sum(cuda.copies.values()) == 1, "the index is copied"


@pytest.mark.parametrize(
    "code, why",
    [
        (lambda x: x.sum().item(), "a value is read"),
        (lambda x: bool((x > 0).all()), "a value is read"),
        (lambda x: x.tolist(), "a copy of 16 bytes to the host"),
        (lambda x: x.cpu(), "a copy of 16 bytes to the host"),
        (lambda x: torch.zeros(4).copy_(x), "a copy of 16 bytes to the host"),
        (lambda x: torch.ones(2).to(CUDA), "a blocking copy of 8 bytes to the device"),
        (lambda x: torch.tensor([1, 2], device=CUDA), "a blocking copy of 16 bytes to the device"),
        (lambda x: x.new_tensor([1.0, 2.0]), "a blocking copy of 8 bytes to the device"),
        (lambda x: x.copy_(torch.ones(4)), "a blocking copy of 16 bytes to the device"),
        (lambda x: x[[0, 1]], "a blocking copy of 16 bytes to the device"),
        (lambda x: torch.equal(x, x), "equal"),
    ],
)
def test_waiting_is_counted_with_its_place(
    cuda: PretendCuda, code: Callable[[Tensor], object], why: str
) -> None:
    with cuda:
        x = torch.ones(4, device=CUDA)
        cuda.reset()
        code(x)
    ((found, number),) = cuda.synchronisations.items()
    assert number == 1 and found.startswith(f"{why}, tests/gpu/inside_pretend_cuda.py:")
    assert "<lambda>" in found


def test_sizes_that_only_the_device_knows_are_waited_for() -> None:
    with PretendCuda(values=True) as cuda:
        x = torch.arange(4.0).to(CUDA, non_blocking=True)
        assert len(x[x > 1]) == 2 and len((x > 1).nonzero()) == 2
        x[x > 2] = 0.0  # a number is filled in without a wait
        x[x > 1] = torch.ones(1, device=CUDA).squeeze(0)
        assert x.cpu().tolist() == [0.0, 1.0, 1.0, 0.0]
    waits = [spot.split(",")[0] for spot in cuda.synchronisations]
    assert waits == ["index", "nonzero", "index_put_", "a copy of 16 bytes to the host"]


def test_what_does_not_wait_is_not_counted(cuda: PretendCuda) -> None:
    with cuda, torch.no_grad():
        moved = torch.ones(8, 3).to(CUDA, non_blocking=True)
        image = torch.zeros(1, 3, 8, 8, device=CUDA)
        image = F.conv2d(image, torch.ones(2, 3, 3, 3, device=CUDA))
        torch.where(image > 0, image, 0.0).mean(dim=(2, 3))
        torch.stack([moved[0], moved[1]]).masked_fill(moved[:2] > 0, 0.0)
    assert not cuda.synchronisations
    assert len(cuda.copies) == 1 and not cuda.large_pageable


def test_large_copies_of_pageable_memory_are_named() -> None:
    with PretendCuda() as cuda:
        torch.zeros(2**14).to(CUDA, non_blocking=True)
        assert not cuda.large_pageable
        torch.zeros(2**14 + 1).to(CUDA, non_blocking=True)
    (found,) = cuda.large_pageable
    assert found.startswith("65540 bytes, tests/gpu/inside_pretend_cuda.py:")


def test_live_memory_and_its_peak(cuda: PretendCuda) -> None:
    with cuda:
        kept = torch.zeros(2**10, device=CUDA)  # 4 KiB
        view = kept[:10]
        dropped = torch.zeros(1, device=CUDA)  # an allocation is at least 512 bytes
        assert (cuda.live, cuda.peak) == (4608, 4608)
        del dropped
        assert (cuda.live, cuda.peak) == (4096, 4608)
        cuda.reset()
        assert cuda.peak == 4096
        del kept
        assert cuda.live == 4096, "a view keeps the memory"
        del view
        assert cuda.live == 0


@pytest.mark.parametrize(
    "code, moved",
    [
        (lambda x: x + 1.0, 4096 + 4096),
        (lambda x: x.add_(1.0), 4096 + 4096),
        (lambda x: x.zero_(), 4096),
        (lambda x: torch.add(x, x[:1], out=torch.empty_like(x)), 4096 + 64 + 4096),
        (lambda x: x * torch.ones(16).to(CUDA).expand(64, 16), 64 + 4096 + 64 + 4096),
        (lambda x: x[:8].clone(), 512 + 512),
        (lambda x: x[:8].copy_(torch.ones(8, 16)), 512),
        (lambda x: x.to(torch.float16), 4096 + 2048),
        (lambda x: x.index_select(0, torch.arange(4, device=CUDA)), 32 + 32 + 256 + 256),
        (
            lambda x: x.index_copy_(0, torch.arange(4, device=CUDA), torch.ones(4, 16).to(CUDA)),
            32 + 256 + 32 + 256 + 256,
        ),
        (lambda x: x.view(16, 64).t(), 0),
        (lambda x: torch.empty_like(x), 0),
    ],
)
def test_bytes_that_kernels_move(
    cuda: PretendCuda, code: Callable[[Tensor], object], moved: int
) -> None:
    with cuda:
        x = torch.ones(64, 16, device=CUDA)
        cuda.reset()
        code(x)
        assert cuda.moved == moved


def test_flops_and_dtypes(cuda: PretendCuda) -> None:
    with cuda, torch.no_grad():
        half = torch.zeros(4, 5, device=CUDA, dtype=torch.bfloat16)
        half @ half.T
        F.conv2d(torch.zeros(2, 3, 8, 8, device=CUDA), torch.zeros(6, 3, 3, 3, device=CUDA))
    assert cuda.flops == 2 * 4 * 5 * 4 + 2 * (2 * 6 * 6 * 6) * (3 * 3 * 3)
    assert cuda.convolutions == {"mm torch.bfloat16": 1, "convolution torch.float32": 1}


def test_values_are_those_of_the_cpu() -> None:
    images, weight = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
    with PretendCuda(values=True), torch.no_grad():
        out = F.relu(F.conv2d(images.to(CUDA), weight.to(CUDA))).mean(dim=(2, 3))
        assert isinstance(out, CudaTensor) and out.device == CUDA
        out = out.cpu()
    assert torch.equal(out, F.relu(F.conv2d(images, weight)).mean(dim=(2, 3)))


def test_nothing_stays_behind() -> None:
    with pytest.raises(ZeroDivisionError), PretendCuda():
        assert torch.zeros(2, device=CUDA).device == CUDA
        raise ZeroDivisionError
    assert not PretendCuda._entered
    assert not isinstance(torch.zeros(2, device=CUDA), CudaTensor)
