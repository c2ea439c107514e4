"""Losses that compare embeddings by their cosine: several views' embeddings in, one scalar out.

Legend: N images in this process's batch, W processes, V views, D embedding, K queue length.

Scaling under data parallelism: every process returns the mean over *its own* rows against the
global batch, and `gather_with_grad` adds up the gradients of all processes. So the mean of the loss
over the processes is the loss of the global batch, and DistributedDataParallel averages the
gradients of that loss. Everything is computed in float32 or better, also under autocast.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.common.distributed import gather_rows, gather_with_grad, rank
from pretrain.losses.precision import full_precision


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Returns NT-Xent (SimCLR, arXiv 2002.05709, equation 1) of two views, (N, D) each, in both
    directions.

    It is the mean over the 2N rows, as in the paper's formula. Google's code sums the two
    directions, which is twice this value. Negatives are both views of every other image of the
    global batch. Raises ValueError on bad shapes.
    """
    if z1.shape != z2.shape:
        raise ValueError(f"the two views differ: {tuple(z1.shape)} and {tuple(z2.shape)}")
    return nt_xent_pairs(torch.stack([z1, z2]), [(0, 1)], temperature)


@full_precision
def nt_xent_pairs(z: Tensor, pairs: Sequence[tuple[int, int]], temperature: float) -> Tensor:
    """Returns the mean over `pairs` of the two-view NT-Xent of each pair, for embeddings z (V, N,
    D).

    The loss of a pair uses only its two views, so other views of an image are never its negatives.
    Raises ValueError on bad shapes or pairs.
    """
    if z.ndim != 3 or z.shape[1] == 0:
        raise ValueError(f"embeddings must be (V, N, D) with N > 0, got {tuple(z.shape)}")
    if not pairs or any(not 0 <= v < len(z) for pair in pairs for v in pair):
        raise ValueError(f"pairs {list(pairs)} must name views from 0 to {len(z) - 1}")
    _check_temperature(temperature)
    z = F.normalize(z, dim=-1)
    everyone = _gather_views(z)
    # We avoid `z[[a, b]]`: it copies the indices to the device, and the host waits for the copy.
    losses = [
        _pair_loss(torch.stack([z[a], z[b]]), torch.stack([everyone[a], everyone[b]]), temperature)
        for a, b in pairs
    ]
    return torch.stack(losses).mean()


@full_precision
def queue_contrast(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Returns MoCo's loss (arXiv 1911.05722, equation 1): cross-entropy of 1 positive and K
    negatives.

    q (N, D) are the queries, k (N, D) their keys, and queue (D, K) earlier keys. Keys get no
    gradient. q and k are L2-normalised here; the queue is already normalised. Returns the mean over
    this process's rows.
    """
    _check_temperature(temperature)
    q, k = F.normalize(q, dim=1), F.normalize(k.detach(), dim=1)
    positive = (q * k).sum(dim=1, keepdim=True)
    logits = torch.cat([positive, q @ queue.detach()], dim=1) / temperature
    return F.cross_entropy(logits, logits.new_zeros(len(q), dtype=torch.long))


@full_precision
def batch_contrast(q: Tensor, k: Tensor, temperature: float) -> Tensor:
    """Returns MoCo v3's loss of one direction: each query (N, D) against the keys of the global
    batch.

    Keys (N, D) get no gradient. The positive is the key of the same image. Queries and keys are
    L2-normalised here. The loss is multiplied by 2 * temperature, as in the authors' code (moco-v3
    moco/builder.py `contrastive_loss`).
    """
    _check_temperature(temperature)
    q, k = F.normalize(q, dim=1), F.normalize(k.detach(), dim=1)
    logits = q @ gather_rows(k).T / temperature
    own = torch.arange(len(q), device=q.device) + rank() * len(q)
    return F.cross_entropy(logits, own) * (2 * temperature)


@full_precision
def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """Returns SimSiam's D(p, z) (arXiv 2011.10566, equation 1): minus the mean cosine of the rows
    (N, D).

    No gradient reaches z (stop-gradient).
    """
    return -F.cosine_similarity(p, z.detach(), dim=1).mean()


@full_precision
def normalized_error(p: Tensor, z: Tensor) -> Tensor:
    """Returns BYOL's regression loss (arXiv 2006.07733, equation 2): mean |p/|p| - z/|z||^2 of rows
    (N, D).

    It equals 2 - 2 cosine. No gradient reaches z.
    """
    difference = F.normalize(p, dim=1) - F.normalize(z.detach(), dim=1)
    return difference.square().sum(dim=1).mean()


def _check_temperature(temperature: float) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")


def _gather_views(z: Tensor) -> Tensor:
    """From (V, N, D) of this process to (V, W*N, D) of all processes, in one collective."""
    views, images, dim = z.shape
    rows = gather_with_grad(z.transpose(0, 1).reshape(images, views * dim))
    return rows.view(-1, views, dim).transpose(0, 1)


def _pair_loss(mine: Tensor, everyone: Tensor, temperature: float) -> Tensor:
    """Returns the cross-entropy of this process's 2N rows: mine (2, N, D), everyone (2, W*N, D),
    both L2-normalised.
    """
    local, total = mine.shape[1], everyone.shape[1]
    logits = mine.flatten(0, 1) @ everyone.flatten(0, 1).T / temperature
    own = torch.arange(local, device=mine.device) + rank() * local
    itself = torch.cat([own, own + total])
    positive = torch.cat([own + total, own])
    logits = logits.scatter(1, itself[:, None], float("-inf"))
    return F.cross_entropy(logits, positive)
