"""Photometric augmentation of a batch on its device: `(N, 3, H, W)` float32 in [0, 1] in and out.

`sample_params` draws every random value, and `apply_augment` is deterministic. Each image gets
its own draws, including the order of the jitter's four operations (torchvision's v2 transforms
share one draw over a batch, pytorch/vision#8484). The operations run in this order: jitter,
grayscale, blur, solarise, flip, as in MoCo v2 `main_moco.py` and MoCo v3.

Legend: N batch, H x W pixels. Operations run only on the images that drew them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from pretrain.common.device_copy import send
from pretrain.common.errors import InputError, check_probability
from pretrain.data import color
from pretrain.data.blur import blur_rows, gaussian_blur

LARGE = 2**16  # a CPU augments an image of this many elements alone
CPU_PIECE = 2**21  # a CPU augments smaller images together, up to this many elements (8 MiB)


@dataclass(frozen=True)
class ViewRecipe:
    """Describes the augmentation of one branch, after its crop.

    Defaults are SimCLR's (`tf2/data_util.py`: jitter 0.8, 0.8, 0.8, 0.2 with probability 0.8 in
    random order, grayscale 0.2, blur 0.5 with sigma from U(0.1, 2) px and a kernel of a tenth of
    the image). MSCN's article names the operations but not their strengths; we chose SimCLR's.
    `blur_kernel` is in pixels and odd; None means SimCLR's tenth of the image's side, made odd.
    """

    flip_prob: float = 0.5
    jitter_prob: float = 0.8
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    gray_prob: float = 0.2
    blur_prob: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel: int | None = None
    solarize_prob: float = 0.0
    solarize_threshold: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name.endswith("_prob"):
                check_probability(field.name, getattr(self, field.name))
        for name in ("brightness", "contrast", "saturation"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} {getattr(self, name)} must not be negative")
        if not 0 <= self.hue <= 0.5:
            raise InputError(
                f"hue {self.hue} must be a share of the colour circle; give a value from 0 to 0.5"
            )
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise InputError(f"blur_sigma {self.blur_sigma} must be two increasing positive values")

    @classmethod
    def none(cls) -> ViewRecipe:
        """Returns the recipe without any augmentation (rungs 0 to 2 of MSCN's ladder)."""
        return cls(flip_prob=0.0, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0)

    def operations(self) -> ViewRecipe:
        """Returns the same operations, all with probability 1. A batch is augmented by this recipe,
        because the draws alone decide which images an operation touches.
        """
        names = [field.name for field in fields(self) if field.name.endswith("_prob")]
        certain: dict[str, Any] = dict.fromkeys(names, 1.0)
        return replace(self, **certain)

    def kernel_size(self, size: int) -> int:
        """Returns the blur's kernel in pixels for images of `size` px."""
        return self.blur_kernel if self.blur_kernel is not None else max(3, size // 20 * 2 + 1)


@dataclass(frozen=True)
class AugmentParams:
    """Draws for one batch, each of length N: booleans, factors, and `order (N, 4)`, where
    `order[n, k]` is the k-th jitter operation of image n (index into `color.JITTER`)."""

    flip: Tensor
    jitter: Tensor
    order: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    gray: Tensor
    blur: Tensor
    sigma: Tensor
    solarize: Tensor

    @classmethod
    def cat(cls, parts: Sequence[AugmentParams]) -> AugmentParams:
        """Returns the draws of several batches, joined as if they were one batch."""
        names = [field.name for field in fields(cls)]
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    def split(self, number: int) -> list[AugmentParams]:
        """Returns the draws, split into parts of `number` consecutive images."""
        parts = zip(*(getattr(self, field.name).split(number) for field in fields(self)))
        return [AugmentParams(*part) for part in parts]

    def to(self, device: torch.device) -> AugmentParams:
        """Returns the same draws on another device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self)}
        return replace(self, **moved)


def sample_params(recipe: ViewRecipe, batch: int, generator: torch.Generator) -> AugmentParams:
    """Draws the augmentation of `batch` images on the generator's device."""
    device = generator.device

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(batch, generator=generator, device=device) * (high - low) + low

    def coin(probability: float) -> Tensor:
        return torch.rand(batch, generator=generator, device=device) < probability

    def factor(strength: float) -> Tensor:
        return uniform(max(0.0, 1.0 - strength), 1.0 + strength)

    return AugmentParams(
        flip=coin(recipe.flip_prob),
        jitter=coin(recipe.jitter_prob),
        # The rank of four uniform numbers is a uniform permutation of the four operations.
        order=torch.rand(batch, 4, generator=generator, device=device).argsort(dim=1),
        brightness=factor(recipe.brightness),
        contrast=factor(recipe.contrast),
        saturation=factor(recipe.saturation),
        hue=uniform(-recipe.hue, recipe.hue),
        gray=coin(recipe.gray_prob),
        blur=coin(recipe.blur_prob),
        sigma=uniform(*recipe.blur_sigma),
        solarize=coin(recipe.solarize_prob),
    )


def apply_augment(images: Tensor, params: AugmentParams, recipe: ViewRecipe) -> Tensor:
    """Applies drawn augmentations.

    The images are `(N, 3, H, W)`, uint8, or float32 in [0, 1]; the result is a new tensor, float32
    in [0, 1]. Keep the draws on the CPU: then the host knows at once which images an operation
    touches, and a GPU does not have to synchronise. A CPU takes a few images at a time through all
    operations that work within one image.
    """
    number = at_a_time(images)
    out = torch.empty(images.shape, dtype=torch.float32, device=images.device)
    pieces = list(zip(out.split(number), params.split(number), strict=True))
    for given, (piece, drawn) in zip(images.split(number), pieces, strict=True):
        if images.dtype == torch.uint8:
            torch.div(given, 255.0, out=piece)
        else:
            piece.copy_(given)
        if recipe.jitter_prob > 0:
            _jitter(piece, drawn, recipe)
        if recipe.gray_prob > 0:
            _update(piece, drawn.gray, lambda x, rows: color.grayscale(x))
    if recipe.blur_prob > 0:
        _blur(out, params, recipe.kernel_size(min(out.shape[-2:])))
    threshold = recipe.solarize_threshold
    for piece, drawn in pieces:
        if recipe.solarize_prob > 0:
            _update(piece, drawn.solarize, lambda x, rows: color.solarize(x, threshold))
        if recipe.flip_prob > 0:
            _update(piece, drawn.flip, lambda x, rows: x.flip(-1))
    return out


def at_a_time(images: Tensor) -> int:
    """Returns how many of the images `(N, C, H, W)` pass together through operations that work
    within one image. A CPU takes one image, or several small ones that fit its cache; a GPU takes
    all.
    """
    if images.device.type != "cpu" or len(images) < 2:
        return max(1, len(images))
    elements = images[0].numel()
    return 1 if elements >= LARGE else CPU_PIECE // elements


def _update(images: Tensor, chosen: Tensor, operation: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Replace, in place, the chosen images by `operation(images[rows], rows)`. The operation may
    change its argument in place and return it.

    `rows` is on the device of the draws, because operations use it to index other draws.
    """
    if len(images) == 1 and images.device.type == "cpu":  # indexing would copy it
        if chosen:
            changed = operation(images, torch.zeros(1, dtype=torch.long))
            if changed is not images:
                images.copy_(changed)
        return
    rows = chosen.nonzero().squeeze(1)
    if len(rows):
        places = rows.to(images.device, non_blocking=True)
        images.index_copy_(0, places, operation(images.index_select(0, places), rows))


def _blur(images: Tensor, params: AugmentParams, kernel_size: int) -> None:
    if images.device.type == "cpu":
        rows = params.blur.nonzero().squeeze(1)
        blur_rows(images, rows, params.sigma[rows], kernel_size)
    else:
        blur = lambda x, rows: gaussian_blur(x, params.sigma[rows], kernel_size)
        _update(images, params.blur, blur)


def _jitter(images: Tensor, params: AugmentParams, recipe: ViewRecipe) -> None:
    """Apply ColorJitter in place. For each position in the order, each operation runs on the images
    that drew it at that position: they are brought next to each other, and take it in place."""
    if len(images) == 1 and images.device.type == "cpu":
        return _jitter_one(images, params, recipe)
    rows = params.jitter.nonzero().squeeze(1)
    if len(rows) == 0:
        return
    counts, places, factors = _arranged(params, rows)
    places, factors = send(places, images.device), send(factors, images.device)
    changed = images
    for place in range(len(color.JITTER)):
        changed = changed.index_select(0, places[place])
        parts = zip(changed.split(counts[place]), factors[place].split(counts[place]))
        for (name, adjust), (part, factor) in zip(color.JITTER.items(), parts):
            if getattr(recipe, name) != 0 and len(part):
                adjust(part, factor, part)
    images.index_copy_(0, places[-1], changed)


def _arranged(params: AugmentParams, rows: Tensor) -> tuple[list[list[int]], Tensor, Tensor]:
    """Returns how the images number `rows (M,)` are arranged for each position in their order, so
    that the images of the first operation of `color.JITTER` come first, then those of the second,
    and so on.

    Returns the number of images of each operation at each position; the place of each image in the
    arrangement before, and at last its number, `(5, M)`; and each image's factor `(4, M)`.
    """
    counts, places, factors = [], [], []
    values = torch.stack([getattr(params, name) for name in color.JITTER], dim=1)[rows]
    before = rows  # where each of the images is found
    for operations in params.order[rows].unbind(dim=1):
        order = operations.argsort(stable=True)
        places.append(before[order])
        counts.append(torch.bincount(operations, minlength=len(color.JITTER)).tolist())
        factors.append(values[order, operations[order]])
        before = order.argsort()
    return counts, torch.stack([*places, rows[order]]), torch.stack(factors)


def _jitter_one(images: Tensor, params: AugmentParams, recipe: ViewRecipe) -> None:
    """`_jitter` of one image on a CPU, without the search for the images of an operation."""
    if not params.jitter:
        return
    names = list(color.JITTER)
    for name in [names[number] for number in params.order[0].tolist()]:
        if getattr(recipe, name) != 0:
            color.JITTER[name](images, getattr(params, name), images)
