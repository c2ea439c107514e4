"""Each method learns: its loss reaches the optimum on one fixed batch, and its features beat
untrained ones by kNN on the digits. These tests take minutes and are marked slow.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fvcore.common.config import CfgNode

from pretrain.common.config import dump_yaml, load_config
from pretrain.common.logs import read_metrics
from pretrain.data.build import branches, view_sizes
from pretrain.defaults import get_defaults
from pretrain.digits.dataset import make_digits
from pretrain.engine.run import pretrain
from pretrain.methods.build import build_method

pytestmark = pytest.mark.slow

TINY = ("BACKBONE.NAME", "tiny_resnet", "METHOD.QUEUE_SIZE", "512", "VIEWS.SIZE", "32")
SMALL_VIT = ("VIEWS.SIZE", "32", "VIEWS.FOCAL.SIZE", "16", "METHOD.MSN.PROTOTYPES", "16")
# Sharp temperatures, whose optimum on 16 images is near 0.
SHARP = ("METHOD.TEMPERATURE", "0.07")
NO_GROUPS = ("METHOD.BN_GROUP", "0")
CONVNETS = ("simclr", "moco_v1", "moco_v2", "moco_v3", "simsiam", "byol", "vicreg", "barlow")
# Of the mean of the last losses, near what is left when every image is told from the others.
BOUNDS = {
    "simclr": 0.05,
    "mscn": 0.05,
    "moco_v1": 0.1,
    "moco_v2": 0.1,
    "moco_v3": 0.05,
    "simsiam": -0.95,
    "byol": 0.1,
    "supervised": 0.01,
    "msn": 0.5,
    "mae": 0.25,
}


def config(name: str, *overrides: str) -> CfgNode:
    vit = name in ("msn", "mae")
    file = f"{name}_vitt_tiny100.yaml" if vit else f"{name}_r18_tiny100.yaml"
    small = SMALL_VIT if vit else TINY
    return load_config(file, get_defaults(), (*small, *overrides))


def fit_one_batch(name: str, steps: int, *overrides: str) -> list[dict[str, float]]:
    """The terms of each step of Adam on 16 fixed images of noise, with fixed draws."""
    cfg = config(name, *SHARP, *NO_GROUPS, "METHOD.MOMENTUM", "0.9", *overrides)
    torch.manual_seed(0)
    method = build_method(cfg, num_classes=4)
    images = torch.randn(16, 3, 32, 32)
    views = []
    for size in view_sizes(cfg):  # the same image, a little noise of its own in each view
        view = images[:, :, :size, :size]
        views.append(view + 0.1 * torch.randn(view.shape))
    labels = torch.arange(16) % 4
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=1e-3)
    rows = []
    for step in range(steps):
        draws = torch.Generator().manual_seed(3)
        outcome = method(views, branches(cfg), labels=labels, generator=draws)
        optimizer.zero_grad()
        outcome["loss"].backward()
        optimizer.step()
        if not name.startswith("moco_v1") and name != "moco_v2":  # its queue would fill with
            method.after_step(step, steps)  # the same images, as negatives of themselves
        terms = {key: value.item() for key, value in outcome["terms"].items()}
        rows.append({"loss": outcome["loss"].item(), **terms})
    return rows


@pytest.mark.parametrize("name", BOUNDS)
def test_overfits_a_tiny_set(name: str) -> None:
    steps = {"mae": 300, "msn": 80}.get(name, 150)
    last = [row["loss"] for row in fit_one_batch(name, steps)[-10:]]
    assert sum(last) / len(last) < BOUNDS[name], last


@pytest.mark.parametrize("name", ["vicreg", "barlow"])
def test_redundancy_losses_overfit_a_tiny_set(name: str) -> None:
    """In 8 dimensions, which 16 images can fill without redundancy: all terms go to 0."""
    last = fit_one_batch(name, 300, "METHOD.PROJECTOR.OUT_DIM", "8")[-1]
    bounds = {"vicreg": {"invariance": 0.5, "variance": 0.5, "covariance": 0.1}}
    bounds["barlow"] = {"on_diagonal": 0.1, "off_diagonal": 0.1}
    assert all(last[term] < bound for term, bound in bounds[name].items()), last


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "data"
    make_digits(folder, classification=(2000, 1500, 10), scenes=(1, 1, 1))
    return folder


LEARN = (
    *("VIEWS.CROP_SCALE", "(0.75, 1.0)", "VIEWS.FLIP_PROB", "0.0", "MASK.GRID_SIZE", "4"),
    *("VIEWS.JITTER", "(0.8, 0.8, 0.8, 0.2)", "HIGHPASS.KERNEL_SIZE", "11"),
    *("HIGHPASS.SIGMA", "5.0", "SOLVER.BATCH_SIZE", "64", "SOLVER.LR_PER_256", "8e-3"),
    *("SOLVER.WARMUP_STEPS", "20", "DATALOADER.NUM_WORKERS", "0", "KNN.EVERY_EPOCHS", "0"),
    *("KNN.TEST_LIMIT", "0", "PRECISE_BN.IMAGES", "0"),
)
SHARPER = ("METHOD.TEMPERATURE", "0.1")
FILTERED = ("VIEWS.A.HIGHPASS", "True", "VIEWS.B.HIGHPASS", "True")
NARROW = ("METHOD.PROJECTOR.LAYERS", "2", "METHOD.PROJECTOR.HIDDEN_DIM", "256")
# by name: steps, and settings that let it learn within them; all else is LEARN and the config.
LEARNERS: dict[str, tuple[str, ...]] = {
    "simclr": ("400",),
    "moco_v1": ("400",),
    "moco_v2": ("1200", *SHARPER),
    "moco_v3": ("1200", *SHARPER),
    "simsiam": ("1200", *FILTERED),
    "byol": ("1200",),
    "vicreg": ("400",),
    "barlow": ("1200", *NARROW, "METHOD.PROJECTOR.OUT_DIM", "128"),
    "mscn": ("400",),
    "mscn_moco_v2": ("1200", *SHARPER),
    "mscn_byol": ("1200",),
    "supervised": ("400",),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_beats_untrained_features_on_the_digits(name: str, digits: Path, tmp_path: Path) -> None:
    """kNN top-1 of 1,500 validation digits; a difference's standard error is about 1.3 points."""
    data = digits / "digits_cls"
    sets = ("DATASETS.TRAIN", f"folder:{data}:train", "DATASETS.KNN_TRAIN", f"folder:{data}:train")
    steps, *settings = LEARNERS[name]
    budget = ("SOLVER.MAX_STEPS", steps, "DATASETS.KNN_TEST", f"folder:{data}:val")
    cfg = config(name, *LEARN, *sets, *budget, *settings)
    pretrain(dump_yaml(cfg), str(tmp_path / "run"), False)
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "knn20_top1" in row]
    assert rows[-1]["knn20_top1"] > rows[0]["knn20_top1"] + 4.0, rows
