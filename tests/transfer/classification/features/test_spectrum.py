"""spectrum.json against numpy's singular values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from transfer.classification.features.spectrum import MOST_IMAGES, write_spectrum


@pytest.mark.parametrize("images, dimensions", [(300, 20), (30, 200), (2, 5)])
def test_shares_of_singular_values(tmp_path: Path, images: int, dimensions: int) -> None:
    features = torch.randn(images, dimensions) * torch.linspace(1, 9, dimensions) + 3
    content = json.loads(write_spectrum(features, tmp_path).read_text())
    centred = features.double().numpy()
    centred -= centred.mean(axis=0)
    expected = np.linalg.svd(centred, compute_uv=False)
    expected /= expected.sum()
    kept = np.array(content["index"]) - 1
    assert kept[0] == 0 and kept[-1] == min(images, dimensions) - 1
    assert len(set(kept)) == len(kept) <= 96
    np.testing.assert_allclose(content["singular_values"], expected[kept], rtol=1e-5, atol=1e-12)
    assert (content["images"], content["dimensions"]) == (images, dimensions)


def test_large_sets_are_thinned(tmp_path: Path) -> None:
    features = torch.randn(3 * MOST_IMAGES, 2)
    write_spectrum(features, tmp_path)
    assert json.loads((tmp_path / "spectrum.json").read_text())["images"] == MOST_IMAGES


def test_one_image(tmp_path: Path) -> None:
    write_spectrum(torch.ones(1, 4), tmp_path)  # nothing varies: all shares are 0, no NaN
    assert json.loads((tmp_path / "spectrum.json").read_text())["singular_values"] == [0.0]
