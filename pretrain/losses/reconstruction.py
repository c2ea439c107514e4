"""MAE's loss (arXiv 2111.06377): images and predicted patches in, one scalar out.

Legend: N images, L patches of an image (row by row), P side of a patch in pixels. The values of a
patch are ordered as (P, P, 3).
"""

from __future__ import annotations

from torch import Tensor

from pretrain.losses.precision import full_precision

PIXEL_EPSILON = 1e-6  # facebookresearch/mae models_mae.py


def patchify(images: Tensor, patch: int) -> Tensor:
    """Cuts images (N, 3, H, W) into patches (N, L, P * P * 3). Raises ValueError if P does not
    divide the sides.
    """
    n, channels, height, width = images.shape
    if height % patch or width % patch:
        raise ValueError(f"images of {height}x{width} px do not split into patches of {patch} px")
    rows, columns = height // patch, width // patch
    grid = images.reshape(n, channels, rows, patch, columns, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(n, rows * columns, patch * patch * channels)


@full_precision
def removed_patch_error(
    predicted: Tensor, patches: Tensor, removed: Tensor, normalize: bool
) -> Tensor:
    """Returns the mean squared error of only the removed patches.

    Args:
        predicted, patches: (N, L, P * P * 3).
        removed: (N, L) bool, True for a patch that the encoder did not see.
        normalize: give targets mean 0 and (unbiased) variance 1 within each patch.
    """
    if normalize:
        mean = patches.mean(dim=-1, keepdim=True)
        variance = patches.var(dim=-1, keepdim=True)
        patches = (patches - mean) / (variance + PIXEL_EPSILON).sqrt()
    error = (predicted - patches).square().mean(dim=-1)
    return (error * removed).sum() / removed.sum()
