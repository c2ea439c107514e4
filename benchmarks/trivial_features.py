"""How trivial a positive pair is, without training: views and masks in, features and rates out.

MSCN's principle (arXiv 2206.07700): an augmentation is good when useful features agree across the
two views of an image and trivial ones do not, and a mask must make no edge of its own. Both show in
the views themselves: how often a trivial feature alone finds a view's pair in the batch
(`retrieval_rate`; chance is 1 / N), and how the steps across masks' borders compare with those
between other neighbours (`border_response`; chance is 1, of the signed one `signed_chance`). A good
mask drives both to chance.

Views are network inputs, float `(N, 3, S, S)`; masks are bool `(N, C, S, S)`, True = masked.
Legend: N batch, C channels, S side in pixels, G cells along one axis, F values of a feature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor

from pretrain.common.errors import InputError

# Network inputs lie in [-2.2, 2.7] after normalisation, mostly within +-1 when filtered.
HISTOGRAM_REACH = 3.0
# Lower ends of the classes of edge strength: half a decade each, from what 8 bits resolve
# (1 / 255 / std = 0.017) to the strongest steps of photographs.
MAGNITUDES = (0.02, 0.063, 0.2, 0.63)
KERNEL_SIDE = 7  # pixels; a ResNet's first layer
FEW = 8  # images at a time where many temporaries are made: they stay in the processor's cache
FLAT_TOLERANCE = 1e-3  # the filter's rounding leaves 1e-7 on a constant area; no network sees that
# Mean absolute second over first difference of white Gaussian noise: sqrt(6) / sqrt(2).
WHITE = math.sqrt(3.0)


def mean_colour(views: Tensor) -> Tensor:
    """Mean of each channel: `(N, 3, S, S)` -> `(N, 3)`."""
    return views.mean(dim=(2, 3))


def colour_histogram(views: Tensor, bins: int = 16) -> Tensor:
    """Share of each channel's pixels in each of `bins` classes of value: -> `(N, 3 * bins)`.

    The classes are equal in sign(x) * sqrt(|x|) between -3 and 3, so that they resolve filtered
    values around 0 and unfiltered ones alike; what lies outside counts in the outermost class.
    """
    n, c = views.shape[:2]
    root = views.sign() * views.abs().sqrt() / math.sqrt(HISTOGRAM_REACH)
    level = ((root + 1) * (bins / 2)).floor().clamp(0, bins - 1).long()
    return _shares(level.view(n * c, -1), bins).view(n, c * bins)


def edge_histogram(views: Tensor, orientations: int = 8) -> Tensor:
    """Share of pixels whose edge has a given orientation and strength: -> `(N, 4 * orientations)`.

    Edges are forward differences of the mean over the channels. Orientations are those of a line,
    0 to 180 degrees, the first class centred on upright edges; strengths are `MAGNITUDES`, and
    weaker edges are in no class.
    """
    grey = views.mean(dim=1)
    dx = grey[:, :-1, 1:] - grey[:, :-1, :-1]
    dy = grey[:, 1:, :-1] - grey[:, :-1, :-1]
    turn = torch.atan2(dy, dx) / math.pi  # an edge and its opposite differ by 1
    way = (turn * orientations).round().long() % orientations
    edges = views.new_tensor(MAGNITUDES)
    strength = torch.bucketize(torch.hypot(dx, dy), edges, right=True)  # 0 = weaker than all
    shares = _shares((strength * orientations + way).flatten(1), (len(edges) + 1) * orientations)
    return shares[:, orientations:]


def mask_shape(masks: Tensor, cells: int = 7) -> Tensor:
    """Masked share of each of `cells` x `cells` parts: `(N, C, S, S)` bool -> `(N, C * G * G)`.

    It needs the masks themselves. Masks are drawn for each view apart, so this is at chance unless
    two views share draws: a check of the views, not of what a network can use; that is
    `guessed_mask`.
    """
    return nnf.adaptive_avg_pool2d(masks.float(), cells).flatten(1)


def guessed_mask(views: Tensor, cells: int = 7) -> Tensor:
    """What a view alone tells of its mask: a guess of `mask_shape`, `(N, 3 * G * G)` in 0 to 1.

    A part of a channel looks masked as far as its pixels equal their neighbours (zeros, a constant
    colour), or as its texture is white noise: there the mean absolute second difference is sqrt(3)
    times the first, in photographs near 1 time. Flat skies look masked too, so that two views of
    an image may agree in it without any mask.
    """
    here = views[..., 1:-1, 1:-1]
    left, right = views[..., 1:-1, :-2], views[..., 1:-1, 2:]
    above, below = views[..., :-2, 1:-1], views[..., 2:, 1:-1]
    first = (here - left).abs() + (here - above).abs()
    second = (left + right - 2 * here).abs() + (above + below - 2 * here).abs()
    flat = _cell_means((first < FLAT_TOLERANCE).float(), cells)
    ratio = _cell_means(second, cells) / _cell_means(first, cells).clamp(min=FLAT_TOLERANCE)
    white = 1 - (ratio - WHITE).abs() / (WHITE - 1)
    return torch.maximum(flat, white).flatten(1)


def retrieval_rate(a: Tensor, b: Tensor) -> float:
    """Share of a batch's images whose nearest neighbour in the other view is their own pair.

    a, b: one feature of two views of the same images, `(N, F)` each. Distances are L2 after each
    value has been standardised over both views together; both directions count alike. Where k
    candidates are equally near, a pair among them counts 1 / k, so that a constant feature gives
    exactly chance, 1 / N, and so does, in expectation, one that is independent of the image.
    Raises `InputError` for features that are not of one shape, finite, and of two images or more.
    """
    if a.shape != b.shape or a.dim() != 2 or len(a) < 2:
        raise InputError(
            f"features of two views are of shapes {tuple(a.shape)} and {tuple(b.shape)};"
            " give (N, F) twice, N at least 2"
        )
    both = torch.cat([a, b]).double()
    if not both.isfinite().all():
        raise InputError("a feature of a view is not finite")
    both = both - both.mean(dim=0)
    spread = both.square().mean(dim=0).sqrt()
    # A constant value's spread is rounding, relative to the value itself.
    constant = spread <= 1e-12 * torch.cat([a, b]).abs().amax(dim=0)
    both = torch.where(constant, 0.0, both / spread.where(~constant, 1.0))
    # Without matrix products, whose rounding would tell equal candidates apart.
    distance = torch.cdist(
        both[: len(a)], both[len(a) :], compute_mode="donot_use_mm_for_euclid_dist"
    )
    return 0.5 * (_own_share(distance) + _own_share(distance.T))


class BorderResponse(NamedTuple):
    """Steps across mask borders against steps elsewhere, over a batch.

    absolute: mean absolute step across a border, over the mean absolute step between unmasked
        neighbours. 1 = a border is an edge like any other; more = a parasitic edge. A filled mask
        can hardly reach 1 in a smooth image: neighbours resemble each other there, and a mask's
        value tells nothing of the pixel beside it.
    kernel: the same of what an edge kernel sums up: steps averaged with their sign along `length`
        pixels of a straight border, and elsewhere along as many free pixels. Chance is 1. Noise
        in a mask counts for less than in `absolute`. NaN without borders that long.
    signed: the steps from outside to inside, averaged with their sign over all borders of an image
        and channel; of these the root mean square over the batch, over that of single steps
        elsewhere. It asks whether a mask is darker or brighter than its surround all the way
        round. The mean square, because 0 after normalisation is the data set's mean colour: dark
        and bright images would cancel although each has its border.
    signed_chance: `signed` where there is no border: each view under the masks of the batch's next
        image, between neighbours that its own mask leaves. It is above 0, because borders are
        finite; with an offset of no mask, `signed` is about as large. NaN without such neighbours.
    """

    absolute: float
    kernel: float
    signed: float
    signed_chance: float


def border_response(
    views: Tensor, masks: Tensor, length: int = KERNEL_SIDE
) -> BorderResponse | None:
    """How far masks make edges of their own; None where no mask borders on free neighbours.

    views float `(N, C, S, S)`, masks bool of the same shape. A step is the difference of two
    horizontal or vertical neighbours: a border's where one of them is masked, free where neither
    is. Means are over the steps of those channels that have steps of both kinds.
    """
    if views.shape != masks.shape or views.dim() != 4:
        raise InputError(
            f"views and masks must be of one shape (N, C, S, S), got {tuple(views.shape)} and"
            f" {tuple(masks.shape)}"
        )
    absolute = _contrast(views, masks, 1)
    if math.isnan(absolute):
        return None
    own, spread = _offsets(views, masks)
    borrowed, _ = _offsets(views, masks, masks.roll(-1, dims=0))
    return BorderResponse(
        absolute,
        _contrast(views, masks, min(length, *views.shape[2:])),
        _root_mean_square(own) / spread,
        _root_mean_square(borrowed.where(own.isfinite(), math.nan)) / spread,
    )


def _steps(views: Tensor, masks: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Neighbours along `dim`: their difference; 1 where the second of the two alone is masked, -1
    where the first alone is, else 0; and 1 where neither is, else 0."""
    inside = masks.to(views.dtype)
    length = inside.shape[dim] - 1
    first, second = inside.narrow(dim, 0, length), inside.narrow(dim, 1, length)
    return views.diff(dim=dim), second - first, (1 - first) * (1 - second)


