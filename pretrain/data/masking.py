"""MSCN's masks: `(N, C, H, W)` filtered images in, the same with masked pixels replaced out.

A grid mask removes cells of a grid; a focal mask keeps one region and removes the rest (a random
crop that is not resized). Both mask all channels equally, or each channel independently. A masked
value is exactly 0 or noise, never pixel plus noise, and all other values stay bit for bit the same
(arXiv 2206.07700). Masks are boolean `(N, C, H, W)`, True = masked.

Legend: N batch, C channels, H x W pixels, G cells along one axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from pretrain.common.device_copy import send
from pretrain.common.errors import InputError, check_probability
from pretrain.common.lookup import find
from pretrain.data.blur import gaussian_blur

# The independent channel masks of one image: all have the image's kind ("same"), each has its own
# kind ("mixed"), or only grid masks are independent ("grid", the third-party MSCN).
CHANNEL_KINDS = ("same", "mixed", "grid")
NOISES = ("none", "iid", "image", "cell", "patch")
BLOCK = 16  # normal numbers that a CPU makes at once; it draws 16 more for a block that is not full
# What replaces masked pixels: MSCN's 0 or noise, or the fills of other ConvNet masking methods.
FILLS = ("noise", "mean", "blur", "other")


@dataclass(frozen=True)
class MaskRecipe:
    """Describes the mask of one branch. Lengths are pixels of the network's input.

    The article states `ratio` 0.30 (fixed on the first rungs; 0.15 is best for ResNet-50 in the
    end), `grid_size` 32 at 224 px, `focal_prob` 0.2, `channel_prob` 0.7, and noise in the masked
    region. Everything else is our choice. We start from the third-party MSCN
    (`Dataset/random_mask_hp.py`) if it has a value: it draws `ratio` from U(0.05, 0.25).

    ratio: share of the grid's cells to mask; one number, or a range from which each image draws.
    random_phase: shift the grid by a random part of a cell. Our choice: no, as the third party.
    exact_count: mask the same number of cells in each image of equal ratio (rounded up or down at
        random, so that the mean is the ratio) instead of drawing each cell. Our choice: yes.
    focal_size: side of the kept region relative to the image's, a number or a range. Our choice:
        200 / 224, as the third party.
    focal_aspect: range of the kept region's width / height, log-uniform. Our choice: square.
    channel_kinds: see `CHANNEL_KINDS`. Our choice: "same", which keeps both stated probabilities.
    fill: "noise" is MSCN's, see `noise`. Its rivals: "mean" gives each channel of a masked pixel
        the image's mean, "blur" the image's blurred pixels (both as the third party's switches of
        those names), "other" the next image of the batch (MixMask, arXiv 2210.11456).
    blur_sigma: the sigma of fill "blur", relative to the image's side: 10 px at 224, as the third
        party.
    noise: "none" leaves 0; "iid" draws each masked value; "image" draws one colour (a value for
        each channel) per image, "cell" one per cell of the grid; "patch" draws one patch of a
        cell's size per batch, which fills every masked cell of every image: a fixed texture. The
        region that a focal mask removes has no cells: there "cell" colours the cells of the grid,
        and "patch" draws each value. The third party has "patch", except that a second patch fills
        the cells of independent channels. Our choice: "iid".
    noise_std: standard deviation in units of the filtered image. Our choice: 0.18, as the third
        party's N(0, 0.18).
    noise_relative: `noise_std` is in units of the view's own standard deviation instead, over all
        its channels and pixels before the mask. Our choice: no, as the third party.
    apply_prob: probability that an image is masked. Our choice: 1.
    """

    ratio: float | tuple[float, float] = 0.30
    grid_size: int = 32
    random_phase: bool = False
    exact_count: bool = True
    focal_prob: float = 0.2
    focal_size: float | tuple[float, float] = 200 / 224
    focal_aspect: tuple[float, float] = (1.0, 1.0)
    channel_prob: float = 0.7
    channel_kinds: str = "same"
    fill: str = "noise"
    blur_sigma: float = 10 / 224
    noise: str = "iid"
    noise_std: float = 0.18
    noise_relative: bool = False
    apply_prob: float = 1.0

    def __post_init__(self) -> None:
        find(self.fill, dict.fromkeys(FILLS), "mask fill")
        find(self.noise, dict.fromkeys(NOISES), "mask noise")
        find(self.channel_kinds, dict.fromkeys(CHANNEL_KINDS), "kind of channel masks")
        for name in ("focal_prob", "channel_prob", "apply_prob"):
            check_probability(f"mask {name}", getattr(self, name))
        for name in ("ratio", "focal_size"):
            low, high = _range(getattr(self, name))
            if not 0.0 <= low <= high <= 1.0:
                raise InputError(
                    f"mask {name} {getattr(self, name)} must be in 0 to 1; a range must increase"
                )
        if not 0 < self.focal_aspect[0] <= self.focal_aspect[1]:
            raise InputError(
                f"mask focal_aspect {self.focal_aspect} must be two increasing positive ratios"
            )
        if self.grid_size < 1:
            raise InputError(f"mask grid_size {self.grid_size} must be at least 1 px")
        if self.noise_std < 0:
            raise InputError(f"mask noise_std {self.noise_std} must not be negative")
        if self.blur_sigma <= 0:
            raise InputError(f"mask blur_sigma {self.blur_sigma} must be above 0")

    def check(self, size: int) -> None:
        """Raises `InputError` when a cell of the grid is larger than an image of `size` px."""
        if self.focal_prob < 1 and self.grid_size > size:
            raise InputError(
                f"mask grid_size {self.grid_size} px is larger than the image of {size} px;"
                f" scale it with the image (32 at 224 px is {max(1, round(size / 7))} here)"
            )


@dataclass(frozen=True)
class MaskParams:
    """Holds one batch's masks. `mask (N, C, H, W)` is bool (True = masked). `fill` has the masked
    values (`(N, C, H, W)`, `(N, C, 1, 1)` or None for 0), or is "mean", "blur" or "other" if they
    are computed from the images. `applied (N,)`, `independent (N,)` and `focal (N, C)`, all bool,
    are what was drawn, on the generator's device. `blur_sigma` is in pixels. `relative`: a fill of
    noise is in units of each image's standard deviation.
    """

    mask: Tensor
    fill: Tensor | str | None
    applied: Tensor
    independent: Tensor
    focal: Tensor
    blur_sigma: float = 0.0
    relative: bool = False


def _range(value: float | tuple[float, float]) -> tuple[float, float]:
    return (value, value) if isinstance(value, (int, float)) else (value[0], value[1])


@dataclass(frozen=True)
class _Normal:
    """Standard normal numbers of a shape, which are drawn when they are needed, unless they are
    `drawn`. On a CPU they come from the generator of all draws, so they must be asked for before
    anything else is drawn."""

    shape: tuple[int, ...]
    generator: torch.Generator
    drawn: Tensor | None = None

    def numbers(self, out: Tensor | None = None) -> Tensor:
        """Returns the numbers, written to `out` if it is given."""
        if self.drawn is not None:
            return self.drawn if out is None else out.copy_(self.drawn)
        if out is None:
            out = torch.empty(self.shape, device=self.generator.device)
        return out.normal_(generator=self.generator)

    def now(self) -> _Normal:
        """Returns the same numbers, drawn."""
        return replace(self, drawn=self.numbers())

    def split(self, number: int) -> list[_Normal]:
        """Returns the numbers of each `number` consecutive images. They are drawn part by part if
        the parts draw the same numbers as the whole."""
        first, last = number, self.shape[0] % number or number
        plane = math.prod(self.shape[1:])
        if self.drawn is None and first * plane % BLOCK == 0 and last * plane >= BLOCK:
            sizes = [first] * ((self.shape[0] - 1) // number) + [last]
            return [replace(self, shape=(size, *self.shape[1:])) for size in sizes]
        parts = self.numbers().split(number)
        return [replace(self, shape=tuple(part.shape), drawn=part) for part in parts]


@dataclass(frozen=True)
class MaskDraws:
    """Holds what is drawn of the masks of one batch, or of several batches one after the other.

    Tensors are on the generator's device and small: a GPU then needs neither synchronisation nor
    a transfer of complete masks if the generator is on the CPU. Each channel has the numbers of the
    channel that it follows. K is the number of the grid's cells.

    applied, independent, focal: see `MaskParams`.
    box: `(N, C, 4)`, first row and row after the last, then the columns, of the kept region in
        pixels; the full image if nothing is masked outside a region.
    scores, limit: `(N, C, K)` and `(N, C, 1)`; a cell is masked if its score, or with
        `MaskRecipe.exact_count` the rank of its score, is below the limit.
    shift: `(N, C, 2)`, see `_places`; None if the grid starts at the image's corner.
    noise, patches: normal numbers of each batch, see `_noise`. They are as large as the images, so
        they are drawn on the images' device, and only when the masks are made.
    """

    applied: Tensor
    independent: Tensor
    focal: Tensor
    box: Tensor
    scores: Tensor
    limit: Tensor
    shift: Tensor | None
    noise: tuple[_Normal, ...] = ()
    patches: tuple[_Normal, ...] = ()

    @classmethod
    def cat(cls, parts: Sequence[MaskDraws]) -> MaskDraws:
        """Returns the draws of several batches of one recipe, joined."""
        if len(parts) == 1:
            return parts[0]

        def joined(name: str) -> Any:
            values = [getattr(part, name) for part in parts]
            if isinstance(values[0], tuple):
                return tuple(chain.from_iterable(values))
            return None if values[0] is None else torch.cat(values)

        return cls(**{field.name: joined(field.name) for field in fields(cls)})

    def split(self, number: int) -> list[MaskDraws]:
        """Returns the draws of one batch, split into parts of `number` consecutive images. The
        masks of the parts must be made in this order."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        parts = [
            replace(self, **dict(zip(tensors, part)))
            for part in zip(*(value.split(number) for value in tensors.values()))
        ]
        noise = self.noise[0] if self.noise else None
        if noise is None:
            return parts
        if not self.patches:
            return [replace(part, noise=(n,)) for part, n in zip(parts, noise.split(number))]
        all_noise = noise.now().split(number)  # every part needs the patch, which is drawn later
        patches = tuple(patch.now() for patch in self.patches)
        return [replace(p, noise=(n,), patches=patches) for p, n in zip(parts, all_noise)]

    def to(self, device: torch.device) -> MaskDraws:
        """Returns the draws with the numbers that make the masks on `device`, sent in one copy."""
        if self.box.device == device:
            return self
        shift = () if self.shift is None else (self.shift.to(self.box.dtype),)
        parts = [part.flatten(1) for part in (self.box, self.scores, self.limit, *shift)]
        sent = send(torch.cat(parts, dim=1), device)
        channels = self.box.shape[1]
        split = [
            part.unflatten(1, (channels, -1))
            for part in sent.split([part.shape[1] for part in parts], dim=1)
        ]
        box, scores, limit = split[:3]
        return replace(
            self, box=box, scores=scores, limit=limit, shift=split[3].long() if shift else None
        )


