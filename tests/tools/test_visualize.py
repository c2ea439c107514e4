"""tools/visualize.py: each command on tiny data, its pictures, and its errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.common.checkpoint import load_checkpoint
from pretrain.common.config import load_config
from pretrain.data.build import build_loader, build_view_maker, train_images
from pretrain.defaults import get_defaults
from tools.train_ssl import main as train
from tools.visualize import main

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
DATASETS: {TRAIN: "folder:%(data)s", KNN_TRAIN: "folder:%(data)s", KNN_TEST: "folder:%(data)s"}
DATALOADER: {NUM_WORKERS: 0}
BACKBONE: {NAME: tiny_resnet}
METHOD: {NAME: mscn, PROJECTOR: {LAYERS: 2, HIDDEN_DIM: 16, OUT_DIM: 8}}
VIEWS:
  SIZE: 32
  A: {COUNT: 1, HIGHPASS: false, MASK_PROB: 0.0}
  B: {COUNT: 1, HIGHPASS: true, MASK_PROB: 1.0}
HIGHPASS: {KERNEL_SIZE: 5, SIGMA: 1.5}
MASK: {RATIO: 0.5, GRID_SIZE: 8, NOISE: none, FOCAL_PROB: 0.0, CHANNEL_PROB: 1.0}
SOLVER: {MAX_STEPS: 2, BATCH_SIZE: 8, WARMUP_EPOCHS: 0}
PRECISE_BN: {IMAGES: 0}
LOG: {EVERY_STEPS: 1}
KNN: {EVERY_EPOCHS: 1, K: 3}
"""
HEADING, TITLE, GAP, TILE = 24, 16, 4, 96  # of pretrain/data/views_picture.py
TOP = HEADING + TITLE + GAP


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`photos` with two class folders of 8 images, `flat` with two images, and two configs."""
    root = tmp_path_factory.mktemp("visualize")
    pixels = np.random.default_rng(0).integers(0, 256, (18, 40, 40, 3), dtype=np.uint8)
    for number, values in enumerate(pixels):
        folder = root / "flat" if number > 15 else root / "photos" / f"class_{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(folder / f"{number:02d}.png")
    text = CONFIG % {"data": root / "photos"}
    (root / "masked.yaml").write_text(text)
    (root / "plain.yaml").write_text(text.replace("CHANNEL_PROB: 1.0", "CHANNEL_PROB: 0.0"))
    (root / "seeded.yaml").write_text("_BASE_: masked.yaml\nSEED: 5\n")
    (root / "other.yaml").write_text(
        f'_BASE_: masked.yaml\nDATASETS: {{TRAIN: "folder:{root}/flat"}}\n'
    )
    return root


@pytest.fixture(scope="module")
def runs(root: Path) -> tuple[Path, Path]:
    """Two pretraining runs of two steps."""
    folders = root / "runs" / "one", root / "runs" / "two"
    for seed, folder in enumerate(folders):
        config = str(root / "masked.yaml")
        assert train(["--config", config, "--output", str(folder), "SEED", str(seed)]) == 0
    return folders


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def tile(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    top, left = TOP + row * (TILE + GAP), GAP + column * (TILE + GAP)
    return sheet[top : top + TILE, left : left + TILE][::3, ::3]  # 32 px are shown as 96


def test_views_of_one_config(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["views", "--config", str(root / "masked.yaml"), "--rows", "3"]
    assert main([*options, "--output", str(tmp_path), "SEED", "2"]) == 0
    path = tmp_path / "views_masked.png"
    assert capsys.readouterr().out == f"{path}\n"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    sheet = picture(path)
    assert sheet.shape == (TOP + 3 * (TILE + GAP), GAP + 6 * (TILE + GAP), 3)

    cfg = load_config(str(root / "masked.yaml"), get_defaults(), ["SEED", "2"])
    batch = next(iter(build_loader(cfg, train_images(cfg)).epoch(0)))
    crops = [crop[:3] for crop in batch.crops]
    _, drawn = build_view_maker(cfg).masks_of(crops, torch.Generator().manual_seed(2))
    for row in range(3):
        for view in (0, 1):
            crop = batch.crops[view][row].permute(1, 2, 0).numpy()
            assert np.array_equal(tile(sheet, row, 3 * view), crop), "as training's first batch"
        assert not tile(sheet, row, 2).any(), "view 1 is not masked"
        view, mask = tile(sheet, row, 4), tile(sheet, row, 5)
        assert np.array_equal(mask == 255, drawn.mask[row].permute(1, 2, 0).numpy())
        assert (mask == 255).reshape(-1, 3).mean(axis=0).tolist() == [0.5, 0.5, 0.5]
        cells = mask.reshape(4, 8, 4, 8, 3)
        assert (cells == cells[:, :1, :, :1]).all(), "cells of 8 px"
        assert set(view[mask == 255].tolist()) <= {127, 128}, "0 is grey"
        assert np.isin(view[mask == 0], (127, 128)).mean() < 0.1


def test_views_of_several_configs_share_images_and_draws(root: Path, tmp_path: Path) -> None:
    configs = [str(root / "masked.yaml"), str(root / "plain.yaml")]
    options = ["views", "--images", str(root / "flat"), "--output", str(tmp_path)]
    assert main([*options, "--config", *configs, "MASK.RATIO", "0.25"]) == 0
    names = {"views.png", "views_masked.png", "views_plain.png"}
    assert {file.name for file in tmp_path.iterdir()} == names
    masked, plain = (picture(tmp_path / f"views_{name}.png") for name in ("masked", "plain"))
    assert masked.shape[0] == TOP + 2 * (TILE + GAP), "the folder has two images only"
    both = picture(tmp_path / "views.png")
    height = len(masked)
    assert both.shape == (2 * height + 12, masked.shape[1], 3)
    for block, sheet in ((both[:height], masked), (both[height + 12 :], plain)):
        assert np.array_equal(block[TOP:], sheet[TOP:])
    for row in (0, 1):
        for column in (0, 1, 3):  # crops, and the view before any mask
            assert np.array_equal(tile(masked, row, column), tile(plain, row, column))
        channels = tile(plain, row, 5)
        assert (channels == channels[:, :, :1]).all(), "one mask for all channels"
        assert (channels == 255).mean() == 0.25, "the override after --config"
        ours = tile(masked, row, 5)
        assert (ours[:, :, 0] != ours[:, :, 1]).any()


def test_views_of_two_sizes(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    options = ["views", "--config", str(root / "masked.yaml"), "--rows", "1"]
    msn = "METHOD.NAME msn VIEWS.SIZE 128 VIEWS.FOCAL.COUNT 2 VIEWS.FOCAL.SIZE 100"
    assert main([*options, "--output", str(tmp_path), *msn.split()]) == 0
    sheet = picture(tmp_path / "views_masked.png")
    assert sheet.shape == (TOP + 132, GAP + 6 * 132 + 6 * 104, 3)
    assert "leaves out patches inside the network" in capsys.readouterr().out


def test_kernels(runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    trained = load_checkpoint(runs[0] / "checkpoint.pth")
    kernels = trained["model"]["trunk.conv1.weight"].clone()
    kernels[3], kernels[7] = 0.0, kernels[7] * 0.02
    trained["model"]["trunk.conv1.weight"] = kernels
    faint = tmp_path / "one" / "checkpoint.pth"
    faint.parent.mkdir()
    torch.save(trained, faint)
    files = [str(faint), str(runs[1] / "checkpoint.pth")]
    output = tmp_path / "out"
    assert main(["kernels", "--weights", *files, "--output", str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{faint}: 2 of 32 kernels blank")
    assert lines[1].startswith(f"{files[1]}: 0 of 32 kernels blank")
    names = ["kernels_one-checkpoint.png", "kernels_two-checkpoint.png", "kernels.json"]
    assert lines[2:] == [str(output / name) for name in names]

    first, second = json.loads((output / "kernels.json").read_text())
    assert (first["file"], first["kernels"], first["blank"]) == (files[0], 32, 2)
    assert first["blank_kernels"] == [3, 7] and first["layer"] == "trunk.conv1.weight"
    assert first["norms"] == pytest.approx(kernels.flatten(1).norm(dim=1).tolist())
    assert second["blank"] == 0
    sheet = picture(output / names[0])
    side, cell = 8 * 41, 41  # 8 cells of 13 * 3 + 2 px
    own, common = sheet[70 : 70 + side, 10 : 10 + side], sheet[70 : 70 + side, 20 + side :]
    for part in (own, common):
        frames = [part[0, cell * column].tolist() == [220, 0, 0] for column in range(8)]
        assert frames == [number in (3, 7) for number in range(8)]
        assert part[20, 3 * cell + 20].tolist() == [128, 128, 128], "zero is grey"
    eighth = np.s_[1:40, 7 * cell + 1 : 8 * cell - 1]
    assert np.abs(common[eighth].astype(int) - 128).max() < 10 < np.ptp(own[eighth].astype(int))


def test_kernels_below_another_share(runs: tuple[Path, Path], tmp_path: Path) -> None:
    file = str(runs[0] / "checkpoint.pth")
    options = ["kernels", "--weights", file, "--output", str(tmp_path)]
    assert main([*options, "--blank-below", "0.9"]) == 0
    (entry,) = json.loads((tmp_path / "kernels.json").read_text())
    norms = np.array(entry["norms"])
    assert entry["blank"] == (norms < 0.9 * np.quantile(norms, 0.9)).sum() > 0
    assert (tmp_path / "kernels_checkpoint.png").is_file()


def test_spectrum(
    root: Path, runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = ["spectrum", "--run", *map(str, runs), "--output", str(tmp_path)]
    assert main(options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("one: knn3_top1 ") and lines[1].startswith("two: knn3_top1 ")
    assert lines[2:] == [str(tmp_path / "spectrum.png"), str(tmp_path / "spectrum.json")]
    assert picture(tmp_path / "spectrum.png").shape[:2] == (710, 1380), "four quantities"
    entries = json.loads((tmp_path / "spectrum.json").read_text())
    for entry, run in zip(entries, runs, strict=True):
        rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
        for quantity in ("feature_std", "effective_rank", "batch_feature_std", "knn3_top1"):
            kept = [row for row in rows if quantity in row]
            assert len(kept) >= 2
            assert entry["curves"][quantity] == {
                "steps": [row["step"] for row in kept],
                "values": [row[quantity] for row in kept],
            }
        wanted = {"feature_std": 128**-0.5, "batch_feature_std": 128**-0.5}
        assert entry["references"] == pytest.approx(wanted)
        assert entry["spectrum"] is None


def test_spectrum_of_images(
    root: Path, runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """On the monitor's own queries the last effective rank comes out again."""
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copyfile(runs[1] / "metrics.jsonl", bare / "metrics.jsonl")
    options = ["spectrum", "--run", str(runs[0]), str(bare), "--images", str(root / "photos")]
    assert main([*options, "--output", str(tmp_path)]) == 0
    assert "note: bare has no checkpoint.pth or no config.yaml" in capsys.readouterr().out
    entry, other = json.loads((tmp_path / "spectrum.json").read_text())
    assert other["spectrum"] is None and other["references"] == {}
    found, curve = entry["spectrum"], entry["curves"]["effective_rank"]
    assert found["images"] == len(found["shares"]) == 16
    assert found["effective_rank"] == pytest.approx(curve["values"][-1], rel=1e-3)
    assert sum(found["shares"]) == pytest.approx(1.0)
    assert sorted(found["shares"], reverse=True) == found["shares"]