def _contrast(views: Tensor, masks: Tensor, length: int) -> float:
    """Mean absolute step across borders over that elsewhere, of steps averaged along `length`
    pixels of a straight border; NaN where one of them does not exist."""

    def sums(some: Tensor, masked: Tensor, dim: int) -> tuple[Tensor, ...]:
        parts = _steps(some, masked, dim)
        if length > 1:
            along = (1, length) if dim == 2 else (length, 1)
            parts = tuple(nnf.avg_pool2d(part, along, stride=1) for part in parts)
        step, inward, free = (part.abs_() for part in parts)
        least = 1 - 0.5 / length  # of a window that is border, or free, as a whole
        border, free = (inward > least).to(step.dtype), (free > least).to(step.dtype)
        return step * border, border, step * free, free

    total = _summed(sums, views, masks)
    used = (total[1] > 0) & (total[3] > 0)
    at_border, borders, elsewhere, frees = (x[used].sum() for x in total)
    return float((at_border / borders) / (elsewhere / frees))


def _offsets(views: Tensor, masks: Tensor, others: Tensor | None = None) -> tuple[Tensor, float]:
    """Mean step towards the inside over the borders of each mask, `(N, C)`, NaN without a border;
    and the root mean square of the free steps of channels that have one.

    With `others` the borders are theirs, where they lie between pixels that `masks` leaves.
    """

    def sums(some: Tensor, masked: Tensor, shape: Tensor, dim: int) -> tuple[Tensor, ...]:
        step, inward, free = _steps(some, masked, dim)
        if others is not None:
            inward = _steps(some, shape, dim)[1] * free
        return step * inward, inward.abs(), step.square() * free, free

    total = _summed(sums, views, masks, masks if others is None else others)
    used = (total[1] > 0) & (total[3] > 0)
    offset = (total[0] / total[1]).where(used, math.nan)
    return offset, float((total[2][used].sum() / total[3][used].sum()).sqrt())


