"""MSCN's masks: `(N, C, H, W)` filtered images in, the same with masked pixels replaced out.

A grid mask removes cells of a grid; a focal mask keeps one region and removes the rest (a random
crop that is not resized). Both mask all channels equally, or each channel independently. A masked
value is exactly 0 or noise, never pixel plus noise, and all other values stay bit for bit the same
(arXiv 2206.07700). Masks are boolean `(N, C, H, W)`, True = masked.

Legend: N batch, C channels, H x W pixels, G cells along one axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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
# What replaces masked pixels: MSCN's 0 or noise, or the fills of other ConvNet masking methods.
FILLS = ("noise", "mean", "blur", "other")


@dataclass(frozen=True)
class MaskRecipe:
    """The mask of one branch. Lengths are pixels of the network's input.

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
        if self.grid_size < 1 or self.noise_std < 0 or self.blur_sigma <= 0:
            raise InputError(
                f"mask grid_size {self.grid_size} must be at least 1 px, noise_std"
                f" {self.noise_std} not negative and blur_sigma {self.blur_sigma} above 0"
            )

    def check(self, size: int) -> None:
        """Raise `InputError` when a cell of the grid is larger than an image of `size` px."""
        if self.focal_prob < 1 and self.grid_size > size:
            raise InputError(
                f"mask grid_size {self.grid_size} px is larger than the image of {size} px;"
                f" scale it with the image (32 at 224 px is {max(1, round(size / 7))} here)"
            )


@dataclass(frozen=True)
class MaskParams:
    """One batch's masks. `mask (N, C, H, W)` is bool (True = masked). `fill` has the masked values
    (`(N, C, H, W)`, `(N, C, 1, 1)` or None for 0), or is "mean", "blur" or "other" if they are
    computed from the images. `applied (N,)`, `independent (N,)` and `focal (N, C)`, all bool, are
    what was drawn. `blur_sigma` is in pixels. `relative`: a fill of noise is in units of each
    image's standard deviation."""

    mask: Tensor
    fill: Tensor | str | None
    applied: Tensor
    independent: Tensor
    focal: Tensor
    blur_sigma: float = 0.0
    relative: bool = False

    def split(self, number: int) -> list[MaskParams]:
        """The masks, split into parts of `number` consecutive images (not for fill "other")."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        parts = zip(*(value.split(number) for value in tensors.values()))
        return [replace(self, **dict(zip(tensors, part))) for part in parts]


def _range(value: float | tuple[float, float]) -> tuple[float, float]:
    return (value, value) if isinstance(value, (int, float)) else (value[0], value[1])


class _Draws:
    """Random numbers that are drawn on the generator's device and moved to the images' device while
    they are small. A GPU then needs neither synchronisation nor a transfer of complete masks if the
    generator is on the CPU."""

    def __init__(self, generator: torch.Generator, device: torch.device) -> None:
        self.generator = generator
        self.device = device

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1) of the given shape."""
        drawn = torch.rand(shape, generator=self.generator, device=self.generator.device)
        return send(drawn, self.device)

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform numbers in [low, high)."""
        return self.uniform(*shape) * (high - low) + low

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, drawn on the images' device because they are as large as the
        images."""
        generator = self.generator
        if generator.device.type != self.device.type:
            seed = int(torch.randint(2**62, (1,), generator=generator))
            generator = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(shape, generator=generator, device=self.device)


def sample_params(
    recipe: MaskRecipe,
    shape: tuple[int, int, int, int],
    generator: torch.Generator,
    device: torch.device | None = None,
) -> MaskParams:
    """Draw the masks of a batch.

    shape `(N, C, H, W)`; `device` is the images' (default: the generator's). Raises `InputError`
    when the grid is larger than the image.
    """
    n, c, h, w = shape
    recipe.check(min(h, w))
    draws = _Draws(generator, device if device is not None else generator.device)
    applied = draws.uniform(n) < recipe.apply_prob
    independent = draws.uniform(n) < recipe.channel_prob
    focal = draws.uniform(n, c) < recipe.focal_prob
    if recipe.channel_kinds == "grid":
        independent = independent & ~focal[:, 0]
    mixed = independent if recipe.channel_kinds == "mixed" else torch.zeros_like(independent)
    focal = torch.where(mixed[:, None], focal, focal[:, :1])
    # A mask is the union of the masked cells and of everything outside a kept region. For a grid
    # mask the kept region is the full image; a focal mask has no masked cells.
    channel = torch.where(independent[:, None], torch.arange(c, device=draws.device), 0)
    outside = _outside(recipe, shape, draws, channel, focal & applied[:, None])
    cells, shift = _masked_cells(recipe, shape, draws, channel, ~focal & applied[:, None])
    mask = outside.logical_or_(cells)
    fill: Tensor | str | None = recipe.fill
    if fill == "noise":
        fill = _noise(recipe, shape, draws, shift, focal)
    sigma = recipe.blur_sigma * min(h, w)
    return MaskParams(mask, fill, applied, independent, focal, sigma, recipe.noise_relative)


def apply_mask(images: Tensor, params: MaskParams) -> Tensor:
    """Replace the masked pixels: images `(N, C, H, W)` -> a new tensor, same shape and type."""
    if params.fill is None:
        return images.masked_fill(params.mask, 0.0)
    fill = params.fill
    if isinstance(fill, str):
        fill = _fill_from(images, fill, params.blur_sigma)
    elif params.relative:
        fill = fill * images.std(dim=(1, 2, 3), correction=0, keepdim=True)
    return torch.where(params.mask, fill.to(images.dtype), images)