def sample_params(
    recipe: MaskRecipe,
    shape: tuple[int, int, int, int],
    generator: torch.Generator,
    device: torch.device | None = None,
) -> MaskParams:
    """Draws the masks of a batch.

    shape `(N, C, H, W)`; `device` is the images' (default: the generator's). Raises `InputError`
    if the grid is larger than the image.
    """
    device = device if device is not None else generator.device
    return make_masks(recipe, shape, draw_masks(recipe, shape, generator, device), device)


def draw_masks(
    recipe: MaskRecipe,
    shape: tuple[int, int, int, int],
    generator: torch.Generator,
    device: torch.device,
) -> MaskDraws:
    """Draws the numbers of which `make_masks` makes a batch's masks; see `sample_params`."""
    n, c, h, w = shape
    recipe.check(min(h, w))

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device)

    def normal(*shape: int) -> _Normal:
        if device.type == generator.device.type == "cpu":
            return _Normal(shape, generator)
        seed = torch.randint(2**62, (1,), generator=generator, device=generator.device)
        return _Normal(shape, torch.Generator(device).manual_seed(int(seed)))

    applied = uniform(n) < recipe.apply_prob
    independent = uniform(n) < recipe.channel_prob
    focal = uniform(n, c) < recipe.focal_prob
    if recipe.channel_kinds == "grid":
        independent = independent & ~focal[:, 0]
    mixed = independent if recipe.channel_kinds == "mixed" else torch.zeros_like(independent)
    focal = torch.where(mixed[:, None], focal, focal[:, :1])
    channel = torch.where(independent[:, None], torch.arange(c, device=focal.device), 0)
    box = _of_channel(_draw_boxes(recipe, shape, uniform), channel)
    full = torch.tensor([0, h, 0, w], dtype=box.dtype, device=box.device)
    scores, limit, shift = _draw_cells(recipe, shape, uniform)
    # A mask is the union of the masked cells and of everything outside a kept region. For a grid
    # mask the kept region is the full image; a focal mask has no masked cells.
    return MaskDraws(
        applied,
        independent,
        focal,
        torch.where((focal & applied[:, None])[:, :, None], box, full),
        _of_channel(scores, channel),
        _of_channel(limit, channel) * (~focal & applied[:, None])[:, :, None],
        None if shift is None else _of_channel(shift, channel),
        *_draw_noise(recipe, shape, normal),
    )


