"""Masked Siamese Networks' loss (MSN, arXiv 2204.07141): embeddings and prototypes in, terms out.

Legend: N images in this process's batch, W processes, A anchor views an image, D embedding,
K prototypes. Facts about the authors' code: facebookresearch/msn src/losses.py.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from pretrain.common.distributed import gather_with_grad, world_size
from pretrain.losses.precision import full_precision

SINKHORN_ROUNDS = 3


@full_precision
def prototype_probabilities(z: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """Returns the softmax over prototypes (K, D) of the cosine / temperature of z (N, D): (N,
    K).
    """
    similarity = F.normalize(z, dim=1) @ F.normalize(prototypes, dim=1).T
    return F.softmax(similarity / temperature, dim=1)


def sharpen(probabilities: Tensor, temperature: float) -> Tensor:
    """Returns rows (N, K) raised to 1 / temperature and normalised again."""
    # Computed with logarithms: a tiny probability to the fourth power would underflow.
    return F.softmax(probabilities.log() / temperature, dim=1)


@torch.no_grad()
def sinkhorn(probabilities: Tensor, rounds: int = SINKHORN_ROUNDS) -> Tensor:
    """Balances assignments (N, K) so that all prototypes get equal mass over the global batch.

    This is the algorithm of Sinkhorn and Knopp, as SwAV (arXiv 2006.09882) and MSN use it.
    In turns, prototypes are scaled to sum to 1/K and images to sum to 1/(W*N). At the end rows sum
    to 1.
    """
    images, count = probabilities.shape
    total = images * world_size()
    mass = probabilities / _sum_over_processes(probabilities.sum())
    tiny = torch.finfo(mass.dtype).tiny  # a prototype without assignments keeps mass 0
    for _ in range(rounds):
        mass = mass / _sum_over_processes(mass.sum(dim=0)).clamp_min(tiny) / count
        mass = mass / mass.sum(dim=1, keepdim=True) / total
    return mass * total


@full_precision
def msn_terms(
    anchors: Tensor,
    targets: Tensor,
    prototypes: Tensor,
    *,
    temperature: float,
    target_sharpening: float,
    balance: bool,
) -> dict[str, Tensor]:
    """Returns the unweighted terms of MSN's loss.

    Args:
        anchors: (A, N, D), with a gradient.
        targets: (N, D); no gradient reaches them.
        prototypes: (K, D).
        target_sharpening: temperature of the targets' sharpening (0.25).
        balance: apply Sinkhorn to the targets.

    Returns:
        `assignment`: cross-entropy of targets and anchors, mean over A*N rows; `mean_entropy`:
        log K minus the entropy of the mean prediction of the global batch, 0 if all prototypes
        are used equally; `entropy`: mean entropy of the anchors' predictions.
    """
    predicted = prototype_probabilities(anchors.flatten(0, 1), prototypes, temperature)
    with torch.no_grad():
        wanted = sharpen(
            prototype_probabilities(targets, prototypes, temperature), target_sharpening
        )
        if balance:
            wanted = sinkhorn(wanted)
    predicted = predicted.clamp_min(torch.finfo(predicted.dtype).tiny)
    logs = predicted.log()
    mean = gather_with_grad(predicted.mean(dim=0, keepdim=True)).mean(dim=0)
    return {
        "assignment": -(wanted.repeat(len(anchors), 1) * logs).sum(dim=1).mean(),
        "mean_entropy": math.log(len(prototypes)) - torch.special.entr(mean).sum(),
        "entropy": -(predicted * logs).sum(dim=1).mean(),
    }


def _sum_over_processes(value: Tensor) -> Tensor:
    if world_size() > 1:
        dist.all_reduce(value)
    return value
