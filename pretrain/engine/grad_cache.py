"""A step that computes its batch in parts, with a loss that compares all images (GradCache, Gao et
al., arXiv 2101.06983): it needs the memory of one part and has the negatives of the full batch.

First the embeddings of all parts are computed without a graph. Then their loss and its gradient
with respect to the embeddings are computed. Finally each part is computed again with a graph, and
the gradient is passed through it. The result equals a step of the full batch in which batch norms
see one part at a time. A network must give the same embeddings twice, so it must not draw random
numbers.

Legend: V views, N images in this process's batch, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pretrain.methods.base import outcome
from pretrain.methods.shared_encoder import SharedEncoder


def forward_backward_in_parts(
    method: SharedEncoder,
    model: nn.Module,
    views: Sequence[Tensor],
    branches: Sequence[int],
    *,
    parts: int,
    autocast: Callable[[], AbstractContextManager[Any]],
    backward: Callable[[Tensor], None],
) -> dict[str, Any]:
    """Loss and gradients of V views (N, 3, H, W); returns the same as the method's `forward`.

    The gradients are added to the present gradients of the parameters. Running statistics are
    updated once, by the mean over the parts, as in `GroupBatchNorm`.

    Args:
        model: the method, or its DistributedDataParallel. Its processes then exchange their
            gradients only with the last part.
        parts: the number of parts, which divides N.
        autocast: makes the context of a forward pass.
        backward: runs the backward pass of a scalar loss; it may scale the loss.
    """
    split = [[view.chunk(parts)[part] for view in views] for part in range(parts)]
    statistics = Statistics(method)
    found = []
    for given in split:
        with torch.no_grad(), autocast():
            found.append(method.embed(given, branches))
        statistics.take()
    z = torch.cat([embeddings for _, embeddings in found], dim=1).requires_grad_()
    with autocast():
        result = outcome(
            method.compare(z, branches), torch.cat([features for features, _ in found])
        )
    backward(result["loss"])
    assert z.grad is not None
    for part, (given, gradient) in enumerate(zip(split, z.grad.chunk(parts, dim=1))):
        last = part == parts - 1
        with nullcontext() if last else _apart(model):
            with autocast():
                # The loss is linear in the embeddings, with the gradient as slope
                passed_on = model(given, branches, gradient=gradient)["loss"]
            passed_on.backward()
    statistics.put_mean()
    return {**result, "loss": result["loss"].detach()}


def _apart(model: nn.Module) -> AbstractContextManager[Any]:
    """Returns a context in which the processes do not exchange gradients."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


class Statistics:
    """Holds the running statistics of a module; each part updates them from the same start."""

    def __init__(self, module: nn.Module) -> None:
        self._buffers = list(module.buffers())
        self._first = [buffer.clone() for buffer in self._buffers]
        self._moved: list[list[Tensor]] = []

    def take(self) -> None:
        """Keeps the statistics after a part, and restores those of the start."""
        self._moved.append([buffer.clone() for buffer in self._buffers])
        self._put(self._first)

    def put_mean(self) -> None:
        """Sets them to the mean over the parts; counts are equal and are taken from one part."""
        self._put([_mean(values) for values in zip(*self._moved)])

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for buffer, value in zip(self._buffers, values):
            buffer.copy_(value)


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean(dim=0) if values[0].is_floating_point() else values[0]
