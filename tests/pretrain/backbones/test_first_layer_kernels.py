"""Blank and flat kernels made by hand, and the picture that shows them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pretrain.backbones.first_layer_kernels import (
    first_layer,
    judge_kernels,
    kernel_sheet,
    tile_kernels,
)
from pretrain.common.errors import InputError


def edges(count: int, norm: float = 1.0) -> torch.Tensor:
    """Kernels of 4 x 4 px with a vertical edge, all of one norm."""
    edge = torch.tensor([1.0, 1.0, -1.0, -1.0]).expand(count, 3, 4, 4)
    return edge * norm / 48**0.5


def test_zero_and_faint_kernels_are_blank() -> None:
    kernels = torch.cat([edges(10), edges(1, 0.05), edges(1, 0.2), torch.zeros(1, 3, 4, 4)])
    facts = judge_kernels(kernels)
    assert facts.blank.nonzero().flatten().tolist() == [10, 12]
    assert not facts.flat.any()
    assert facts.reference == pytest.approx(1.0)
    torch.testing.assert_close(facts.norms, torch.tensor([1.0] * 10 + [0.05, 0.2, 0.0]))
    assert int(judge_kernels(kernels, 0.3).blank.sum()) == 3
    assert int(judge_kernels(kernels, 0.0).blank.sum()) == 1, "only the zeros"
    assert facts.summary().startswith("2 of 13 kernels blank (norm below 0.1 of the reference 1)")


def test_a_layer_of_which_most_has_collapsed() -> None:
    """The median itself is blank then, the reference is not."""
    kernels = torch.cat([edges(14), edges(50, 0.01)])
    assert int(judge_kernels(kernels).blank.sum()) == 50


def test_one_strong_kernel_does_not_blank_the_others() -> None:
    assert not judge_kernels(torch.cat([edges(31), edges(1, 50.0)])).blank.any()


def test_a_layer_of_zeros_is_blank() -> None:
    assert judge_kernels(torch.zeros(5, 3, 3, 3)).blank.all()


@pytest.mark.parametrize("side", [3, 7, 16])
@pytest.mark.parametrize("init", [nn.init.kaiming_normal_, nn.init.trunc_normal_])
def test_initial_kernels_are_neither(side: int, init: object) -> None:
    kernels = nn.Conv2d(3, 256, side).weight.data
    init(kernels)
    facts = judge_kernels(kernels)
    assert not facts.blank.any() and not facts.flat.any()


def test_flat_kernels_have_a_colour_and_no_pattern() -> None:
    colour = torch.tensor([0.3, -0.1, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    nearly = colour + edges(1, 0.01)
    facts = judge_kernels(torch.cat([edges(6), colour, nearly, colour + edges(1), colour * 0.001]))
    assert facts.flat.nonzero().flatten().tolist() == [6, 7]
    assert facts.blank.nonzero().flatten().tolist() == [9], "a blank kernel is not flat as well"


def test_against_loops() -> None:
    kernels = torch.randn(40, 3, 5, 5) * torch.logspace(-3, 0, 40).view(-1, 1, 1, 1)
    facts = judge_kernels(kernels, 0.25)
    norms = [sum(float(w) ** 2 for w in kernel.flatten()) ** 0.5 for kernel in kernels]
    place = 0.9 * 39
    low, high = sorted(norms)[int(place)], sorted(norms)[int(place) + 1]
    reference = low + (high - low) * (place - int(place))
    assert facts.reference == pytest.approx(reference, rel=1e-5)
    assert facts.blank.tolist() == [norm < 0.25 * reference for norm in norms]
    assert 0 < int(facts.blank.sum()) < 40
    content = facts.to_dict()
    assert content["norms"] == pytest.approx(norms, rel=1e-5) and content["kernels"] == 40
    assert content["blank_kernels"] == [i for i in range(40) if norms[i] < 0.25 * reference]
    assert content["blank"] == len(content["blank_kernels"])


def test_first_layer_is_the_one_that_reads_colours() -> None:
    state = {
        "pos_embed": torch.zeros(1, 3, 8),
        "count": torch.zeros(1, 3, 1, 1, dtype=torch.int64),
        "stem.weight": torch.ones(8, 3, 2, 2, dtype=torch.bfloat16),
        "later.weight": torch.zeros(8, 3, 1, 1),
    }
    name, kernels = first_layer(state)
    assert (
        name == "stem.weight" and kernels.dtype == torch.float32 and kernels.shape == (8, 3, 2, 2)
    )
    with pytest.raises(InputError, match="no convolution with 3 input channels among 1"):
        first_layer({"fc.weight": torch.zeros(3, 3)})
    with pytest.raises(InputError, match="stem.weight has values that are not finite"):
        first_layer({"stem.weight": torch.full((8, 3, 2, 2), float("nan"))})


def test_tiles_clip_and_frame() -> None:
    kernels = np.zeros((2, 3, 1, 1), np.float32)
    kernels[0, 0], kernels[1, 2] = 5.0, -0.5
    sheet = tile_kernels(kernels, np.array([1.0, 1.0]), 2, np.array([False, True]))
    assert sheet.shape == (4, 8, 3)
    assert sheet[1, 1].tolist() == [255, 128, 128], "beyond the scale"
    assert sheet[2, 6].tolist() == [128, 128, 64]
    assert sheet[0, 0].tolist() == [245, 245, 245] and sheet[0, 4].tolist() == [220, 0, 0]


def test_sheet_shows_shape_and_strength() -> None:
    """A faint edge is an edge on its own scale and grey on the common one, there in a frame."""
    kernels = torch.cat([edges(63), edges(1, 0.01)])
    sheet = np.asarray(kernel_sheet(kernels, judge_kernels(kernels), "net: conv1", cell=40))
    side = 8 * (40 + 2)
    assert sheet.shape[:2] == (3 * 20 + side + 2 * 10, max(2 * side + 10, 0) + 2 * 10)
    own, common = (
        sheet[70 : 70 + side, 10 : 10 + side],
        sheet[70 : 70 + side, 20 + side : 20 + 2 * side],
    )
    last = np.s_[-41:-1, -41:-1]
    assert set(own[last].ravel().tolist()) == {0, 255}
    assert set(common[last].ravel().tolist()) <= {126, 127, 128, 129}
    assert set(common[1:41, 1:41].ravel().tolist()) == {0, 255}
    for part in (own, common):
        assert part[-1, -1].tolist() == [220, 0, 0] and part[0, 0].tolist() == [245, 245, 245]
    assert (sheet[:40] < 128).any(), "a title"
