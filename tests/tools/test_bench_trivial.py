"""benchmarks/trivial.py: its table and file, bad input; its views are those of the training."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode

from benchmarks import trivial
from benchmarks.images import write_photos
from pretrain.common.config import load_config
from pretrain.data.build import build_loader, build_view_maker, train_images
from pretrain.defaults import get_defaults
from pretrain.engine.loop import step_generator

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trivial")
    write_photos(folder, 20, (48, 40))
    return folder


def loaded(photos: Path, name: str = "mscn_demo.yaml", **options: object) -> CfgNode:
    given = {"images": str(photos), "batch_size": 8, "workers": 0, **options}
    cfg = load_config(name, get_defaults(), [], "pretrain")
    return trivial.with_options(cfg, argparse.Namespace(**given))


def test_table_and_file(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "trivial.json"
    command = ["--config", "mscn_demo.yaml", "simclr_demo", "--images", str(photos)]
    command += ["--batch-size", "8", "--batches", "3", "--output", str(target), "SEED", "4"]
    assert trivial.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["config", "mscn_demo", "simclr_demo", "chance:"]
    assert all(title in lines[0] for title in trivial.RATES.values())
    result = json.loads(target.read_text())
    assert result["chance_percent"] == 12.5 and result["overrides"] == ["SEED", "4"]
    assert torch.__version__.startswith(result["environment"]["torch"])
    masked, plain = result["configs"]["mscn_demo"], result["configs"]["simclr_demo"]
    assert masked["size"] == 32 and masked["cells"] == 8
    for found in (masked, plain):
        assert list(found["retrieval"]) == list(trivial.RATES)
        assert all(0 <= rate["mean"] <= 100 for rate in found["retrieval"].values())
        # Branch A is not masked: any of its masks is as near as any other.
        assert found["retrieval"]["mask_shape"] == {"mean": 12.5, "error": 0.0}
    assert plain["mask_read"] is None and set(plain["border"].values()) == {None}
    assert masked["mask_read"]["mean"] > 50 and masked["border"]["absolute"]["mean"] > 1
    assert lines[2].split()[-2:] == ["-", "(-)"]


def test_views_are_those_of_the_training(photos: Path) -> None:
    """Over the end of an epoch, which has two batches of 8 here; and masks are the views' own."""
    cfg = loaded(photos)
    loader, maker = build_loader(cfg, train_images(cfg)), build_view_maker(cfg)
    batches = [*loader.epoch(0), *loader.epoch(1)]
    drawn = list(islice(trivial.drawn_views(cfg), 4))
    for step, (batch, (views, masks)) in enumerate(zip(batches, drawn, strict=True)):
        expected = maker(batch.crops, step_generator(cfg.SEED, step))
        assert all(torch.equal(a, b) for a, b in zip(views, expected, strict=True))
        assert not masks[0].any() and masks[1].any() and masks[2].any()
    unmasked = loaded(photos)
    unmasked.defrost()
    unmasked.VIEWS.B.MASK_PROB = 0.0
    plain = next(trivial.drawn_views(unmasked))[0]
    views, masks = drawn[0]
    assert torch.equal(views[1] == plain[1], ~masks[1])


def test_rates_are_over_pairs_of_a_and_b() -> None:
    """Two of three views are equal: 100 % of one pair, chance of the other."""
    draws = torch.Generator().manual_seed(0)
    a, other = torch.randn(2, 16, 3, 16, 16, generator=draws)
    views = [a, a + 0.0, other]
    masks = [torch.zeros(16, 3, 16, 16, dtype=torch.bool)] * 3
    both = trivial.measure_batch(views, masks, [[0], [1, 2]], 4)
    alone = [trivial.measure_batch(views, masks, [[0], [v]], 4) for v in (1, 2)]
    for name in trivial.RATES:
        assert both[name] == pytest.approx((alone[0][name] + alone[1][name]) / 2)
    assert alone[0]["colour_histogram"] == 100 and alone[1]["colour_histogram"] < 40
    assert both["mask_shape"] == pytest.approx(100 / 16)
    assert set(both) == set(trivial.RATES)


def test_overrides_may_follow_the_configs() -> None:
    args = trivial.parse(["--images", "a", "--config", "b.yaml", "c", "MASK.RATIO", "(0.3,)"])
    assert args.config == ["b.yaml", "c"] and args.opts == ["MASK.RATIO", "(0.3,)"]


def test_mean_and_standard_error() -> None:
    values = [1.0, 2.0, 6.0]
    found = trivial.with_error(values)
    assert found["mean"] == 3.0
    assert found["error"] == pytest.approx(np.std(values, ddof=1) / np.sqrt(3), abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--config": "nope.yaml"}, "no config 'nope.yaml'"),
        ({"--images": "/nowhere"}, "/nowhere"),
        ({"--images": "folder:nowhere:train"}, "nowhere/train"),
        ({"--batches": "1"}, "--batches 1 must be at least 2"),
        ({"--batch-size": "1"}, "--batch-size 1 must be at least 2"),
        ({"--batch-size": "64"}, "lower the batch size"),
        ({"VIEWS.B.COUNT": "0"}, "mscn_demo has no pairs to measure"),
        ({"VIEWS.SIZES": "0"}, "VIEWS.SIZES"),
    ],
)
def test_bad_input(
    changes: dict[str, str], words: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = {"--config": "mscn_demo.yaml", "--images": str(photos), "--batch-size": "8"}
    command.update(changes)
    assert trivial.main([word for pair in command.items() for word in pair]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert words in error


def test_a_config_given_twice(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--config", "mscn_demo", "mscn_demo.yaml", "--images", str(photos)]
    assert trivial.main(command) == 2
    assert "names mscn_demo twice" in capsys.readouterr().err


def test_help_loads_no_torch() -> None:
    code = (
        "import sys\nfrom benchmarks import trivial\n"
        "try:\n    trivial.main(['--help'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "example" in done.stdout
