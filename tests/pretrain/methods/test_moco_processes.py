"""MoCo over two processes without synchronised batch norms, against one process that shuffles the
keys and splits both batches by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from torch.nn.parallel import DistributedDataParallel

from pretrain.common.distributed import all_reduce_mean
from pretrain.methods.moco import MoCo
from pretrain.methods.target import Momentum
from tests.two_processes import run_in_two

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def half_of_the_batch(rank: int, folder: str, method: MoCo, views: list[Tensor]) -> None:
    """One of two processes: one step on its half of the images."""
    method = copy.deepcopy(method)  # what was sent is in memory that the processes share
    ddp = DistributedDataParallel(method, broadcast_buffers=False)
    generator = torch.Generator().manual_seed(10 + rank)  # its own on each process
    half = [view[rank * 4 : rank * 4 + 4] for view in views]
    loss = ddp(half, [0, 1], generator=generator)["loss"]
    loss.backward()
    method.after_step(0, 10)
    grads = torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])
    state = {"loss": all_reduce_mean(loss), "own": loss.detach(), "grads": grads}
    state |= {"queue": method.queue, "pointer": method.queue_ptr}
    torch.save(state, f"{folder}/{rank}.pt")


def test_two_processes_equal_the_shuffle_by_hand(
    parts: Callable, views: Callable, moved: Callable, tmp_path: Path
) -> None:
    method = MoCo(*parts("moco", dtype=torch.float32), Momentum(0.9), queue_size=16)
    moved(method.target_trunk)
    images = views(2, images=8, dtype=torch.float32)
    run_in_two(half_of_the_batch, tmp_path, method, images)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(10))  # the first process's
    keys, queries = torch.empty(8, 5), []
    for half in range(2):
        mine = order[half * 4 : half * 4 + 4]
        with torch.no_grad():
            keys[mine] = method.target_projector(method.target_trunk(images[1][mine]))
        queries.append(method.projector(method.trunk(images[0][half * 4 : half * 4 + 4])))
    q, k = normalize(torch.cat(queries), dim=1), normalize(keys, dim=1)
    logits = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ method.queue], dim=1) / 0.07
    losses = cross_entropy(logits, torch.zeros(8, dtype=torch.long), reduction="none")
    losses.mean().backward()
    grads = torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])
    for rank in range(2):
        theirs = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(theirs["loss"], losses.mean().detach(), **CLOSE)
        own = losses[rank * 4 : rank * 4 + 4].mean().detach()
        torch.testing.assert_close(theirs["own"], own, **CLOSE)
        torch.testing.assert_close(theirs["grads"], grads, **CLOSE)
        torch.testing.assert_close(theirs["queue"][:, :8], k.T, **CLOSE)
        assert torch.equal(theirs["queue"][:, 8:], method.queue[:, 8:])
        assert theirs["pointer"].tolist() == [8]
