"""Processes: rank and size, device and seeds, start by torch's elastic launcher, and collectives.

In a single process the collectives are a no-op or the identity. Legend: N rows per process,
W processes, D columns.
"""

from __future__ import annotations

import inspect
import os
import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pretrain.common.errors import InputError
from pretrain.common.exit_status import exit_status
from pretrain.common.locks import HELD, Kept
from pretrain.common.stop_signals import STOPPED, Stopped

Value = TypeVar("Value")


def world_size() -> int:
    """Returns the number of processes W."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Returns this process's number, 0..W-1."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_main() -> bool:
    """Returns whether this process writes files and prints."""
    return rank() == 0


def barrier() -> None:
    """Waits for all processes."""
    if world_size() > 1:
        dist.barrier()


def init_distributed() -> torch.device:
    """Joins the process group that torchrun's environment describes; returns this process's device.

    It uses NCCL with one GPU per process if CUDA is present, otherwise gloo on the CPU.
    """
    cuda = torch.cuda.is_available()
    take_gpu()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            timeout=timedelta(minutes=60),
            device_id=process_device() if cuda else None,  # otherwise NCCL guesses and warns
        )
    return process_device()


def take_gpu() -> None:
    """Makes the GPU that the launcher's environment names this process's own, if CUDA is present.

    Before the processes have joined, `process_device` is right only after this call.
    """
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))


def check_device(kind: str, key: str = "device") -> None:
    """Raises InputError for a kind of device that `process_device` does not have.

    Args:
        key: the name of the setting in the message.
    """
    if kind not in ("cuda", "cpu"):
        raise InputError(
            f"{key} {kind!r} is not supported; set cuda (the GPU if there is one; "
            "CUDA_VISIBLE_DEVICES says which) or cpu"
        )


def process_device(kind: str = "cuda") -> torch.device:
    """Returns this process's GPU, or the CPU if there is no GPU or `kind` is "cpu".

    Raises InputError for a different kind, since the run would use a device nobody asked for.
    """
    check_device(kind)
    if kind != "cpu" and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def seed_everything(seed: int) -> None:
    """Seeds torch's and numpy's global generators."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)


def close_distributed() -> None:
    """Leaves the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def distribute(module: nn.Module, static: bool = False) -> nn.Module:
    """Returns the module itself in one process, otherwise its DistributedDataParallel, on its
    device.

    Buffers are not broadcast before each step: our batch norms keep them equal, or need their own.
    A module whose attribute `leaves_unused` is true has parameters that its loss does not use.
    Gradients are views of the exchanged buffers, which saves one copy of them in memory.

    Args:
        static: each step has the same graph and one backward pass, so torch does not have to look
            for changes.
    """
    if world_size() == 1:
        return module
    device = next(module.parameters()).device
    ids = [device.index] if device.type == "cuda" else None
    # torch 2.14 has another name for this option, and warns about the old one.
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    unused = getattr(module, "leaves_unused", False)
    options: dict[str, Any] = {name: False, "find_unused_parameters": unused}
    options |= {"gradient_as_bucket_view": True, "static_graph": static and not unused}
    return DistributedDataParallel(module, device_ids=ids, **options)


def under_torchrun() -> bool:
    """Returns whether an elastic launcher (torchrun or `launch`) started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "LOCAL_RANK" in os.environ


def is_first_of_launcher() -> bool:
    """Returns whether this process is the only one, or the first that an elastic launcher started.

    It works before the processes have joined (for later, see `is_main`). Use it for work that one
    process does for all: checking the input, making the folder, printing.
    """
    return int(os.environ.get("RANK", 0)) == 0


def check_gpus(num_gpus: int) -> None:
    """Raises InputError if this machine has fewer GPUs than requested (1 also means the CPU)."""
    if num_gpus < 1:
        raise InputError(f"--num-gpus {num_gpus}: give 1 or more")
    missing = missing_gpus(num_gpus)
    if missing:
        raise InputError(missing)


def missing_gpus(num_gpus: int) -> str | None:
    """Returns what to do if this machine has fewer GPUs than requested (1 also means the CPU);
    None if it has enough.
    """
    present = torch.cuda.device_count()
    if num_gpus == 1 or present >= num_gpus:
        return None
    if present:
        found, less = str(present), f"give at most {present}"
    else:
        found, less = "no GPU that torch can use", "leave the option out to use the CPU"
    return (
        f"--num-gpus {num_gpus}: this machine has {found}; {less}, or start CPU processes with "
        f"torchrun --nproc-per-node {num_gpus}"
    )


