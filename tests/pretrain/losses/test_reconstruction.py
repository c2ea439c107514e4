"""MAE's patches and loss against loops over patches and pixels, and lightly's utilities."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pretrain.losses.reconstruction import patchify, removed_patch_error

REASON = "lightly (extra `test`) is not installed"


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_patchify(images: Tensor, side: int) -> Tensor:
    """Patches row by row; in each, pixels row by row, the three colours of a pixel together."""
    count, _, height, width = images.shape
    rows = []
    for image in images:
        for top in range(0, height, side):
            for left in range(0, width, side):
                for y in range(top, top + side):
                    for x in range(left, left + side):
                        rows += [image[channel, y, x] for channel in range(3)]
    return torch.stack(rows).view(count, -1, side * side * 3)


def slow_error(predicted: Tensor, patches: Tensor, removed: Tensor, normalize: bool) -> Tensor:
    errors = []
    for n in range(len(patches)):
        for patch in range(patches.shape[1]):
            if not removed[n, patch]:
                continue
            target = patches[n, patch]
            if normalize:
                mean = sum(target) / len(target)
                variance = sum((value - mean) ** 2 for value in target) / (len(target) - 1)
                target = (target - mean) / torch.sqrt(variance + 1e-6)
            squares = [(p - t) ** 2 for p, t in zip(predicted[n, patch], target)]
            errors.append(sum(squares) / len(squares))
    return sum(errors) / len(errors)


def some_removed(images: int, patches: int) -> Tensor:
    """A mask that removes different numbers of patches in the images."""
    removed = torch.zeros(images, patches, dtype=torch.bool)
    removed[0, 1:] = True
    removed[1, 2] = True
    return removed


def test_patches_match_the_loop() -> None:
    images = draw(2, 3, 4, 6)
    assert torch.equal(patchify(images, 2), slow_patchify(images, 2))


def test_patches_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="4x6 px do not split into patches of 4 px"):
        patchify(draw(2, 3, 4, 6), 4)


@pytest.mark.parametrize("normalize", [False, True])
def test_values_and_gradients_match_the_loop(normalize: bool) -> None:
    patches, removed = draw(2, 4, 12), some_removed(2, 4)
    ours, slow = draw(2, 4, 12, seed=1).requires_grad_(), draw(2, 4, 12, seed=1).requires_grad_()
    value = removed_patch_error(ours, patches, removed, normalize)
    expected = slow_error(slow, patches, removed, normalize)
    torch.testing.assert_close(value, expected)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, slow.grad)
    assert not ours.grad[~removed].any(), "visible patches play no part"
    assert (ours.grad[removed] != 0).all()


def test_patches_of_one_colour_have_a_finite_target() -> None:
    patches = torch.full((1, 2, 12), 0.3)
    removed = torch.ones(1, 2, dtype=torch.bool)
    loss = removed_patch_error(torch.ones(1, 2, 12), patches, removed, normalize=True)
    assert loss.item() == pytest.approx(1.0, abs=1e-3)  # the target is 0


def test_patches_match_lightly() -> None:
    utils = pytest.importorskip("lightly.models.utils", reason=REASON)
    images = draw(2, 3, 8, 8)
    assert torch.equal(patchify(images, 4), utils.patchify(images, 4))


def test_loss_matches_mean_squared_error_on_lightlys_targets() -> None:
    utils = pytest.importorskip("lightly.models.utils", reason=REASON)
    predicted, patches, removed = draw(2, 4, 12, seed=1), draw(2, 4, 12), some_removed(2, 4)
    wanted = utils.normalize_mean_var(patches, dim=-1)
    expected = torch.nn.functional.mse_loss(predicted[removed], wanted[removed])
    torch.testing.assert_close(removed_patch_error(predicted, patches, removed, True), expected)
