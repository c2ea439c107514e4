"""The eight rows of docs/results/masking.md are the ones that were fixed before the first run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.ladder import parse, plan_runs
from pretrain.common.config import flat
from pretrain.data.build import build_view_maker, transfer_preprocess
from pretrain.methods.build import build_method

RUNS = plan_runs(parse(["--suite", "masking_cpu.yaml", "--seeds", "5"]))
ROWS = {run["name"]: run["cfg"] for run in RUNS[:8]}


def changes(name: str, base: str) -> dict[str, Any]:
    row, other = flat(ROWS[name]), flat(ROWS[base])
    return {key: value for key, value in row.items() if other[key] != value}


def test_forty_runs_all_rows_of_a_seed_before_the_next() -> None:
    names = (
        "1_crops 2_simclr 3_plain_mask 4_mscn 5_image_noise 6_unfiltered 7_simclr_filtered "
        "8_cell_noise"
    ).split()
    expected = [(name, seed) for seed in range(5) for name in names]
    assert [(run["name"], run["seed"]) for run in RUNS] == expected
    assert len({run["sha256"] for run in RUNS}) == 8


@pytest.mark.parametrize("name", ROWS)
def test_what_is_equal_in_every_row(name: str) -> None:
    cfg = ROWS[name]
    assert (cfg.VIEWS.SIZE, cfg.VIEWS.A.COUNT, cfg.VIEWS.B.COUNT) == (32, 1, 1)
    assert (cfg.BACKBONE.NAME, cfg.PRECISE_BN.IMAGES > 0) == ("tiny_resnet", True)
    solver = cfg.SOLVER
    assert (solver.OPTIMIZER, solver.LR_PER_256 * solver.BATCH_SIZE / 256) == ("adamw", 2e-3)
    assert (solver.BATCH_SIZE, solver.EPOCHS, solver.WARMUP_EPOCHS) == (128, 16, 1)
    assert cfg.DATASETS.TRAIN == "folder:tiny_imagenet_100:train"
    assert all(key.startswith(("VIEWS.", "MASK.")) for key in changes(name, "2_simclr"))
    filtered = cfg.VIEWS.A.HIGHPASS
    assert filtered == cfg.VIEWS.B.HIGHPASS == (transfer_preprocess(cfg).highpass is not None)


def test_what_differs_between_the_rows() -> None:
    colour = {"VIEWS.JITTER_PROB": 0.0, "VIEWS.GRAY_PROB": 0.0}
    blur = {"VIEWS.A.BLUR_PROB": 0.0, "VIEWS.B.BLUR_PROB": 0.0}
    filtered = {"VIEWS.A.HIGHPASS": True, "VIEWS.B.HIGHPASS": True}
    masked = {"VIEWS.B.MASK_PROB": 1.0}
    plain = {"MASK.FOCAL_PROB": 0.0, "MASK.CHANNEL_PROB": 0.0, "MASK.NOISE": "none"}
    assert changes("1_crops", "2_simclr") == {**colour, **blur}
    assert changes("3_plain_mask", "2_simclr") == {**masked, **plain}
    assert changes("4_mscn", "2_simclr") == {**filtered, **masked}
    assert changes("5_image_noise", "4_mscn") == {"MASK.NOISE": "image"}
    assert changes("6_unfiltered", "4_mscn") == dict.fromkeys(filtered, False)
    assert changes("7_simclr_filtered", "2_simclr") == filtered
    noise = {"MASK.NOISE": "cell", "MASK.NOISE_RELATIVE": True, "MASK.NOISE_STD": 1.0}
    assert changes("8_cell_noise", "4_mscn") == noise
    maker = build_view_maker(ROWS["4_mscn"])
    assert maker.masks[0] is None and maker.masks[1] is not None
    mask, highpass = maker.masks[1], maker.highpasses[0]
    assert (mask.ratio, mask.noise, mask.noise_std) == ((0.05, 0.25), "iid", 0.18)
    assert highpass is not None and (highpass.kernel_size, highpass.sigma) == (11, 5.0)


def test_the_loss_of_the_rows_without_masks_is_simclrs() -> None:
    """All rows are of one method, so that nothing but the views differs."""
    cfg = ROWS["2_simclr"]
    simclr = cfg.clone()
    simclr.defrost()
    simclr.METHOD.NAME = "simclr"
    views = [torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(v)) for v in (0, 1)]
    losses = []
    for each in (cfg, simclr):
        torch.manual_seed(0)
        method = build_method(each, num_classes=10)
        outcome = method(views, [0, 1], torch.zeros(8, dtype=torch.long), torch.Generator())
        losses.append(float(outcome["loss"].detach()))
    assert losses[0] == pytest.approx(losses[1], abs=1e-6) and losses[0] > 0


def test_the_longer_look_changes_the_epochs_alone() -> None:
    runs = plan_runs(parse(["--suite", "masking_long_cpu.yaml", "--seeds", "3"]))
    names = ["2_simclr", "5_image_noise", "7_simclr_filtered"]
    assert [(run["name"], run["seed"]) for run in runs] == [(n, s) for s in range(3) for n in names]
    for run in runs[:3]:
        long, short = flat(run["cfg"]), flat(ROWS[run["name"]])
        assert {k: v for k, v in long.items() if short[k] != v} == {"SOLVER.EPOCHS": 64}