@pytest.mark.parametrize(
    "words, message",
    [
        ("views --config mscn_dmo.yaml", "did you mean 'mscn_demo.yaml'"),
        ("views --config {}/masked.yaml VIEWS.SISE 3", "unknown key VIEWS.SISE"),
        ("views --config SEED 3", "--config must name a config before the override SEED"),
        ("views --config {}/masked.yaml --rows 0", "--rows 0 must be at least 1"),
        ("views --config {}/masked.yaml --images {}/gone", "{}/gone is missing; expected"),
        ("views --config {}/masked.yaml --images fodler:x", "unknown data set 'fodler'"),
        ("views --config {}/masked.yaml MASK.GRID_SIZE 64", "mask grid_size 64 px is larger"),
        ("views --config {}/masked.yaml VIEWS.JITTER 0.4", "VIEWS.JITTER"),
        ("views --config {}/masked.yaml {}/seeded.yaml", "SEED differs between the configs"),
        ("views --config {}/masked.yaml {}/other.yaml", "DATASETS.TRAIN differs"),
        ("views --config {}/masked.yaml {}/masked.yaml", "masked.yaml is given twice"),
        ("kernels --weights {}/gone.pth", "no weights file at {}/gone.pth"),
        ("kernels --weights {}/masked.yaml", "{}/masked.yaml is not a weights file"),
        ("kernels --weights x.pth --blank-below 1.5", "--blank-below 1.5 must be from 0"),
        ("spectrum --run {}/gone", "{}/gone/metrics.jsonl does not exist; give --run"),
        ("spectrum --run {}/photos --images {}/gone", "image folder {}/gone is missing"),
        ("spectrum --run {}/photos --output {}/masked.yaml", "--output {}/masked.yaml is a file"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    output = ["--output", str(tmp_path / "out")] if "--output" not in words else []
    command, *rest = words.replace("{}", str(root)).split()
    assert main([command, *output, *rest]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error
    assert message.replace("{}", str(root)) in error
    assert not (tmp_path / "out").exists(), "nothing half-written"


def test_same_seed_for_all_after_the_options(root: Path, tmp_path: Path) -> None:
    configs = [str(root / "masked.yaml"), str(root / "seeded.yaml")]
    assert main(["views", "--config", *configs, "--output", str(tmp_path), "SEED", "1"]) == 0
    masked, seeded = (picture(tmp_path / f"views_{name}.png") for name in ("masked", "seeded"))
    assert np.array_equal(masked[HEADING:], seeded[HEADING:])


@pytest.mark.parametrize("command", ["views", "kernels", "spectrum"])
def test_help_of_each_command(command: str) -> None:
    code = (
        "import sys\nfrom tools.visualize import main\n"
        "try:\n    main([sys.argv[1], '--help'])\n"
        "finally:\n    assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert f"example:\n  python tools/visualize.py {command} --" in done.stdout
    assert "--output" in done.stdout
    assert time.monotonic() - start < 10  # generous: CI machines are busy