def make_masks(
    recipe: MaskRecipe,
    shape: tuple[int, int, int, int],
    draws: MaskDraws,
    device: torch.device,
) -> MaskParams:
    """Returns the masks `(N, C, H, W)` that were drawn, of one batch or of several, on `device`.
    The draws must be of this recipe, except for `MaskRecipe.apply_prob`, which they contain."""
    sent = draws.to(device)
    mask = _outside(shape, sent.box).logical_or_(_masked_cells(recipe, shape, sent))
    fill: Tensor | str | None = recipe.fill
    if fill == "noise":
        fill = _noise(recipe, shape, sent)
    sigma = recipe.blur_sigma * min(shape[2:])
    return MaskParams(
        mask,
        fill,
        draws.applied,
        draws.independent,
        draws.focal,
        sigma,
        recipe.noise_relative,
    )


def apply_mask(images: Tensor, params: MaskParams, out: Tensor | None = None) -> Tensor:
    """Replaces the masked pixels of images `(N, C, H, W)`; the result has their shape and type.

    out: a tensor for the result, which otherwise is a new one; it may be the images.
    """
    if params.fill is None:
        target = images.clone() if out is None else out.copy_(images)
        return target.masked_fill_(params.mask, 0.0)
    fill = params.fill
    if isinstance(fill, str):
        fill = _fill_from(images, fill, params.blur_sigma)
    elif params.relative:
        fill = fill * images.std(dim=(1, 2, 3), correction=0, keepdim=True)
    return torch.where(params.mask, fill.to(images.dtype), images, out=out)


