"""Counts what an action costs on pretended CUDA, and makes the process group in which it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from tests.gpu.pretend_cuda import PretendCuda

# The numbers as they are stored, in this order; those of views are pretraining's alone.
ORDER = (
    *("images", "views_synchronisations", "synchronisations", "large_pageable_copies"),
    *("collectives", "host_to_device_copies", "view_kernels", "view_gb", "kernels", "model_mib"),
    *("peak_mib", "gflop", "dtypes", "places"),
)


@dataclass(frozen=True)
class Action:
    """What a case does, once it is set up.

    Attributes:
        run: a training step, or a pass over some images.
        images: that a process takes in one run.
        repeated: the second run is counted, when the optimizer has its state.
    """

    run: Callable[[], object]
    images: int
    repeated: bool = False


def count(
    prepare: Callable[[], Action], world: int, values: bool, rank: int | None = None
) -> dict[str, Any]:
    """The numbers of an action, as one of `world` processes takes it.

    Args:
        prepare: builds what the action needs, on pretended CUDA and in the group of processes.
        values: compute, where what is done depends on values; else with shapes alone.
        rank: of the process; None: the last one.
    """
    with process_group(world, rank), PretendCuda(values) as cuda:
        torch.manual_seed(0)
        action = prepare()
        if action.repeated:
            action.run()
        held = cuda.live
        cuda.reset()
        action.run()
        return counted(cuda, action.images, held)


def counted(
    cuda: PretendCuda, images: int, held: int, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The numbers since the last `reset`; `places` are the synchronisations by file and line.

    Args:
        held: bytes that were live before.
        more: numbers of the kind of case.
    """
    found = {
        "images": images,
        "synchronisations": sum(cuda.synchronisations.values()),
        "large_pageable_copies": sum(cuda.large_pageable.values()),
        "collectives": dict(sorted(cuda.collectives.items())),
        "host_to_device_copies": sum(cuda.copies.values()),
        "kernels": sum(cuda.kernels.values()),
        "model_mib": round(held / 2**20, 1),
        "peak_mib": round(cuda.peak / 2**20, 1),
        "gflop": round(cuda.flops / 1e9, 2),
        "dtypes": dict(sorted(cuda.convolutions.items())),
        "places": dict(cuda.synchronisations + cuda.large_pageable),
        **(more or {}),
    }
    return {key: found[key] for key in ORDER if key in found}


@contextlib.contextmanager
def process_group(world: int, rank: int | None = None) -> Iterator[None]:
    """One of `world` processes of a group in which nothing is sent, the last one unless its rank is
    given; no group for one process."""
    if world == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    rank = world - 1 if rank is None else rank
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()
