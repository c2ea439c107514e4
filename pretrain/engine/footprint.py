"""What a pretraining step needs of a GPU: a config and a number of processes in, bytes and FLOPs
out, in seconds, on any machine.

The step is the whole one of a process: forward, loss, backward, clipping, optimizer with its
states, momentum copies and queue. Its input are the views and the crops that they were made of; the
making of the views is left out, whose memory is free again before the backward pass reaches the
peak, unless a side stream makes the next step's: these are counted then, without what their making
takes for a moment. The other processes are pretended, so that loss and queue meet the images of
all. Batch norm is that of one process: synchronised, it keeps the same activations.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from fvcore.common.config import CfgNode
from torch.testing._internal.distributed.fake_pg import FakeStore

from pretrain.common.run_needs import RunNeeds
from pretrain.common.step_cost import (
    StepCost,
    cost_of_step,
    fake_tensors,
    gradient_buckets,
    make_fake,
)
from pretrain.data.build import branches, view_sizes
from pretrain.data.official_lists import IMAGES
from pretrain.engine.grad_cache import forward_backward_in_parts
from pretrain.engine.loop import clip_gradients
from pretrain.engine.nonfinite_guard import StepGuard
from pretrain.engine.run import build_solver, convert_norms, total_steps
from pretrain.methods.build import build_method
from pretrain.methods.shared_encoder import SharedEncoder

CLASSES = 1000  # outputs of a classifier: ImageNet's, whose head is small next to any backbone


def run_needs(cfg: CfgNode, num_processes: int, num_images: int | None) -> RunNeeds:
    """Returns what a run needs from each of its GPUs.

    Args:
        cfg: a config checked for `num_processes`.
        num_images: number of training images; None: not known, except for a public data set.
    """
    images = num_images or IMAGES.get(cfg.DATASETS.TRAIN)
    steps = cfg.SOLVER.MAX_STEPS or None
    if images is not None:
        steps = total_steps(cfg, images // cfg.SOLVER.BATCH_SIZE)
    return RunNeeds(
        cost=step_cost(cfg, num_processes),
        processes=num_processes,
        images=cfg.SOLVER.BATCH_SIZE // num_processes,
        steps=steps,
        half=cfg.SOLVER.BF16,
        remedy="lower SOLVER.BATCH_SIZE, or use more processes",
    )


def step_cost(cfg: CfgNode, num_processes: int = 1) -> StepCost:
    """Returns the cost of a training step of one process, in the precision that the config sets.

    Args:
        cfg: a config checked for `num_processes`.
    """
    images = cfg.SOLVER.BATCH_SIZE // num_processes
    own = cfg.clone()
    own.defrost()
    own.SOLVER.BATCH_SIZE = images
    with torch.device("meta"):
        method = build_method(own, num_classes=CLASSES).to(memory_format=torch.channels_last)
        convert_norms(own, method, torch.device("cpu"))
    with fake_tensors(), _one_of(num_processes):
        make_fake(method)
        method.train()
        optimizer, guard = build_solver(own, method), StepGuard(method)
        views = [torch.empty(images, 3, side, side) for side in view_sizes(own)]
        crops = [view.to(torch.uint8) for view in views]
        labels = torch.zeros(images, dtype=torch.long)

        def autocast() -> torch.autocast:
            return torch.autocast("cpu", dtype=torch.bfloat16, enabled=own.SOLVER.BF16)

        def step() -> None:
            guard.before()
            if own.SOLVER.ACCUMULATE > 1:
                optimizer.zero_grad(set_to_none=True)
                assert isinstance(method, SharedEncoder)  # `check_config` has refused the others
                forward_backward_in_parts(
                    method,
                    method,
                    views,
                    branches(own),
                    parts=own.SOLVER.ACCUMULATE,
                    autocast=autocast,
                    backward=lambda loss: loss.backward(),
                )
            else:
                with autocast():
                    outcome = method(
                        views, branches(own), labels=labels, generator=torch.Generator()
                    )
                optimizer.zero_grad(set_to_none=True)
                outcome["loss"].backward()
            clip_gradients(optimizer, own.SOLVER.CLIP_NORM)
            optimizer.step()
            method.after_step(0, 10)

        held = [list(method.parameters()), list(method.buffers()), views, crops]
        if own.SOLVER.SIDE_STREAM:  # the next step's, since nothing makes it wait for this one
            held.append([torch.empty_like(tensor) for tensor in (*views, *crops)])
        return cost_of_step(step, [held, gradient_buckets(method, num_processes)])


@contextmanager
def _one_of(num_processes: int) -> Iterator[None]:
    """Makes this process the first of several; it gathers their tensors without values."""
    if num_processes == 1:
        yield
        return
    dist.init_process_group("fake", rank=0, world_size=num_processes, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()
