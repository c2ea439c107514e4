"""Columns of crops, views and masks: the draws of training's panel, masks in their places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.data.augment import ViewRecipe
from pretrain.data.highpass import HighPass
from pretrain.data.masking import MaskRecipe
from pretrain.data.preprocess import Preprocess
from pretrain.data.views import ViewMaker
from pretrain.data.views_picture import draw_columns, save_view_panel
from pretrain.visual.gallery import stack_sheets, view_columns


@pytest.fixture
def crops() -> list[torch.Tensor]:
    return list(torch.randint(0, 256, (2, 5, 3, 32, 32), dtype=torch.uint8))


def make(mask: MaskRecipe | None, order: str = "RGB") -> ViewMaker:
    return ViewMaker(
        [ViewRecipe()] * 2,
        highpasses=[None, HighPass(5, 2.0)],
        masks=[None, mask],
        preprocess=Preprocess(channel_order=order),
    )


def test_views_are_those_of_the_training_panel(crops: list[torch.Tensor], tmp_path: Path) -> None:
    maker = make(MaskRecipe(grid_size=8))
    columns = view_columns(maker, crops, seed=4)
    assert [title for title, _ in columns] == [
        f"{name} {number}" for number in (1, 2) for name in ("crop", "view", "mask")
    ]
    panel = np.asarray(Image.open(save_view_panel(maker, crops, tmp_path / "v.png", seed=4)))
    sheet = np.asarray(draw_columns(columns))
    for ours, theirs in ((0, 0), (3, 1), (1, 2), (4, 3)):  # crops, then views
        tile, wanted = (
            picture[20:, 4 + 100 * place : 100 + 100 * place]
            for picture, place in ((sheet, ours), (panel, theirs))
        )
        assert np.array_equal(tile, wanted)
    assert not columns[2][1].any(), "view 1 has no mask"


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_masked_values_are_grey_where_the_mask_is(crops: list[torch.Tensor], order: str) -> None:
    mask = MaskRecipe(grid_size=8, ratio=0.5, noise="none", focal_prob=0.0, channel_prob=1.0)
    columns = dict(view_columns(make(mask, order), crops, seed=0))
    view, shown = columns["view 2"], columns["mask 2"]
    assert set(shown.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(shown.mean(dim=(2, 3)), torch.full((5, 3), 0.5)), "half of each channel"
    assert (view[shown == 1] == 0.5).all()
    assert ((view[shown == 0] - 0.5).abs() < 1e-4).float().mean() < 0.05
    assert not torch.equal(shown[:, 0], shown[:, 1]), "a mask for each channel"


def test_configs_share_draws(crops: list[torch.Tensor]) -> None:
    """Noise or none, filter or none: the masks of the first masked view stay where they are."""
    plain = make(MaskRecipe(grid_size=8, noise="none"))
    noisy = make(MaskRecipe(grid_size=8, noise="iid"))
    first, second = (dict(view_columns(maker, crops, seed=1)) for maker in (plain, noisy))
    assert torch.equal(first["mask 2"], second["mask 2"])
    assert not torch.equal(first["view 2"], second["view 2"])


def test_columns_of_two_sizes() -> None:
    big, small = torch.zeros(2, 3, 130, 130), torch.ones(2, 3, 20, 20)
    big[1, :, 0, 2] = 1.0
    columns = [("big", big), ("small", small)]
    sheet = np.asarray(draw_columns(columns, "both", largest=65, background="red"))
    # every second pixel of the big one: 65 px; 5 px for one of the small one: 100 px
    assert sheet.shape == (24 + 16 + 4 + 2 * (100 + 4), 4 + 69 + 104, 3)
    assert (sheet[44:144, 73:173] == 255).all()
    assert (sheet[44:109, 4:69] == 0).all()
    assert sheet[44 + 70, 20].tolist() == [255, 0, 0], "the page below it"
    dots = np.argwhere(sheet[148:213, 4:69].all(axis=2))
    assert dots.tolist() == [[0, 1]]


def test_a_long_heading_is_not_clipped() -> None:
    images = [("one", torch.zeros(1, 3, 96, 96))]
    sheet = np.asarray(draw_columns(images, "a heading far longer than the only column " * 2))
    assert sheet.shape[1] > 400
    inked = np.argwhere((sheet[:24] < 128).any(axis=(0, 2)))
    assert 300 < inked.max() < sheet.shape[1] - 4


def test_stack() -> None:
    sheets = [Image.new("RGB", (10, 5), "red"), Image.new("RGB", (20, 7), "blue")]
    stacked = np.asarray(stack_sheets(sheets, gap=3))
    assert stacked.shape == (15, 20, 3)
    assert stacked[4, 9].tolist() == [255, 0, 0] and stacked[8, 19].tolist() == [0, 0, 255]
    assert stacked[4, 10].tolist() == stacked[6, 0].tolist() == [220, 220, 220]
