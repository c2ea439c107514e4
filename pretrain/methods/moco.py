"""MoCo v1 and v2 (He et al., arXiv 1911.05722; Chen et al., arXiv 2003.04297): a queue of keys.

Facts about the authors' code: facebookresearch/moco moco/builder.py.
Legend: V views, N images in this process's batch, W processes, F trunk features, D embedding,
K queue length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import normalize

from pretrain.common.device_copy import send
from pretrain.common.distributed import gather_rows, rank, world_size
from pretrain.losses.similarity import queue_contrast
from pretrain.methods.base import PairMethod, outcome
from pretrain.methods.encode import encode
from pretrain.methods.pairs import one_direction, pairs_of, views_in
from pretrain.methods.target import Momentum, make_target, update_target


class MoCo(PairMethod):
    """Compares queries with their keys and a queue of earlier keys; v1 and v2 differ in the
    projector.

    Keys pass the momentum encoder in an order shuffled over all processes ("shuffling BN"). So a
    query and its key never share their batch-norm group. Without groups the shuffle would change
    nothing and is left out. If an image has several key views, only the first enters the queue.

    Args:
        queue_size: K, a multiple of the global batch.
        online: the branch (0 or 1) whose views are the queries.
        shuffle: whether batch-norm groups are smaller than the global batch.
        options: passed to `PairMethod`.
    """

    queue: Tensor
    queue_ptr: Tensor

    def __init__(
        self,
        trunk: nn.Module,
        projector: nn.Module,
        momentum: Momentum,
        *,
        queue_size: int = 65536,
        temperature: float = 0.07,
        online: int = 0,
        shuffle: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(trunk, projector, **options)
        self.target_trunk = make_target(trunk)
        self.target_projector = make_target(projector)
        self.momentum = momentum
        self.temperature = temperature
        self.online = online
        self.shuffle = shuffle
        out_dim = [m for m in projector.modules() if isinstance(m, nn.Linear)][-1].out_features
        self.register_buffer("queue", normalize(torch.randn(out_dim, queue_size), dim=0))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))
        self._keys: Tensor | None = None

    def forward(
        self,
        views: Sequence[Tensor],
        branches: Sequence[int],
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Any]:
        """See `Method.forward`; the generator of the first process draws the shuffle."""
        pairs = one_direction(pairs_of(self.pairing, branches), branches, self.online)
        queries, targets = views_in(pairs, 0), views_in(pairs, 1)
        features, q = encode(self._network, views, queries, branches, self.joint_forward)
        keys = self._encode_keys(views, targets, branches, generator)
        losses = [queue_contrast(q[a], keys[b], self.queue, self.temperature) for a, b in pairs]
        self._keys = normalize(keys[targets[0]].float(), dim=1)
        return outcome({"contrast": torch.stack(losses).mean()}, features[queries[0]])

    @torch.no_grad()
    def _encode_keys(
        self,
        views: Sequence[Tensor],
        targets: Sequence[int],
        branches: Sequence[int],
        generator: torch.Generator | None,
    ) -> dict[int, Tensor]:
        if not self.shuffle:
            return encode(self._target, views, targets, branches, self.joint_forward)[0]
        order = shared_order(len(views[0]) * world_size(), views[0].device, generator)
        mixed = {view: own_rows(gather_rows(views[view])[order]) for view in targets}
        chosen = [mixed.get(view, views[view]) for view in range(len(views))]
        (keys,) = encode(self._target, chosen, targets, branches, self.joint_forward)
        back = order.argsort()
        return {view: own_rows(gather_rows(key)[back]) for view, key in keys.items()}

    @torch.no_grad()
    def after_step(self, step: int, total_steps: int) -> None:
        """Moves the target towards the online network, and puts the step's keys into the queue."""
        momentum = self.momentum.at(step, total_steps)
        update_target(self.target_trunk, self.trunk, momentum)
        update_target(self.target_projector, self.projector, momentum)
        assert self._keys is not None, "after_step follows a forward pass"
        keys = gather_rows(self._keys)
        length = self.queue.shape[1]
        # The pointer stays on the device: reading it would make the host wait for a GPU.
        places = (self.queue_ptr + torch.arange(len(keys), device=keys.device)) % length
        self.queue.index_copy_(1, places, keys.T)
        self.queue_ptr.add_(len(keys)).remainder_(length)
        self._keys = None

    def _network(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.trunk(images)
        return pooled, self.projector(pooled)

    def _target(self, images: Tensor) -> tuple[Tensor]:
        return (self.target_projector(self.target_trunk(images)),)


def shared_order(rows: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Returns a random order of `rows` rows. The first process draws it, and all processes use
    it.
    """
    drawn_on = generator.device if generator is not None else torch.device("cpu")
    order = send(torch.randperm(rows, generator=generator, device=drawn_on), device)
    if world_size() > 1:
        dist.broadcast(order, src=0)
    return order


def own_rows(rows: Tensor) -> Tensor:
    """Returns this process's part (N, ...) of rows (W*N, ...)."""
    return rows.chunk(world_size())[rank()]
