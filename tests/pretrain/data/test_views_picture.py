"""The panel of views: its size and colours; it does not use the run's random generators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pretrain.data.augment import ViewRecipe
from pretrain.data.highpass import HighPass
from pretrain.data.masking import MaskRecipe
from pretrain.data.preprocess import Preprocess
from pretrain.data.views import ViewMaker
from pretrain.data.views_picture import displayable, save_view_panel


def test_panel(tmp_path: Path) -> None:
    mask = MaskRecipe(grid_size=8, noise="none", ratio=1.0, focal_prob=0.0)
    maker = ViewMaker(
        [ViewRecipe.none()] * 2, highpasses=[None, HighPass(5, 2.0)], masks=[None, mask]
    )
    crops = torch.randint(0, 256, (2, 5, 3, 32, 32), dtype=torch.uint8)
    state = torch.get_rng_state()
    path = save_view_panel(maker, crops, tmp_path / "run" / "views.png", rows=3)
    assert torch.equal(state, torch.get_rng_state())
    panel = np.asarray(Image.open(path))
    assert panel.shape == (16 + 4 + 3 * 100, 4 + 4 * 100, 3)
    tile = panel[20:116, 4:100][::3, ::3]
    assert np.array_equal(tile, crops[0, 0].permute(1, 2, 0).numpy()), "the crop itself"
    unmasked = panel[20:116, 204:300][::3, ::3].astype(int)
    assert np.abs(unmasked - tile).max() <= 1, "normalisation undone"
    assert set(panel[20:116, 304:400].ravel().tolist()) <= {127, 128}, "masked, filtered: grey"


def test_other_channel_order() -> None:
    images = torch.rand(2, 3, 4, 4)
    facts = Preprocess((100.0, 110.0, 120.0), (1.0, 1.0, 1.0), "BGR", (0.0, 255.0))
    shown = displayable(facts.apply(images), facts, filtered=False)
    torch.testing.assert_close(shown, images, atol=1e-5, rtol=0)
