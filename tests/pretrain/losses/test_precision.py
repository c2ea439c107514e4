"""Losses compute in float32 or better: the guard itself, and every loss under bfloat16 autocast."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pretrain.losses import assignment, reconstruction, redundancy, similarity
from pretrain.losses.precision import full_precision

PAIRS = [(0, 1)]
REMOVED = torch.tensor([[True, False, True, True, False, True]])


@full_precision
def product(a: Tensor, b: Tensor, *, offset: Tensor | None = None, scale: float = 1.0) -> Tensor:
    """The matrix product, which autocast would lower."""
    result = scale * (a @ b)
    return result if offset is None else result + offset


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_tensors_are_promoted(kind: torch.dtype) -> None:
    a, b = draw(3, 4).to(kind), draw(4, 2, seed=1).to(kind)
    wanted = torch.promote_types(kind, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = product(a, b, offset=b[:1], scale=2.0)
    assert result.dtype == wanted
    expected = 2 * (a.double() @ b.double()) + b[:1].double()
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)


def test_gradients_return_in_the_networks_precision() -> None:
    a = draw(3, 4).bfloat16().requires_grad_()
    product(a, draw(4, 2, seed=1)).sum().backward()
    assert a.grad.dtype == torch.bfloat16 and a.grad.any()


def test_other_arguments_stay_as_they_are() -> None:
    seen = {}

    @full_precision
    def note(z: Tensor, **options: object) -> None:
        """Docstring."""
        seen.update(options)

    index, pairs = torch.tensor([1]), [(0, 1)]
    note(draw(2), index=index, pairs=pairs, name="a", half=draw(2).half())
    assert seen["index"] is index and seen["pairs"] is pairs and seen["name"] == "a"
    assert seen["half"].dtype == torch.float32, "named tensors are promoted too"
    assert note.__name__ == "note" and note.__doc__ == "Docstring."


def test_autocast_is_back_after_the_loss() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        product(draw(3, 4), draw(4, 2))
        assert (draw(3, 4) @ draw(4, 2)).dtype == torch.bfloat16


def msn(z: Tensor) -> Tensor:
    settings = {"temperature": 0.1, "target_sharpening": 0.25, "balance": True}
    return sum(assignment.msn_terms(z[:1], z[1], z[0, :4], **settings).values())


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "nt_xent": lambda z: similarity.nt_xent_pairs(z, PAIRS, 0.1),
    "queue": lambda z: similarity.queue_contrast(z[0], z[1], z[0].T, 0.1),
    "batch": lambda z: similarity.batch_contrast(z[0], z[1], 0.1),
    "cosine": lambda z: similarity.negative_cosine(z[0], z[1]),
    "error": lambda z: similarity.normalized_error(z[0], z[1]),
    "invariance": lambda z: redundancy.invariance(z, PAIRS),
    "variance": lambda z: redundancy.variance_and_covariance(z)[0],
    "covariance": lambda z: redundancy.variance_and_covariance(z)[1],
    "barlow": lambda z: sum(redundancy.barlow_pairs(z, PAIRS, 0.1).values()),
    "prototypes": lambda z: assignment.prototype_probabilities(z[0], z[1], 0.1).square().sum(),
    "msn": msn,
    "pixels": lambda z: reconstruction.removed_patch_error(z[:1], z[1:], REMOVED, True),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_bfloat16_embeddings_are_those_of_float64(name: str) -> None:
    # A large common offset, so that a mean or a variance in bfloat16 would be far off.
    z = (0.5 * draw(2, 6, 8) + 4).bfloat16()
    for lowered in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=lowered):
            loss, again = LOSSES[name](z), LOSSES[name](z.float())
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.double(), LOSSES[name](z.double()), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(loss, again, rtol=1e-6, atol=1e-6)
