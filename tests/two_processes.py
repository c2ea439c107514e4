"""Runs a function in two gloo processes on the CPU, for tests of code over several processes.

The function is found by its name in the new processes. It writes its results into files.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_in_two(function: Callable[..., None], folder: Path, *args: Any) -> None:
    """Runs `function(rank, str(folder), *args)` for ranks 0 and 1 of a process group, which meet in
    `folder`.

    Raises:
        torch.multiprocessing.ProcessRaisedException: one of them raised.
    """
    # The two are forked from one process that has imported torch, which takes longer than most of
    # these tests. It is started once, without threads and without what the tests changed.
    multiprocessing.set_forkserver_preload(["pretrain.engine.run", "tests.two_processes"])
    mp.start_processes(
        _run, args=(function, str(folder), args), nprocs=2, start_method="forkserver"
    )


def _run(rank: int, function: Callable[..., None], folder: str, args: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    function(rank, folder, *args)
    dist.barrier()  # neither leaves while the other still waits for what it sends
    # Without the interpreter's shutdown: gloo's threads outlive destroy_process_group (torch 2.14),
    # and one that wants Python by then ends the process by std::terminate.
    os._exit(0)
