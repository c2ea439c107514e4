"""How trivial a positive pair is, without training: features and rates from views and masks.

MSCN's principle (arXiv 2206.07700): an augmentation is good if useful features agree across the two
views of an image and trivial features do not. Also, a mask must not create edges. Both can be
measured in the views: how often a trivial feature alone finds a view's pair in the batch
(`retrieval_rate`; chance is 1 / N), and how the steps across masks' borders compare with those
between other neighbours (`border_response`; chance is 1, and `signed_chance` for the signed
response). A good mask brings both to chance.

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

# Network inputs are in [-2.2, 2.7] after normalisation, and mostly within +-1 if filtered.
HISTOGRAM_REACH = 3.0
# Lower ends of the classes of edge strength: half a decade each, from what 8 bits resolve
# (1 / 255 / std = 0.017) to the strongest steps of photographs.
MAGNITUDES = (0.02, 0.063, 0.2, 0.63)
KERNEL_SIDE = 7  # pixels; a ResNet's first layer
FEW = 8  # images at a time if there are many temporaries, which then stay in the cache
FLAT_TOLERANCE = 1e-3  # the filter's rounding leaves 1e-7 on a constant area; no network sees that
# Mean absolute second over first difference of white Gaussian noise: sqrt(6) / sqrt(2).
WHITE = math.sqrt(3.0)


def mean_colour(views: Tensor) -> Tensor:
    """Returns the mean of each channel, `(N, 3)`, of views `(N, 3, S, S)`."""
    return views.mean(dim=(2, 3))


def colour_histogram(views: Tensor, bins: int = 16) -> Tensor:
    """Returns the share of each channel's pixels in each class of value, `(N, 3 * bins)`.

    The `bins` classes are equally wide in sign(x) * sqrt(|x|) between -3 and 3, so they resolve
    both filtered values around 0 and unfiltered values. Values outside count in the outermost
    class.
    """
    n, c = views.shape[:2]
    root = views.sign() * views.abs().sqrt() / math.sqrt(HISTOGRAM_REACH)
    level = ((root + 1) * (bins / 2)).floor().clamp(0, bins - 1).long()
    return _shares(level.view(n * c, -1), bins).view(n, c * bins)


def edge_histogram(views: Tensor, orientations: int = 8) -> Tensor:
    """Returns the share of pixels that have an edge of each orientation and strength.

    The result is `(N, 4 * orientations)`. Edges are forward differences of the mean over the
    channels. Orientations are those of a line, 0 to 180 degrees, the first class centred on upright
    edges; strengths are `MAGNITUDES`, and weaker edges are in no class.
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
    """Returns the masked share of each of G x G parts, `(N, C * G * G)`, of masks `(N, C, S, S)`.

    It needs the masks themselves, bool, and G is `cells`. Masks are drawn for each view
    independently, so this is at chance unless two views share draws. It checks the views, not what
    a network can use; for that, see `guessed_mask`.
    """
    return nnf.adaptive_avg_pool2d(masks.float(), cells).flatten(1)


def guessed_mask(views: Tensor, cells: int = 7) -> Tensor:
    """Returns what a view alone reveals of its mask: a guess of `mask_shape`, `(N, 3 * G * G)` in 0
    to 1.

    A part of a channel looks masked if its pixels equal their neighbours (zeros, a constant
    colour), or if its texture is white noise: there the mean absolute second difference is sqrt(3)
    times the first; in photographs it is about 1 times. Flat skies also look masked, so two views
    of an image may agree in this feature without any mask.
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
    """Returns the share of a batch's images whose nearest neighbour in the other view is their own
    pair.

    a, b: one feature of two views of the same images, `(N, F)` each. Distances are L2 after each
    value has been standardised over both views together; both directions count equally. If k
    candidates are equally near, a pair among them counts 1 / k. So a constant feature gives exactly
    chance, 1 / N, and a feature that is independent of the image gives chance in expectation.
    Raises `InputError` if the features differ in shape, are not finite, or have less than 2 images.
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
    # The spread of a constant value is only rounding, relative to the value itself.
    constant = spread <= 1e-12 * torch.cat([a, b]).abs().amax(dim=0)
    both = torch.where(constant, 0.0, both / spread.where(~constant, 1.0))
    # No matrix products here: their rounding would make equal candidates differ.
    distance = torch.cdist(
        both[: len(a)], both[len(a) :], compute_mode="donot_use_mm_for_euclid_dist"
    )
    return 0.5 * (_own_share(distance) + _own_share(distance.T))