def _fill_from(images: Tensor, source: str, blur_sigma: float) -> Tensor:
    """The values of masked pixels, computed from the images `(N, C, H, W)` themselves."""
    if source == "mean":
        return images.mean(dim=(2, 3), keepdim=True)
    if source == "other":
        return images.roll(-1, dims=0)
    # 31 px for a sigma of 10, as the third party; never more than the border can reflect.
    reach = min(round(1.5 * blur_sigma), min(images.shape[-2:]) - 1)
    return gaussian_blur(images, blur_sigma, 2 * max(reach, 1) + 1)


def _noise(
    recipe: MaskRecipe,
    shape: tuple[int, int, int, int],
    draws: _Draws,
    shift: Tensor | None,
    focal: Tensor,
) -> Tensor | None:
    """The noise of `recipe.noise`, `(N, C, H, W)` or `(N, C, 1, 1)`; None if the noise is 0.

    shift, focal: those of the masks, see `_masked_cells` and `MaskParams`.
    """
    n, c, h, w = shape
    if recipe.noise == "none":
        return None
    if recipe.noise == "image":
        noise = draws.normal(n, c, 1, 1)
    elif recipe.noise == "cell":
        noise = _spread(draws.normal(n, c, *_grid(recipe, h, w)), shape, recipe.grid_size, shift)
    else:
        noise = draws.normal(n, c, h, w)
    if recipe.noise == "patch":
        cell = recipe.grid_size
        patch = draws.normal(c, cell, cell)
        y, x = (place % cell for place in _places(shape, shift, draws.device))
        every = torch.arange(c, device=draws.device)[None, :, None, None]
        tiled = patch[every, y[:, :, :, None], x[:, :, None, :]]
        noise = torch.where(focal[:, :, None, None], noise, tiled)
    return noise.mul_(recipe.noise_std)


def _of_channel(drawn: Tensor, channel: Tensor) -> Tensor:
    """Values `(N, C, K)` drawn per channel -> for each channel, those of the channel it follows."""
    return drawn.gather(1, channel[:, :, None].expand_as(drawn))


def _masked_cells(
    recipe: MaskRecipe,
    shape: tuple[int, int, int, int],
    draws: _Draws,
    channel: Tensor,
    wanted: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """Grid masks `(N, C, H, W)` (nothing is masked if `wanted (N, C)` is False), and the grid's
    shift (see `_places`). Channel c of image n uses the draws of `channel[n, c]`."""
    n, c, h, w = shape
    rows, columns = _grid(recipe, h, w)
    ratio = draws.between(*_range(recipe.ratio), n, 1, 1)
    scores = draws.uniform(n, c, rows * columns)
    if recipe.exact_count:
        # Round up or down at random: 0.30 of 49 cells is 14.7, and the mean has to stay 14.7.
        count = (ratio * (rows * columns) + draws.uniform(n, c, 1)).floor()
        masked = scores.argsort(dim=2).argsort(dim=2) < count
    else:
        masked = scores < ratio
    masked = (_of_channel(masked, channel) & wanted[:, :, None]).view(n, c, rows, columns)
    shift = None
    if recipe.random_phase:
        shift = _of_channel((draws.uniform(n, c, 2) * recipe.grid_size).long(), channel)
    return _spread(masked, shape, recipe.grid_size, shift), shift


def _grid(recipe: MaskRecipe, h: int, w: int) -> tuple[int, int]:
    """Rows and columns of cells. A shifted grid can touch one cell more. Cells outside the image
    are drawn too, so each pixel is masked with the probability `ratio` for every shift."""
    cell = recipe.grid_size
    extra = cell - 1 if recipe.random_phase else 0
    return -(-(h + extra) // cell), -(-(w + extra) // cell)


def _places(
    shape: tuple[int, int, int, int], shift: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Row `(N, C, H)` and column `(N, C, W)` of each pixel, counted from the start of the grid:
    `shift (N, C, 2)` pixels above and left of the image (None: at its corner)."""
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


def _outside(
    recipe: MaskRecipe,
    shape: tuple[int, int, int, int],
    draws: _Draws,
    channel: Tensor,
    wanted: Tensor,
) -> Tensor:
    """Focal masks `(N, C, H, W)`: True outside the kept region; nothing is masked if
    `wanted (N, C)` is False. Channel c of image n uses the draws of `channel[n, c]`."""
    n, c, h, w = shape
    side = draws.between(*_range(recipe.focal_size), n, c, 1)
    low, high = (math.log(value) for value in recipe.focal_aspect)
    stretch = draws.between(low, high, n, c, 1).div(2.0).exp()  # sqrt(width / height)
    tall = (side / stretch * h).round().clamp(1, h)
    wide = (side * stretch * w).round().clamp(1, w)
    top = (draws.uniform(n, c, 1) * (h - tall + 1)).floor()
    left = (draws.uniform(n, c, 1) * (w - wide + 1)).floor()
    box = _of_channel(torch.cat([top, top + tall, left, left + wide], dim=2), channel)
    top, bottom, left, right = box.split(1, dim=2)
    y, x = torch.arange(h, device=draws.device), torch.arange(w, device=draws.device)
    outside_y = ((y < top) | (y >= bottom)) & wanted[:, :, None]
    outside_x = ((x < left) | (x >= right)) & wanted[:, :, None]
    return outside_y[:, :, :, None] | outside_x[:, :, None, :]
