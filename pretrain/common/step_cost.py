"""What one training step costs, found without a GPU and without data: bytes and FLOPs.

The step runs on fake tensors, which have shapes, types and storages but no values. They are CPU
tensors, since torch's CUDA build cannot run a fake backward pass without a driver; the counts are a
GPU's all the same, because `GpuAutocast` chooses the types that CUDA's autocast would choose.
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

ALLOCATION = 512  # bytes: the step in which CUDA's caching allocator rounds up

# What CUDA's autocast computes in float32 and the CPU's does not
# (https://docs.pytorch.org/docs/stable/amp.html): of them, what networks and losses use here.
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
    """Of one process: the most bytes alive at once in a step, and its FLOPs, of which a
    multiplication with its addition is two.

    The bytes are those of tensors: the CUDA context, the workspace of kernels and fragmentation
    come on top.
    """

    peak_bytes: int
    flops: int


class LiveBytes(TorchDispatchMode):
    """Adds up the storages that are alive; `peak` is the most since it was last set."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}

    def track(self, tree: Any) -> None:
        """Counts the storages of all tensors in a tree of containers, each of them once."""
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
    """Within the CPU's autocast: takes those operators to float32 that CUDA's would."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Runs a function on promoted arguments if it is one of those."""
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
    """All tensors made in the block have no values."""
    with FakeTensorMode(), GpuAutocast():
        yield


def make_fake(module: nn.Module) -> None:
    """Replaces parameters and buffers by fake ones, within `fake_tensors`.

    `Module.to` cannot: it swaps tensors to which the mode holds weak references.
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
    """What DistributedDataParallel holds beside a module: the gradients once more, all the time."""
    if num_processes == 1:
        return []
    return [torch.empty_like(part) for part in module.parameters() if part.requires_grad]


def _empty_like(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)


def cost_of_step(step: Callable[[], object], held: Any) -> StepCost:
    """The cost of a step: its FLOPs from a first run, which makes the optimizer's states, and the
    memory from a second one, since torch's counter of FLOPs holds on to what a checkpointed network
    computes again.

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
