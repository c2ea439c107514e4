"""From crops to what the network sees: V crops uint8 `(N, 3, S, S)` in, V views float32 out.

The order of operations is fixed, because after the filter 0 has to mean "nothing": photometric
augmentation in [0, 1]; normalise; high-pass filter; mask; noise in the masked pixels only. No
operation follows. Legend: V views, N batch, S a view's side in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pretrain.common.errors import InputError
from pretrain.data import augment, masking
from pretrain.data.augment import AugmentParams, ViewRecipe
from pretrain.data.blur import check_kernel
from pretrain.data.highpass import HighPass
from pretrain.data.masking import MaskDraws, MaskParams, MaskRecipe
from pretrain.data.preprocess import Preprocess


class ViewMaker:
    """Augments, normalises, filters and masks each view by its own recipe.

    Args:
        recipes: one augmentation per view (`ViewRecipe.none()` for none).
        highpasses: one filter per view; None keeps the normalised pixels.
        masks: one mask recipe per view; None masks nothing. Views are masked independently.
        preprocess: normalisation of all views (its `highpass` is not used here).
        same_view: for each view None, or the index of an earlier view whose augmented pixels it
            reuses before its own filter and mask (the article's "masks on the same view").

    Raises `InputError` if the lists differ in length or a `same_view` is not an earlier view.
    """

    def __init__(
        self,
        recipes: Sequence[ViewRecipe],
        *,
        highpasses: Sequence[HighPass | None],
        masks: Sequence[MaskRecipe | None],
        preprocess: Preprocess = Preprocess(),
        same_view: Sequence[int | None] | None = None,
    ) -> None:
        self.recipes = tuple(recipes)
        self.highpasses = tuple(highpasses)
        self.masks = tuple(masks)
        self.preprocess = preprocess
        self.same_view = tuple(same_view) if same_view else (None,) * len(self.recipes)
        lengths = [len(self.recipes), len(self.highpasses), len(self.masks), len(self.same_view)]
        if len(set(lengths)) != 1 or not self.recipes:
            raise InputError(
                "views need one recipe, filter, mask and same_view each; got"
                f" {lengths[0]}, {lengths[1]}, {lengths[2]} and {lengths[3]}"
            )
        for view, source in enumerate(self.same_view):
            if source is not None and not 0 <= source < view:
                raise InputError(
                    f"same_view of view {view} is {source}; it must be an earlier view"
                )

    @property
    def num_views(self) -> int:
        """Returns the number of views V."""
        return len(self.recipes)

    def check(self, sizes: Sequence[int]) -> None:
        """Raises `InputError` for a grid or kernel that does not fit crops of `sizes[v]` px."""
        parts = zip(self.recipes, self.highpasses, self.masks, sizes, strict=True)
        for recipe, highpass, mask, size in parts:
            if recipe.blur_prob > 0:
                check_kernel(recipe.kernel_size(size), size)
            if highpass is not None:
                highpass.check(size)
            if mask is not None:
                mask.check(size)

    @torch.no_grad()
    def __call__(self, crops: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
        """Make the views of a batch, on the crops' device.

        Takes V crops uint8 `(N, 3, S, S)` RGB, returns V views float32 of their shapes. `generator`
        is the only source of randomness. Keep it on the CPU even if the crops are on a GPU: the
        draws are small, and then the GPU never waits for them.
        """
        if len(crops) != self.num_views:
            raise InputError(f"got {len(crops)} crops per image for {self.num_views} views")
        made: dict[int, Tensor] = {}
        pixels: dict[int, Tensor] = {}  # the views that a later one reuses
        # On a CPU a view is made before the next one is drawn: its noise is drawn piece by piece.
        one_by_one = crops[0].device.type == "cpu"
        every = list(range(self.num_views))
        for views in [[view] for view in every] if one_by_one else [every]:
            params, masks = self._draw(crops, views, generator)
            for drawn, images in self._augmented(crops, params):
                for alike, part in self._finished_alike(drawn, images):
                    shared = any(view in self.same_view for view in alike)
                    if shared:
                        pixels.update(zip(alike, part.chunk(len(alike))))
                    finished = self._finish(part, alike, masks, shared)
                    made.update(zip(alike, finished.chunk(len(alike))))
            for view in views:
                source = self.same_view[view]
                if source is not None:
                    pixels[view] = pixels[source]
                    made[view] = self._finish(pixels[view], [view], masks, True)
        return [made[view] for view in every]

    def masks_of(
        self, crops: Sequence[Tensor], generator: torch.Generator
    ) -> list[MaskParams | None]:
        """Returns the mask of each view (None if its branch has none) that `__call__` draws for
        these crops from a generator in the same state. It only draws, and makes no view.
        """
        made: list[MaskParams | None] = []
        for view, recipe in enumerate(self.masks):
            draws = self._draw(crops, [view], generator)[1]
            made.append(None if recipe is None else _masks(recipe, crops[view], draws[view]))
        return made

    def _draw(
        self, crops: Sequence[Tensor], views: Sequence[int], generator: torch.Generator
    ) -> tuple[dict[int, AugmentParams], dict[int, MaskDraws]]:
        """Returns the draws of some views, view by view: the augmentation of each view that does
        not reuse another view, and the mask of each view that has one.
        """
        params: dict[int, AugmentParams] = {}
        masks: dict[int, MaskDraws] = {}
        for view in views:
            crop, recipe = crops[view], self.masks[view]
            if self.same_view[view] is None:
                params[view] = augment.sample_params(self.recipes[view], len(crop), generator)
            if recipe is not None:
                masks[view] = masking.draw_masks(recipe, _shape(crop), generator, crop.device)
        return params, masks

    def _augmented(
        self, crops: Sequence[Tensor], params: dict[int, AugmentParams]
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Augment photometrically, from uint8 `(N, 3, S, S)` to float32 in [0, 1]. Yields views and
        their pixels, one view after the other.

        Views of one size whose recipes differ only in probabilities are augmented together. This
        is for GPUs, where starting kernels takes most of the time.
        """
        groups: dict[tuple[ViewRecipe, torch.Size], list[int]] = {}
        for view in params:
            recipe = self.recipes[view] if len(params) == 1 else self.recipes[view].operations()
            groups.setdefault((recipe, crops[view].shape), []).append(view)
        for (recipe, _), views in groups.items():
            views = [view for alike in self._alike(views) for view in alike]
            together = torch.cat([crops[view] for view in views]) if views[1:] else crops[views[0]]
            drawn = AugmentParams.cat([params[view] for view in views])
            yield views, augment.apply_augment(together, drawn, recipe)

    def _alike(self, views: Sequence[int]) -> list[list[int]]:
        """Returns the views in groups that have the same filter, and masks that differ only in
        their probability. A mask of other images of the batch has a group of its own.
        """
        groups: dict[tuple[HighPass | None, MaskRecipe | None, int | None], list[int]] = {}
        for view in views:
            mask = self.masks[view]
            alone = view if mask is not None and mask.fill == "other" else None
            certain = None if mask is None else replace(mask, apply_prob=1.0)
            groups.setdefault((self.highpasses[view], certain, alone), []).append(view)
        return list(groups.values())

    def _finished_alike(
        self, views: list[int], images: Tensor
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yields groups of views that are normalised, filtered and masked together, with their
        pixels: parts of `images`, which has those of all views in this order.
        """
        groups = self._alike(views)
        number = len(images) // len(views)
        yield from zip(groups, images.split([number * len(alike) for alike in groups]))

    def _finish(
        self, images: Tensor, views: Sequence[int], draws: dict[int, MaskDraws], shared: bool
    ) -> Tensor:
        """Normalise, filter and mask the views of a group, and return the network's input.

        images: float32 in [0, 1] `(N, 3, S, S)`, the pixels of views that `_alike` groups, one view
        after the other. The result replaces them unless they are shared with another view.

        On a CPU this also runs in pieces, unless the mask is filled with other images of the batch.
        """
        recipe = self.masks[views[0]]
        preprocess = replace(self.preprocess, highpass=self.highpasses[views[0]])
        affine = preprocess.affine(images)
        drawn = None if recipe is None else MaskDraws.cat([draws[view] for view in views])
        from_batch = recipe is not None and recipe.fill == "other"
        number = len(images) if from_batch else augment.at_a_time(images)

        def finished(piece: Tensor, part: MaskDraws | None, out: Tensor | None) -> Tensor:
            made = preprocess.apply(piece, affine, out)
            if recipe is None or part is None:
                return made
            return masking.apply_mask(made, _masks(recipe, piece, part), out)

        if number >= len(images):
            return finished(images, drawn, None if shared else images)
        whole = torch.empty_like(images) if shared else images
        parts = [None] * len(images) if drawn is None else drawn.split(number)
        for piece, target, part in zip(images.split(number), whole.split(number), parts):
            made = finished(piece, part, target)
            if made is not target:
                target.copy_(made)
        return whole


def _masks(recipe: MaskRecipe, images: Tensor, draws: MaskDraws) -> MaskParams:
    """Returns the masks of images `(N, C, H, W)`, on their device."""
    return masking.make_masks(recipe, _shape(images), draws, images.device)


def _shape(images: Tensor) -> tuple[int, int, int, int]:
    n, c, h, w = images.shape
    return n, c, h, w