class BorderResponse(NamedTuple):
    """Steps across mask borders against steps elsewhere, over a batch.

    absolute: mean absolute step across a border, divided by the mean absolute step between unmasked
        neighbours. 1 = a border is an edge like any other; more = a parasitic edge. A filled mask
        can hardly reach 1 in a smooth image: neighbours are similar there, and a mask's value is
        not related to the pixel next to it.
    kernel: the same for the sum that an edge kernel computes: steps averaged with their sign along
        `length` pixels of a straight border, and elsewhere along the same number of free pixels.
        Chance is 1. Noise in a mask counts less than in `absolute`. NaN without borders that long.
    signed: the steps from outside to inside, averaged with their sign over all borders of an image
        and channel. Their root mean square over the batch is divided by that of single steps
        elsewhere. It measures whether a mask is darker or brighter than its surroundings on all
        sides. It uses the mean square, because 0 after normalisation is the data set's mean colour:
        dark and bright images would cancel although each has its border.
    signed_chance: `signed` without a border: each view with the masks of the batch's next image,
        between neighbours that its own mask leaves. It is above 0, because borders are finite. If a
        mask has no offset, `signed` is about as large. NaN without such neighbours.
    """

    absolute: float
    kernel: float
    signed: float
    signed_chance: float


def border_response(
    views: Tensor, masks: Tensor, length: int = KERNEL_SIDE
) -> BorderResponse | None:
    """Returns how strongly masks create edges; None if no mask has unmasked neighbours.

    views float `(N, C, S, S)`, masks bool of the same shape. A step is the difference of two
    horizontal or vertical neighbours. It is a border step if one of them is masked, and free if
    neither is. Means are over the steps of those channels that have steps of both kinds.
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
    """Three tensors for neighbours along `dim`: their difference; 1 if only the second of the two
    is masked, -1 if only the first is, otherwise 0; and 1 if neither is masked, otherwise 0."""
    inside = masks.to(views.dtype)
    length = inside.shape[dim] - 1
    first, second = inside.narrow(dim, 0, length), inside.narrow(dim, 1, length)
    return views.diff(dim=dim), second - first, (1 - first) * (1 - second)


def _contrast(views: Tensor, masks: Tensor, length: int) -> float:
    """Returns the mean absolute step across borders divided by that elsewhere, for steps averaged
    along `length` pixels of a straight border; NaN if one of them does not exist.
    """

    def sums(some: Tensor, masked: Tensor, dim: int) -> tuple[Tensor, ...]:
        parts = _steps(some, masked, dim)
        if length > 1:
            along = (1, length) if dim == 2 else (length, 1)
            parts = tuple(nnf.avg_pool2d(part, along, stride=1) for part in parts)
        step, inward, free = (part.abs_() for part in parts)
        least = 1 - 0.5 / length  # for a window that is completely border, or free
        border, free = (inward > least).to(step.dtype), (free > least).to(step.dtype)
        return step * border, border, step * free, free

    total = _summed(sums, views, masks)
    used = (total[1] > 0) & (total[3] > 0)
    at_border, borders, elsewhere, frees = (x[used].sum() for x in total)
    return float((at_border / borders) / (elsewhere / frees))


def _offsets(views: Tensor, masks: Tensor, others: Tensor | None = None) -> tuple[Tensor, float]:
    """Returns the mean step towards the inside over the borders of each mask, `(N, C)`, NaN without
    a border; and the root mean square of the free steps of channels that have one.

    With `others`, the borders are those of `others` between pixels that `masks` leaves.
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
    """Sums the results of `parts(*batches, dim)` over pixels and both directions, `(P, N, C)`."""
    rows = []
    for few in zip(*(batch.split(FEW) for batch in batches), strict=True):
        sums = [
            torch.stack([part.sum(dim=(2, 3)).double() for part in parts(*few, dim)])
            for dim in (2, 3)
        ]
        rows.append(sums[0] + sums[1])
    return torch.cat(rows, dim=1)


def _root_mean_square(values: Tensor) -> float:
    """Returns the root mean square of all values that are not NaN."""
    return float(values[values.isfinite()].square().mean().sqrt())


def _shares(level: Tensor, classes: int) -> Tensor:
    """Returns the share of each class in each row, `(N, classes)`, of integers `(N, K)`."""
    n, k = level.shape
    row = torch.arange(n, device=level.device)[:, None] * classes
    counts = torch.bincount((level + row).flatten(), minlength=n * classes)
    return counts.view(n, classes).float() / k


def _cell_means(inner: Tensor, cells: int) -> Tensor:
    """Returns the mean of each of `cells` x `cells` parts; `inner` lacks the view's outermost
    pixels.
    """
    whole = nnf.pad(inner, (1, 1, 1, 1), mode="replicate")
    return nnf.adaptive_avg_pool2d(whole, cells)


def _own_share(distance: Tensor) -> float:
    """Returns the mean over the rows of `(N, N)` of 1 / k, if the diagonal is among the row's k
    smallest.
    """
    # Ties of equal features are exact; others may differ by rounding.
    nearest = distance <= distance.amin(dim=1, keepdim=True) * (1 + 1e-9)
    return float((nearest.diagonal().double() / nearest.sum(dim=1)).mean())