def _fill_from(images: Tensor, source: str, blur_sigma: float) -> Tensor:
    """Returns the values of masked pixels, computed from the images `(N, C, H, W)` themselves."""
    if source == "mean":
        return images.mean(dim=(2, 3), keepdim=True)
    if source == "other":
        return images.roll(-1, dims=0)
    # 31 px for a sigma of 10, as the third party; never more than the border can reflect.
    reach = min(round(1.5 * blur_sigma), min(images.shape[-2:]) - 1)
    return gaussian_blur(images, blur_sigma, 2 * max(reach, 1) + 1)


def _draw_noise(
    recipe: MaskRecipe, shape: tuple[int, int, int, int], normal: Callable[..., _Normal]
) -> tuple[tuple[_Normal, ...], tuple[_Normal, ...]]:
    """Returns `MaskDraws.noise` and `MaskDraws.patches` of a batch."""
    n, c, h, w = shape
    if recipe.fill != "noise" or recipe.noise == "none":
        return (), ()
    if recipe.noise == "image":
        return (normal(n, c, 1, 1),), ()
    if recipe.noise == "cell":
        return (normal(n, c, *_grid(recipe, h, w)),), ()
    noise, cell = normal(n, c, h, w), recipe.grid_size
    return (noise,), (normal(c, cell, cell),) if recipe.noise == "patch" else ()


def _noise(recipe: MaskRecipe, shape: tuple[int, int, int, int], draws: MaskDraws) -> Tensor | None:
    """Returns the noise of `recipe.noise`, `(N, C, H, W)` or `(N, C, 1, 1)`; None if it is 0."""
    if not draws.noise:
        return None
    device, c = draws.box.device, shape[1]
    noise = _joined(draws.noise).mul_(recipe.noise_std)
    if recipe.noise == "cell":
        noise = _spread(noise, shape, recipe.grid_size, draws.shift)
    if recipe.noise == "patch":
        cell = recipe.grid_size
        y, x = (place % cell for place in _places(shape, draws.shift, device))
        every = torch.arange(c, device=device)[None, :, None, None]
        patches = torch.stack([patch.numbers() for patch in draws.patches]).mul_(recipe.noise_std)
        of_batch = torch.arange(len(patches)).repeat_interleave(
            torch.tensor([part.shape[0] for part in draws.noise])
        )
        batch = send(of_batch, device)[:, None, None, None]
        tiled = patches[batch, every, y[:, :, :, None], x[:, :, None, :]]
        noise = torch.where(send(draws.focal, device)[:, :, None, None], noise, tiled)
    return noise


def _joined(parts: Sequence[_Normal]) -> Tensor:
    """Returns the numbers of several batches, one after the other."""
    if len(parts) == 1:
        return parts[0].numbers()
    sizes = [part.shape[0] for part in parts]
    device = parts[0].generator.device
    joined = torch.empty(sum(sizes), *parts[0].shape[1:], device=device)
    for part, target in zip(parts, joined.split(sizes)):
        part.numbers(target)
    return joined


