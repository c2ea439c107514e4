"""Numbers that say how good frozen features are, in addition to a protocol's accuracy.

None of them is an accuracy or a percentage. Legend: M test images, D dimensions, P pairs.

- features/norm: mean L2 norm of the centre crops' features.
- features/std: mean over dimensions of the std of the unit features; 1 / sqrt(D) if they are spread
  evenly (Chen, He 2021, SimSiam).
- features/rank: RankMe (Garrido et al. 2023), the effective rank of the (M, D) matrix, not centred.
- features/alignment: mean squared distance of the unit features of two random crops of an image;
  features/uniformity: log of the mean of exp(-2 squared distance) over pairs of images (Wang, Isola
  2020, alpha 2 and t 2). Lower is better for both. As there, a positive pair is two augmentations
  of an image, so no labels are needed; here the two differ only in crop and flip.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize, pdist

from pretrain.common.collapse_statistics import feature_std
from pretrain.data.crops import CropSpec, crop_image
from pretrain.data.origins import Origin
from transfer.classification.splits import Images, Split

SCALE = (0.2, 1.0)  # share of the area, as MoCo's and SimSiam's crops
EPS = 1e-7  # RankMe's
CHUNK = 4096  # rows of a product


@dataclass(frozen=True)
class RandomCrops:
    """Reads a random resized crop of each image, flipped or not; the same crops in every run."""

    images: Images
    view: int
    spec: CropSpec

    def name(self, index: int) -> str:
        """Returns the image's name, with the number and the settings of the crop."""
        return f"{self.images.name(index)} (random crop {self.view}, {self.spec})"

    @property
    def origin(self) -> Origin:
        """Returns the origin of the images that are cropped."""
        return self.images.origin

    def read(self, index: int) -> Image.Image:
        """Returns the crop, `spec.size` px wide and high; OSError as the data set raises it."""
        draws = random.Random(f"{index} {self.view}")
        crop = Image.fromarray(crop_image(self.images.read(index), self.spec, draws))
        return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if draws.random() < 0.5 else crop


def pair_splits(split: Split, images: int, size: int, interpolation: str) -> tuple[Split, Split]:
    """Returns two splits: a first and a second random crop of the same images of the split.

    Args:
        images: number of images, taken evenly over the split; all images if it has fewer.
        size: side of a crop, in pixels.
    """
    count = min(images, len(split))
    chosen = split.subset([place * len(split) // count for place in range(count)])
    spec = CropSpec(size, SCALE, interpolation=interpolation)
    first, second = (
        replace(chosen, images=RandomCrops(chosen.images, view, spec)) for view in (0, 1)
    )
    return first, second


def feature_quality(features: Tensor, pairs: Sequence[Tensor]) -> dict[str, float]:
    """Returns the numbers that the module's docstring lists; a single pair has only three of them.

    Args:
        features: features (M, D) of the centre crops.
        pairs: features (P, D) of the first random crops, then those of the second random crops.
    """
    values = {
        "features/norm": features.float().norm(dim=1).mean().item(),
        "features/std": feature_std(features),
        "features/rank": rank_me(features),
    }
    if len(pairs[0]) > 1:
        values["features/alignment"] = alignment(*pairs)
        # The mean of both crops, as the paper's code does
        values["features/uniformity"] = sum(uniformity(z) for z in pairs) / 2
    return values


def rank_me(features: Tensor) -> float:
    """Returns exp(entropy) of the singular values of (M, D), as shares of their sum plus 1e-7.

    They come from the eigenvalues of the smaller Gram matrix in float64, which needs memory for
    min(M, D) squared numbers.
    """
    short = features if features.shape[1] <= features.shape[0] else features.T
    gram = torch.zeros(short.shape[1], short.shape[1], dtype=torch.float64)
    for rows in short.split(CHUNK):
        gram += rows.double().T @ rows.double()
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    share = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + EPS
    return torch.special.entr(share).sum().exp().item()


def alignment(x: Tensor, y: Tensor) -> float:
    """Returns the mean squared distance of positive pairs, rows (P, D) scaled to unit norm."""
    difference = normalize(x.float(), dim=1) - normalize(y.float(), dim=1)
    return difference.pow(2).sum(dim=1).mean().item()


def uniformity(x: Tensor) -> float:
    """Returns log mean exp(-2 squared distance) over all pairs of rows (P, D) of unit norm."""
    distances = pdist(normalize(x.float(), dim=1))
    return distances.pow(2).mul(-2).exp().mean().log().item()
