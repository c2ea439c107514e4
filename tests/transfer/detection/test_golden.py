"""Our engine against golden outputs of the real Detectron2, which equality/record_golden.py made.

If Detectron2 is installed, test_against_detectron2.py compares the same cases bit for bit. Here a
different processor may have summed in a different order: a few ReLUs change their side, and after a
step perhaps a proposal. The tolerances are about five times the differences of runs restricted to
AVX2 and to SSE4 from the recording with AVX512.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

from pretrain.common.config import CHECKOUT
from tests.transfer.detection.equality.cases import ADAMW, CASES, SLOW
from tests.transfer.detection.equality.our_inputs import TOPICS
from tests.transfer.detection.equality.our_side import Ours
from tests.transfer.detection.equality.runs import condense, run_case

FOLDER = Path(__file__).parent / "golden"
FIRST_LOSS, LATER_LOSS = 1e-4, 2e-2  # relative
SKETCH = {"gradients": 0.02, "changes": 0.1, "precise": 0.001}  # of each tensor's norm
# AdamW divides a gradient by its size: where the true one is zero (the bias of a ViT's keys) it is
# rounding that moves the parameter.
ADAMW_CHANGES = 0.2
BOX_PX, SCORE = 0.002, 1e-5
KEYPOINTS_OFF = 0.1  # share of keypoints
MASK_PIXELS = 0.002  # share of pixels at the threshold


def read(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as content:
        return {key: content[key] for key in content.files}


def test_counts_in_hand_written_text() -> None:
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    assert f"on a CPU, {len(CASES)} configurations)" in readme
    guide = (CHECKOUT / "docs/detection.md").read_text(encoding="utf-8")
    assert f"in {len(CASES)} configurations" in guide
    assert f"For {len(set(CASES) - set(SLOW))} of them, `make test`" in guide


@pytest.mark.parametrize("case", [case for case in CASES if case not in SLOW])
def test_detector(case: str) -> None:
    found, golden = condense(run_case(Ours(), case)), read(case)
    assert set(found) == set(golden)
    np.testing.assert_allclose(found["rates"], golden["rates"], rtol=1e-12)
    for key, expected in golden.items():
        value = found[key]
        assert value.shape == expected.shape, key
        if key.startswith("losses"):
            # Of a batch without objects some losses are zero, exactly.
            rel = FIRST_LOSS if key.startswith("losses/0") else LATER_LOSS
            assert float(value) == pytest.approx(float(expected), rel=rel, abs=0.0), key
        elif key.endswith("names") or key.endswith("classes"):
            np.testing.assert_array_equal(value, expected, err_msg=key)
        elif key.endswith("sketch"):
            part = key.split("/")[0]
            wide = part == "changes" and case in ADAMW
            tolerance = ADAMW_CHANGES if wide else SKETCH[part]
            check_sketch(value, expected, tolerance, golden[f"{part}/names"])
        elif key.endswith("masks"):
            wrong = np.unpackbits(value ^ expected).sum()
            assert wrong <= math.ceil(MASK_PIXELS * 8 * expected.size), key
        elif key.endswith("keypoints"):
            # A different order of sums may move the highest place of a flat map.
            off = np.abs(value - expected)[..., :2].max(axis=-1) > BOX_PX
            assert off.mean() <= KEYPOINTS_OFF, key
            np.testing.assert_allclose(value[..., 2], expected[..., 2], rtol=1e-3, err_msg=key)
        elif key.startswith("found"):
            atol = BOX_PX if key.endswith("boxes") else SCORE
            np.testing.assert_allclose(value, expected, rtol=0.0, atol=atol, err_msg=key)


def check_sketch(
    found: np.ndarray, golden: np.ndarray, tolerance: float, names: np.ndarray
) -> None:
    """Norm and projection of each tensor, within a share of its norm.

    A gradient that is zero but for rounding, such as that of a bias before a softmax over places,
    is compared with the largest norm: its own differs from processor to processor.
    """
    least = max(1e-12, 1e-6 * golden[:, 0].max(initial=0.0))
    off = np.abs(found - golden).max(axis=1, initial=0.0) / np.maximum(golden[:, 0], least)
    worst = int(off.argmax()) if len(off) else 0
    assert not len(off) or off[worst] <= tolerance, (names[worst], off[worst])


@pytest.mark.parametrize(
    "topic",
    [
        *("geometry", "orders", "repeats", "clipped", "mapped"),
        *("crops", "crops_polygons", "jitter", "jitter_polygons", "keypoints"),
    ],
)
def test_input_is_equal_bit_for_bit(topic: str, tmp_path: Path) -> None:
    if topic in ("crops_polygons", "jitter_polygons"):
        pytest.importorskip("shapely", reason="shapely, which cuts polygons, is not installed")
    found, golden = TOPICS[topic](tmp_path), read(topic)
    assert set(found) == set(golden)
    for key, expected in golden.items():
        np.testing.assert_array_equal(found[key], expected, err_msg=key)


def test_learning_rate_at_every_iteration(tmp_path: Path) -> None:
    found = TOPICS["rates"](tmp_path)
    for key, expected in read("rates").items():
        np.testing.assert_allclose(found[key], expected, rtol=1e-12, atol=0.0, err_msg=key)


def test_voc_metrics(tmp_path: Path) -> None:
    found = TOPICS["voc_metrics"](tmp_path)
    for key, expected in read("voc_metrics").items():
        assert np.isfinite(found[key]).all()
        # A class without ground truth makes Detectron2's VOC12 metric NaN; ours counts it as 0.
        if np.isfinite(expected).all():
            np.testing.assert_allclose(found[key], expected, rtol=0.0, atol=1e-9, err_msg=key)
        else:
            assert key == "2/2012"


@pytest.mark.parametrize("topic, package", [("lvis", "lvis"), ("cityscapes", "shapely")])
def test_metrics_of_other_sets(topic: str, package: str, tmp_path: Path) -> None:
    """Those of Detectron2's evaluators, which call the packages lvis and cityscapesscripts."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    found = TOPICS[f"{topic}_metrics"](tmp_path)
    for key, expected in read(f"{topic}_metrics").items():
        assert (expected > 5).all()
        np.testing.assert_allclose(found[key], expected, rtol=0.0, atol=1e-9, err_msg=key)


def test_naive_sync_over_two_processes(tmp_path: Path) -> None:
    found, golden = TOPICS["naive_sync"](tmp_path), read("naive_sync")
    assert set(found) == set(golden)
    for key, expected in golden.items():
        np.testing.assert_allclose(found[key], expected, rtol=1e-4, atol=1e-5, err_msg=key)
    # Both ranks hold the same statistics, and the variance is the biased one.
    np.testing.assert_array_equal(found["0/running_var"], found["1/running_var"])
