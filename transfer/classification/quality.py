"""Quality of frozen features, beside a protocol's accuracy: features in, named numbers out.

Legend: M test images, D dimensions, P pairs. No number here is an accuracy or in percent.

- features/norm: mean L2 norm of the centre crops' features.
- features/std: mean over dimensions of the std of the unit features; 1 / sqrt(D) when spread evenly
  (Chen, He 2021, SimSiam).
- features/rank: RankMe (Garrido et al. 2023), the effective rank of the (M, D) matrix, not centred.
- features/alignment: mean squared distance of the unit features of two random crops of an image;
  features/uniformity: log of the mean of exp(-2 squared distance) over pairs of images (Wang, Isola
  2020, alpha 2 and t 2). Lower is better for both. Their positive pairs are two augmentations of an
  image, so that no labels are needed; ours differ in crop and flip alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize, pdist

from pretrain.common.features import feature_std
from pretrain.data.crops import CropSpec, crop_image
from transfer.classification.data import Chosen, Split

SCALE = (0.2, 1.0)  # share of the area, as MoCo's and SimSiam's crops
EPS = 1e-7  # RankMe's
CHUNK = 4096  # rows of a product


@dataclass(frozen=True)
class RandomCrops:
    """A data set's images, each a random resized crop, flipped or not, the same in every run."""

    images: Chosen
    view: int
    spec: CropSpec

    def name(self, index: int) -> str:
        """The image's, and which crop of it."""
        return f"{self.images.name(index)} (random crop {self.view}, {self.spec})"

    def read(self, index: int) -> Image.Image:
        """PIL RGB of spec.size px; OSError as the data set raises it."""
        draws = random.Random(f"{index} {self.view}")
        crop = Image.fromarray(crop_image(self.images.read(index), self.spec, draws))
        return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draws.random() < 0.5 else crop


def pair_splits(split: Split, images: int, size: int, interpolation: str) -> tuple[Split, Split]:
    """Two random crops of `images` of the split's images (fewer where it has fewer), evenly spread.

    Args:
        size: of a crop, in pixels.
    """
    count = min(images, len(split))
    chosen = split.subset([place * len(split) // count for place in range(count)])
    spec = CropSpec(size, SCALE, interpolation=interpolation)
    first, second = (
        replace(chosen, images=RandomCrops(chosen.images, view, spec)) for view in (0, 1)
    )
    return first, second


def feature_quality(features: Tensor, pairs: Sequence[Tensor]) -> dict[str, float]:
    """The numbers of the module's docstring.

    Args:
        features: (M, D) of the centre crops; pairs: two (P, D) of the random crops.
    """
    values = {
        "features/norm": features.float().norm(dim=1).mean().item(),
        "features/std": feature_std(features),
        "features/rank": rank_me(features),
    }
    if len(pairs[0]) > 1:
        values["features/alignment"] = alignment(*pairs)
        values["features/uniformity"] = sum(uniformity(z) for z in pairs) / 2  # as their code
    return values


def rank_me(features: Tensor) -> float:
    """exp(entropy) of the singular values of (M, D) as shares of their sum, plus 1e-7.

    By the eigenvalues of the smaller Gram matrix in float64: memory for min(M, D) squared.
    """
    short = features if features.shape[1] <= features.shape[0] else features.T
    gram = torch.zeros(short.shape[1], short.shape[1], dtype=torch.float64)
    for rows in short.split(CHUNK):
        gram += rows.double().T @ rows.double()
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    share = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + EPS
    return torch.special.entr(share).sum().exp().item()


def alignment(x: Tensor, y: Tensor) -> float:
    """Mean squared distance of unit rows (P, D) of positive pairs."""
    difference = normalize(x.float(), dim=1) - normalize(y.float(), dim=1)
    return difference.pow(2).sum(dim=1).mean().item()


def uniformity(x: Tensor) -> float:
    """log mean exp(-2 squared distance) over all pairs of different rows of (P, D), made unit."""
    distances = pdist(normalize(x.float(), dim=1))
    return distances.pow(2).mul(-2).exp().mean().log().item()
