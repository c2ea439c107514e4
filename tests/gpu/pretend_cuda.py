"""Tensors that say they are on `cuda:0` on a machine without a GPU, and a count of their cost.

`PretendCuda` is a dispatch mode. Inside it, a tensor on "cuda" is a wrapper around a tensor without
values (on torch's meta device), or, with `values=True`, around one on the CPU. Tensors on the CPU
do not change, so random draws made there have values.

An operation that would fail on a GPU fails here: tensors on two devices, or a CPU generator for a
draw on the GPU. It counts what would be slow there, with file and line: places where the host waits
for the device (a synchronisation), copies from the host's memory, kernels and the bytes that they
read and write, collectives of processes, FLOPs, and the memory of live tensors (in steps of 512
bytes, as torch's caching allocator; without the workspace of libraries and fragmentation).

It needs the runtime of `tests/gpu/runtime`. Without this runtime, torch looks for a driver as soon
as a tensor is sliced, autocast or a generator is made for "cuda", or a gradient is computed.
"""

from __future__ import annotations

import math
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
ROOT = Path(__file__).resolve().parents[2]
OF_THE_PROJECT = tuple(f"{ROOT / folder}/" for folder in ("pretrain", "transfer", "tests"))
ALLOCATION = 512  # bytes
COMPREHENSIONS = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>")
SMALL_COPY = 64 * 1024  # bytes up to which CUDA stages a copy from pageable memory without a wait

# Operations whose result has a size that only the device knows, or whose result the host reads.
WAITING = {
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
    "aten::equal",
    "aten::is_nonzero",
    "aten::repeat_interleave",
    "torchvision::nms",
}
# Operations that write their first argument without reading it.
WRITES_FIRST = ("aten::fill_", "aten::zero_", "aten::normal_", "aten::uniform_", "aten::random_")
ROWS = ("aten::index_select", "aten::index_copy_")
NO_KERNEL = ("aten::detach", "aten::alias", "aten::lift", "aten::empty", "prim::", "c10d::")


def _channels(x: Tensor, number: int) -> tuple[Tensor, ...]:
    """Per-channel statistics in float32, as torch's batch-norm kernels give them."""
    return tuple(x.new_empty(x.shape[1], dtype=torch.float32) for _ in range(number))


# What torch 2.14 has no shapes-only version of.
WITHOUT_VALUES: dict[str, Callable[..., Any]] = {
    "aten::batch_norm_stats": lambda x, *_: _channels(x, 2),
    "aten::batch_norm_gather_stats_with_counts": lambda x, *_: _channels(x, 2),
    "aten::batch_norm_elemt": lambda x, *_: torch.empty_like(x),
    "aten::batch_norm_backward_reduce": lambda grad, x, *_: _channels(x, 4),
    "aten::batch_norm_backward_elemt": lambda grad, x, *_: torch.empty_like(x),
    "aten::equal": lambda *_: True,
}