def _summed(parts: Callable[..., tuple[Tensor, ...]], *batches: Tensor) -> Tensor:
    """Sums over pixels and both directions of what `parts(*batches, dim)` gives, `(P, N, C)`."""
    rows = []
    for few in zip(*(batch.split(FEW) for batch in batches), strict=True):
        sums = [
            torch.stack([part.sum(dim=(2, 3)).double() for part in parts(*few, dim)])
            for dim in (2, 3)
        ]
        rows.append(sums[0] + sums[1])
    return torch.cat(rows, dim=1)


def _root_mean_square(values: Tensor) -> float:
    """Of all values but NaN."""
    return float(values[values.isfinite()].square().mean().sqrt())


def _shares(level: Tensor, classes: int) -> Tensor:
    """Share of each class in each row: whole numbers `(N, K)` -> `(N, classes)`."""
    n, k = level.shape
    row = torch.arange(n, device=level.device)[:, None] * classes
    counts = torch.bincount((level + row).flatten(), minlength=n * classes)
    return counts.view(n, classes).float() / k


def _cell_means(inner: Tensor, cells: int) -> Tensor:
    """Mean of each of `cells` x `cells` parts; `inner` lacks the view's outermost pixels."""
    whole = nnf.pad(inner, (1, 1, 1, 1), mode="replicate")
    return nnf.adaptive_avg_pool2d(whole, cells)


def _own_share(distance: Tensor) -> float:
    """Mean over the rows of `(N, N)`: 1 / k where the diagonal is among the row's k smallest."""
    # Ties of equal features are exact; others may differ by rounding.
    nearest = distance <= distance.amin(dim=1, keepdim=True) * (1 + 1e-9)
    return float((nearest.diagonal().double() / nearest.sum(dim=1)).mean())