def will_launch(num_processes: int) -> bool:
    """Returns whether `launch` starts processes, which get their arguments pickled."""
    return num_processes > 1 and not under_torchrun()


def launch(function: Callable[..., Any], num_processes: int, args: tuple = ()) -> None:
    """Runs `function(*args)` in `num_processes` processes of this machine, as torchrun would.

    With one process, or if a launcher has already started this process, it is a plain call.

    Raises:
        Stopped: a signal asked the processes to end.
        torch.distributed.elastic.multiprocessing.errors.ChildFailedError: a process failed.
    """
    if not will_launch(num_processes):
        function(*args)
        return
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id="mscn",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        **_passed_on(LaunchConfig),
    )
    try:
        elastic_launch(config, _run_rank)(HELD, function, *args)
    except SignalException as error:
        raise Stopped(error.sigval) from None
    except ChildFailedError as error:
        stopped = [f.exitcode for f in error.failures.values() if f.exitcode in STOPPED]
        if stopped:
            raise Stopped(STOPPED[stopped[0]]) from None
        raise


def _passed_on(config: type) -> dict[str, Any]:
    """The option of torch's launcher for the signals that end it. It would also handle those that
    this command ignores, such as SIGHUP under `nohup`."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    names = [each.name for each in numbers if signal.getsignal(each) != signal.SIG_IGN]
    known = "signals_to_handle" in inspect.signature(config).parameters
    return {"signals_to_handle": ",".join(names)} if known and names else {}


def _run_rank(held: list[Kept], function: Callable[..., Any], *args: Any) -> None:
    """Runs in a launched process; `held` keeps the command's locks as long as the process lives."""

    def run() -> None:
        function(*args)

    status = exit_status(run, says_stop=False)
    if status:
        raise SystemExit(status)


# torch 2.14 has another name for this function, and warns about the old one.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class _GatherRows(torch.autograd.Function):
    """All-gather whose backward pass sums the gradients of all processes for our rows.

    This is our own code because torch's counterpart changed its name between 2.10 and 2.14.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return gather_rows(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad.chunk(world_size())[rank()]


def gather_with_grad(rows: Tensor) -> Tensor:
    """Returns the rows of all processes, (W*N, D) in rank order, differentiable; `rows` are (N, D).

    The backward pass adds up the gradients of all processes for a row.
    """
    return rows if world_size() == 1 else _GatherRows.apply(rows)


def gather_rows(rows: Tensor) -> Tensor:
    """Returns the rows of all processes, (W*N, D) in rank order, without a gradient.

    `rows` are those of this process, (N, D).
    """
    if world_size() == 1:
        return rows
    # Gathered into one tensor: a list of tensors would cost a GPU a copy for each process.
    everyone = rows.new_empty((world_size() * len(rows), *rows.shape[1:]))
    _all_gather(everyone, rows.contiguous())
    return everyone


def all_reduce_mean(value: Tensor) -> Tensor:
    """Returns the mean over processes, without a gradient; `value` itself stays unchanged."""
    if world_size() == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def from_main(value: Value | None, make: Callable[[], Value]) -> Value:
    """Returns each process's own value; but if one process has none, the main process's value for
    all.

    The main process sends its value to the others, and calls `make` if it has none. So a folder
    that all processes need is listed only once. All processes must call this.

    Raises:
        InputError: on every process, if `make` raised it.
    """
    if all(gather_objects(value is not None)):
        assert value is not None
        return value
    sent: list[Value | InputError | None] = [None]
    if is_main():
        try:
            sent[0] = value if value is not None else make()
        except InputError as error:
            sent[0] = error
    if world_size() > 1:
        dist.broadcast_object_list(sent)
    found = sent[0]
    if isinstance(found, InputError):
        raise found
    assert found is not None
    return found


def gather_objects(value: Any) -> list[Any]:
    """Returns every rank's (picklable) value, in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_items(items: list[Any]) -> list[Any]:
    """Returns the (picklable) items of all ranks in one list, in rank order, on every rank."""
    return [item for part in gather_objects(items) for item in part]