def _of_channel(drawn: Tensor, channel: Tensor) -> Tensor:
    """Returns for each channel the values of the channel that it follows, all `(N, C, K)`."""
    return drawn.gather(1, channel[:, :, None].expand_as(drawn))


def _draw_cells(
    recipe: MaskRecipe, shape: tuple[int, int, int, int], uniform: Callable[..., Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Scores, limit and shift of `MaskDraws`, as if all channels were independent and masked."""
    n, c, h, w = shape
    rows, columns = _grid(recipe, h, w)
    low, high = _range(recipe.ratio)
    limit = uniform(n, 1, 1) * (high - low) + low
    scores = uniform(n, c, rows * columns)
    if recipe.exact_count:
        # Round up or down at random: 0.30 of 49 cells is 14.7, and the mean has to stay 14.7.
        limit = (limit * (rows * columns) + uniform(n, c, 1)).floor()
    shift = (uniform(n, c, 2) * recipe.grid_size).long() if recipe.random_phase else None
    return scores, limit.expand(n, c, 1), shift


def _masked_cells(recipe: MaskRecipe, shape: tuple[int, int, int, int], draws: MaskDraws) -> Tensor:
    """Returns grid masks `(N, C, H, W)`."""
    scores = draws.scores
    if recipe.exact_count:
        scores = scores.argsort(dim=2).argsort(dim=2)
    masked = (scores < draws.limit).view(*scores.shape[:2], *_grid(recipe, *shape[2:]))
    return _spread(masked, shape, recipe.grid_size, draws.shift)


def _grid(recipe: MaskRecipe, h: int, w: int) -> tuple[int, int]:
    """Rows and columns of cells. A shifted grid can touch one cell more. Cells outside the image
    are drawn too, so each pixel is masked with the probability `ratio` for every shift."""
    cell = recipe.grid_size
    extra = cell - 1 if recipe.random_phase else 0
    return -(-(h + extra) // cell), -(-(w + extra) // cell)


def _places(
    shape: tuple[int, int, int, int], shift: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Returns row `(N, C, H)` and column `(N, C, W)` of each pixel, counted from the start of the
    grid: `shift (N, C, 2)` pixels above and left of the image (None: at its corner).
    """
    n, c, h, w = shape
    y, x = (torch.arange(side, device=device).expand(n, c, side) for side in (h, w))
    return (y, x) if shift is None else (y + shift[:, :, :1], x + shift[:, :, 1:])


def _spread(
    values: Tensor, shape: tuple[int, int, int, int], cell: int, shift: Tensor | None
) -> Tensor:
    """From one value per cell `(N, C, rows, columns)` to the value of each pixel's cell
    `(N, C, H, W)`."""
    n, c, h, w = shape
    rows = values.shape[2]
    if shift is None:
        values = values.repeat_interleave(cell, dim=3)[..., :w]
        values = values[:, :, :, None].expand(n, c, rows, cell, w)
        return values.reshape(n, c, rows * cell, w)[:, :, :h]
    y, x = (place // cell for place in _places(shape, shift, values.device))
    values = values.gather(3, x[:, :, None, :].expand(n, c, rows, w))
    return values.gather(2, y[:, :, :, None].expand(n, c, h, w))


def _draw_boxes(
    recipe: MaskRecipe, shape: tuple[int, int, int, int], uniform: Callable[..., Tensor]
) -> Tensor:
    """Returns `MaskDraws.box`, as if all channels were independent and had focal masks."""
    n, c, h, w = shape
    low, high = _range(recipe.focal_size)
    side = uniform(n, c, 1) * (high - low) + low
    low, high = (math.log(value) for value in recipe.focal_aspect)
    stretch = (uniform(n, c, 1) * (high - low) + low).div(2.0).exp()  # sqrt(width / height)
    tall = (side / stretch * h).round().clamp(1, h)
    wide = (side * stretch * w).round().clamp(1, w)
    top = (uniform(n, c, 1) * (h - tall + 1)).floor()
    left = (uniform(n, c, 1) * (w - wide + 1)).floor()
    return torch.cat([top, top + tall, left, left + wide], dim=2)


def _outside(shape: tuple[int, int, int, int], box: Tensor) -> Tensor:
    """Returns focal masks `(N, C, H, W)`: True outside the box `(N, C, 4)`."""
    top, bottom, left, right = box.split(1, dim=2)
    y, x = (torch.arange(side, device=box.device) for side in shape[2:])
    outside_y = (y < top) | (y >= bottom)
    outside_x = (x < left) | (x >= right)
    return outside_y[:, :, :, None] | outside_x[:, :, None, :]