class CudaTensor(Tensor):
    """A tensor that says it is on `cuda:0`; `inner` is on the meta device or on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> CudaTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=CUDA,
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    # These two make it a wrapper to torch, so that `Module.to` exchanges parameters for it.
    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], *_: Any) -> CudaTensor:
        return CudaTensor(inner["inner"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return PretendCuda.entered().dispatch(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"CudaTensor({tuple(self.shape)}, {self.dtype})"

    def tolist(self) -> Any:
        """Reads the values: torch refuses it for a wrapper, so by way of the CPU."""
        return self.cpu().tolist()


class PretendCuda(TorchDispatchMode):
    """The mode; its counters are since its start or the last `reset`.

    Args:
        values: compute with the CPU's kernels; else with shapes alone.

    Raises (in the code that runs inside it): RuntimeError where CUDA would refuse an operation.
    """

    _entered: list[PretendCuda] = []

    def __init__(self, values: bool = False) -> None:
        super().__init__()
        self.values = values
        self.device = torch.device("cpu" if values else "meta")
        self.live = 0
        self._sizes: dict[int, int] = {}
        self.reset()

    @classmethod
    def entered(cls) -> PretendCuda:
        """The innermost mode that is active."""
        return cls._entered[-1]

    def __enter__(self) -> PretendCuda:
        self._entered.append(self)
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") is a copy
        super().__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        super().__exit__(*failure)
        torch._C._set_only_lift_cpu_tensors(False)
        self._entered.pop()

    def reset(self) -> None:
        """Sets the counters to 0, and the peak of the memory to what is live."""
        self.kernels: Counter[str] = Counter()
        self.collectives: Counter[str] = Counter()
        self.synchronisations: Counter[str] = Counter()  # of places, see `place`
        self.copies: Counter[str] = Counter()  # host to device, of places
        self.large_pageable: Counter[str] = Counter()  # those that wait for pageable memory
        self.convolutions: Counter[str] = Counter()  # and matmuls, of dtypes
        self.flops = 0
        self.moved = 0  # bytes that kernels read and write
        self.peak = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.dispatch(func, args, kwargs or {})

    def dispatch(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """One operation of torch."""
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = [tensor for tensor in tensors if isinstance(tensor, CudaTensor)]
        target = kwargs.get("device")
        to_device = target is not None and torch.device(target).type == "cuda"
        if not on_device and not to_device:
            found = func(*args, **kwargs)
            if func.namespace == "c10d":  # objects that processes exchange on the host
                _answer(func._schema.name, *args)
            return found
        if func is aten._to_copy.default:
            return self._to_copy(args[0], kwargs)
        if func is aten.copy_.default:
            return self._copy_into(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            self._wait("a value is read")
            inner = args[0].inner
            return func(inner) if self.values else (1.0 if inner.is_floating_point() else 1)
        name = func._schema.name
        self._check_devices(name, [t for t in tensors if not isinstance(t, CudaTensor)], on_device)
        self._check_generator(name, kwargs.get("generator"))
        before = self.kernels[name]
        self._count(func, name, args, on_device)
        out = tree_map(self._wrap, self._compute(func, name, args, kwargs, to_device))
        if self.kernels[name] > before:
            self._move_by(func, name, args, kwargs, out)
        packet = func._overloadpacket
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=out)
        return return_and_correct_aliasing(func, args, kwargs, out)

    def _compute(
        self, func: Any, name: str, args: tuple, kwargs: dict[str, Any], to_device: bool
    ) -> Any:
        inner_args, inner_kwargs = tree_map(self._unwrap, args), tree_map(self._unwrap, kwargs)
        if to_device:
            inner_kwargs["device"] = self.device
            inner_kwargs.pop("pin_memory", None)
        generator = inner_kwargs.get("generator")
        if generator is not None:
            seed = generator.initial_seed() % 2**31
            inner_kwargs["generator"] = torch.Generator().manual_seed(seed) if self.values else None
        if name in WITHOUT_VALUES and not self.values:
            return WITHOUT_VALUES[name](*inner_args)
        found = func(*inner_args, **inner_kwargs)
        if name.startswith("c10d::") and self.values:
            _answer(name, *inner_args)
        return found

    def _to_copy(self, source: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """`Tensor.to` between devices, dtypes and layouts."""
        options = {k: v for k, v in kwargs.items() if k not in ("non_blocking", "pin_memory")}
        non_blocking = kwargs.get("non_blocking", False)
        target = kwargs.get("device")
        if isinstance(source, CudaTensor) and target is not None:
            if torch.device(target).type == "cpu":
                self._wait(f"a copy of {source.nbytes} bytes to the host")
                inner = source.inner if self.values else torch.ones(source.shape)
                options.setdefault("dtype", source.dtype)
                return aten._to_copy.default(inner, **options)
        if not isinstance(source, CudaTensor):
            self._from_host(source, non_blocking)
        self.kernels["aten::_to_copy"] += 1
        options["device"] = self.device
        out = self._wrap(aten._to_copy.default(self._unwrap(source), **options))
        self._move(source, out)
        return out

    def _copy_into(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        """`Tensor.copy_`."""
        if not isinstance(target, CudaTensor):
            self._wait(f"a copy of {source.nbytes} bytes to the host")
            return target.copy_(self._unwrap(source)) if self.values else target
        if not isinstance(source, CudaTensor):
            self._from_host(source, non_blocking)
        self.kernels["aten::copy_"] += 1
        self._move(source, target)
        target.inner.copy_(self._unwrap(source).to(self.device))
        return target

    def _from_host(self, source: Tensor, non_blocking: bool) -> None:
        """Counts a copy from the host's memory, by its place. CUDA waits for one that is blocking,
        and for one of pageable memory that is not small, whatever was asked for."""
        self.copies[place()] += 1
        if not non_blocking:
            self._wait(f"a blocking copy of {source.nbytes} bytes to the device")
        elif source.nbytes > SMALL_COPY and not source.is_pinned():
            self.large_pageable[f"{source.nbytes} bytes, {place()}"] += 1

    def _check_devices(self, name: str, on_host: list[Tensor], on_device: list[CudaTensor]) -> None:
        """Raises RuntimeError as CUDA does; a CPU tensor without dimensions is a number to it, and
        indices may be on the CPU."""
        wrong = [tuple(tensor.shape) for tensor in on_host if tensor.dim()]
        if not on_device or not wrong:
            return
        if name in ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"):
            for tensor in on_host:
                self._from_host(tensor, non_blocking=False)
            return
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0"
            f" and cpu: {name} of CPU tensors {wrong}, {place()}"
        )

    def _check_generator(self, name: str, generator: torch.Generator | None) -> None:
        if generator is not None and generator.device.type != "cuda":
            raise RuntimeError(
                "Expected a 'cuda' device type for generator but found"
                f" '{generator.device.type}': {name}, {place()}"
            )

    def _count(self, func: Any, name: str, args: tuple, on_device: list[CudaTensor]) -> None:
        if name.startswith("c10d::"):
            self.collectives[name.removeprefix("c10d::").rstrip("_")] += 1
        if not func.is_view and not name.startswith(NO_KERNEL):
            self.kernels[name] += 1
        puts = name.startswith(("aten::index_put", "aten::_index_put"))
        masks = any(
            index.dtype in (torch.bool, torch.uint8)
            for index in (_tensors_in(args[1]) if puts or name == "aten::index" else ())
        )
        # torch turns `x[mask] = number` into masked_fill_, which needs no places.
        fills = puts and not isinstance(args[2], CudaTensor) and args[2].numel() == 1
        if (name in WAITING and on_device) or (masks and not fills):
            self._wait(name.removeprefix("aten::"))
        if name in ("aten::convolution", "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"):
            self.convolutions[f"{name.removeprefix('aten::')} {on_device[-1].dtype}"] += 1

    def _move_by(self, func: Any, name: str, args: tuple, kwargs: dict[str, Any], out: Any) -> None:
        if name in ROWS:  # of the largest tensor only some rows are touched
            rows = args[3] if name == "aten::index_copy_" else out
            self._move(rows, rows, args[2])
            return
        written = {argument.name for argument in func._schema.arguments if argument.is_out}
        read = [value for key, value in kwargs.items() if key not in written]
        self._move(args[1 if name.startswith(WRITES_FIRST) else 0 :], read, out)

    def _move(self, *tensors: Any) -> None:
        """Counts the bytes of tensors on the device, of one that is expanded once."""
        for tensor in _tensors_in(tensors):
            if isinstance(tensor, CudaTensor):
                sizes = zip(tensor.shape, tensor.stride())
                self.moved += math.prod(n for n, stride in sizes if stride) * tensor.itemsize

    def _wait(self, why: str) -> None:
        self.synchronisations[f"{why}, {place()}"] += 1

    def _wrap(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, CudaTensor):
            return value
        storage = value.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = -(-storage.nbytes() // ALLOCATION) * ALLOCATION
            self.live += self._sizes[key]
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._free, key)
        return CudaTensor(value)

    def _free(self, key: int) -> None:
        self.live -= self._sizes.pop(key, 0)

    def _unwrap(self, value: Any) -> Any:
        if isinstance(value, CudaTensor):
            return value.inner
        if isinstance(value, Tensor) and value.dim() and not self.values:
            return value.to(self.device)  # an index on the CPU, or the source of a copy
        return value


def _answer(name: str, *args: Any) -> None:
    """Fills in the result of a collective as if all processes had our values: the group of
    processes that is pretended leaves it as it is.

    Raises NotImplementedError for collectives that the project does not use.
    """
    if name == "c10d::allreduce_":  # a sum
        for tensor in args[0]:
            tensor.mul_(dist.get_world_size())
    elif name == "c10d::_allgather_base_":
        gathered, own = args[:2]
        gathered.copy_(torch.cat([own] * dist.get_world_size()).view(gathered.shape))
    elif name == "c10d::allgather_":
        for gathered, own in zip(*args[:2]):
            for place in gathered:
                place.copy_(own)
    elif name not in ("c10d::broadcast_", "c10d::barrier"):
        raise NotImplementedError(f"{name} has no pretended answer")


def _tensors_in(values: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def place(depth: int = 3) -> str:
    """The innermost `depth` calls in the project's code: "FILE:LINE FUNCTION < FILE:LINE ..."."""
    found: list[str] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and len(found) < depth:
        file, function = frame.f_code.co_filename, frame.f_code.co_name
        # Comprehensions are functions of their own before Python 3.12 only.
        if file.startswith(OF_THE_PROJECT) and file != __file__ and function not in COMPREHENSIONS:
            found.append(f"{Path(file).relative_to(ROOT)}:{frame.f_lineno} {function}")
        frame = frame.f_back
    return " < ".join(found) or "in torch's own code"
