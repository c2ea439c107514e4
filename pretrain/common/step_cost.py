"""Computes the bytes and FLOPs of one training step, without a GPU and without data.

The step runs on fake tensors, which have shapes, types and storages but no values. They are CPU
tensors, because torch's CUDA build cannot run a fake backward pass without a driver. The counts are
still those of a GPU, because `GpuAutocast` chooses the types that CUDA's autocast would choose.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

ALLOCATION = 512  # bytes: CUDA's caching allocator rounds up to multiples of this

# Operators that CUDA's autocast computes in float32 and the CPU's does not
# (https://docs.pytorch.org/docs/stable/amp.html), as far as networks and losses use them here.
_FLOAT32_ON_CUDA = frozenset(
    getattr(place, name)
    for place, names in {
        torch: "cumsum exp group_norm layer_norm log log_softmax norm pow rsqrt softmax sum",
        Tensor: "cumsum exp log log_softmax norm pow rsqrt softmax sum",
        nn.functional: "cosine_similarity group_norm layer_norm log_softmax softmax",
    }.items()
    for name in names.split()
)


def _attention(query: Any, key: Any, value: Any, *rest: Any, **options: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *rest: Any, **o: Any) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


# torch counts the fused attention of GPUs, but not that of CPUs.
_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


@dataclass(frozen=True)
class StepCost:
    """Holds the cost of a step of one process: the most bytes alive at once, and the FLOPs. A
    multiplication with its addition counts as two FLOPs.

    The bytes are only those of tensors. The CUDA context, the workspace of kernels and
    fragmentation need additional memory.
    """

    peak_bytes: int
    flops: int


class LiveBytes(TorchDispatchMode):
    """Adds up the storages that are alive; `peak` is the maximum since it was last set."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}

    def track(self, tree: Any) -> None:
        """Counts the storages of all tensors in a tree of containers, each storage once."""
        for leaf in tree_leaves(tree):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._sizes:
            return
        size = -(-storage.nbytes() // ALLOCATION) * ALLOCATION
        self._sizes[key] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.live -= self._sizes.pop(key, 0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Runs an operator and counts what it allocates."""
        out = func(*args, **(kwargs or {}))
        self.track(out)
        return out


class GpuAutocast(TorchFunctionMode):
    """Within the CPU's autocast, runs those operators in float32 that CUDA's autocast would."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Runs a function; if it is one of these operators, its arguments are promoted first."""
        kwargs = kwargs or {}
        if func in _FLOAT32_ON_CUDA and torch.is_autocast_enabled("cpu"):
            args, kwargs = tree_map(_promoted, args), tree_map(_promoted, kwargs)
        return func(*args, **kwargs)


def _promoted(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16):
        return value.float()
    return value


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Makes all tensors of the block without values."""
    with FakeTensorMode(), GpuAutocast():
        yield


def make_fake(module: nn.Module) -> None:
    """Replaces parameters and buffers by fake ones, within `fake_tensors`.

    `Module.to` cannot do this: it swaps tensors to which the mode has weak references.
    """
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                fake = _empty_like(parameter)
                part._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = _empty_like(buffer)


def gradient_buckets(module: nn.Module, num_processes: int) -> list[Tensor]:
    """Returns the extra memory of DistributedDataParallel: a second copy of the gradients, all the
    time.
    """
    if num_processes == 1:
        return []
    return [torch.empty_like(part) for part in module.parameters() if part.requires_grad]


def _empty_like(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)


def cost_of_step(step: Callable[[], object], held: Any) -> StepCost:
    """Returns the cost of a step. The FLOPs come from a first run, which makes the optimizer's
    states. The memory comes from a second run, because torch's counter of FLOPs keeps tensors alive
    that a checkpointed network computes again.

    Args:
        step: a training step on fake tensors, within `fake_tensors`.
        held: a tree of the tensors that exist before the step: parameters, buffers, input.
    """
    memory, flops = LiveBytes(), FlopCounterMode(display=False, custom_mapping=_ATTENTION)
    memory.track(held)
    with memory:
        with flops:
            step()
        gc.collect()
        memory.peak = memory.live
        step()
    return StepCost(memory.peak, flops.get_total_flops())
