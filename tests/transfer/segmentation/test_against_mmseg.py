"""Segmenters against mmsegmentation: recorded numbers, and the package itself if it is installed.

equality/record_golden.py made the golden files. A different processor may have summed in a
different order, so a few ReLUs change their side; the tolerances are three to five times the
differences of runs restricted to AVX2 and to SSE4 from the recording with AVX512.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pretrain.common.config import CHECKOUT
from tests.transfer.segmentation.equality import our_side
from tests.transfer.segmentation.equality.cases import CASES, SLOW, condense, training_batch
from transfer.segmentation.config import load_segmentation_config
from transfer.training.build import make_optimizer

FOLDER = Path(__file__).parent / "golden"
SCORES, LOSS, SKETCH = 1e-4, 2e-6, 0.05  # absolute; relative; of each tensor's norm
ROUNDING = 1e-6  # norm of a gradient that would be zero, as of a bias before a batch norm
VITS = ("upernet_vit",)  # attention is one operation in timm and several in mmsegmentation


@pytest.mark.parametrize("case", [case for case in CASES if case not in SLOW])
def test_recorded_numbers(case: str) -> None:
    found = condense(our_side.run(case))
    with np.load(FOLDER / f"{case}.npz") as golden:
        assert set(found) == set(golden.files)
        for key, value in found.items():
            expected = golden[key]
            assert value.shape == expected.shape, key
            if key.startswith("losses"):
                assert float(value) == pytest.approx(float(expected), rel=LOSS), key
            elif key.endswith("names"):
                assert value.tolist() == expected.tolist(), key
            elif key.endswith("sketch"):
                allowed = ROUNDING + SKETCH * expected[:, :1]
                assert (abs(value - expected) <= allowed).all(), key
            else:
                np.testing.assert_allclose(value, expected, atol=SCORES, rtol=0, err_msg=key)


def test_the_guide_counts_the_cases() -> None:
    guide = (CHECKOUT / "docs/segmentation.md").read_text(encoding="utf-8")
    guide = " ".join(guide.split())
    assert f"built {len(CASES)} small networks" in guide
    assert f"For {len(CASES) - len(SLOW)} of the networks, `make test`" in guide


@pytest.fixture(scope="module")
def theirs() -> Any:
    if any(importlib.util.find_spec(name) is None for name in ("mmseg", "mmcv", "mmengine")):
        pytest.skip("mmsegmentation is not installed")
    from tests.transfer.segmentation.equality import mmseg_side

    return mmseg_side


@pytest.mark.mmseg
@pytest.mark.parametrize("case", CASES)
def test_scores_gradients_and_statistics(case: str, theirs: Any) -> None:
    """Bit for bit with a ResNet; losses to rounding, since theirs are means of a map of losses."""
    found, expected = our_side.run(case), theirs.run(case)
    assert set(found.losses) == set(expected.losses)
    for name, value in expected.losses.items():
        assert float(found.losses[name]) == pytest.approx(float(value), rel=1e-6), name
    pairs = {
        "whole": (found.whole, expected.whole),
        "windows": (found.windows, expected.windows),
        **{name: (found.gradients[name], grad) for name, grad in expected.gradients.items()},
        **{name: (found.statistics[name], one) for name, one in expected.statistics.items()},
    }
    assert set(found.gradients) == set(expected.gradients)
    assert set(found.statistics) == set(expected.statistics)
    for name, (ours, other) in pairs.items():
        if case in VITS:
            assert (ours - other).norm() <= ROUNDING + 1e-3 * other.norm(), name
        else:
            assert torch.equal(ours, other), name


@pytest.mark.mmseg
def test_images_are_normalised_and_padded_alike(theirs: Any) -> None:
    pixels, masks = zip(*training_batch())
    wanted_images, wanted_masks = theirs.preprocessed(list(pixels), list(masks))
    images, found = our_side.build("upernet_vit").collate(our_side.training_items())
    assert torch.allclose(images, wanted_images, atol=1e-6)
    assert torch.equal(found, wanted_masks)


@pytest.mark.mmseg
@pytest.mark.parametrize("case", ["upernet_vit", "upernet_resnet", "fcn_d8"])
def test_rates_and_weight_decays(case: str, theirs: Any) -> None:
    """Theirs also decay the positions and the class token of a ViT: the list of what is not decayed
    has their names without "backbone."."""
    ours = our_side.build(case)
    other, names = theirs.build(ours, case)
    name, *overrides = CASES[case].ours
    optimizers = (
        make_optimizer(load_segmentation_config(name, overrides), ours),
        theirs.optimizer(other, case),
    )
    found, expected = (
        {id(p): (g["lr"], g["weight_decay"]) for g in one.param_groups for p in g["params"]}
        for one in optimizers
    )
    assert type(optimizers[0]) is type(optimizers[1])
    for kind in ("momentum", "nesterov", "betas", "eps"):
        assert optimizers[0].defaults.get(kind) == optimizers[1].defaults.get(kind)
    parameters = dict(other.named_parameters())
    trained = {n: p for n, p in ours.named_parameters() if p.requires_grad}
    assert len(trained) == len(found)
    for name, parameter in trained.items():
        rate, decay = found[id(parameter)]
        their_rate, their_decay = expected[id(parameters[names[name]])]
        assert rate == pytest.approx(their_rate, rel=1e-12), name
        if name in ("backbone.pos_embed", "backbone.cls_token"):
            assert (decay, their_decay) == (0.0, 0.05)
        else:
            assert decay == their_decay, name
