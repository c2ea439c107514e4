"""Every default has its comment, and every shipped pretraining config loads and says what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pretrain.common.config import load_config
from pretrain.defaults import get_defaults
from pretrain.engine.checks import check_config

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs" / "pretrain").glob("*.yaml"))
RUNNABLE = [path for path in CONFIGS if not path.name.startswith("base_")]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_config_loads_and_opens_with_its_facts(path: Path) -> None:
    cfg = load_config(str(path), get_defaults())
    if path in RUNNABLE:
        check_config(cfg, 1)
    head = "".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    for word in ("Reproduces", "ource", "Hardware", "Published number"):
        assert word in head, f"{path.name}: the opening comment lacks {word!r}"


def test_published_recipes() -> None:
    cfg = load_config("mscn_r50.yaml", get_defaults())
    assert (cfg.SOLVER.EPOCHS, cfg.SOLVER.BATCH_SIZE, cfg.SOLVER.OPTIMIZER) == (100, 4096, "lars")
    assert cfg.SOLVER.LR_PER_256 * cfg.SOLVER.BATCH_SIZE / 256 == pytest.approx(4.8)
    assert (cfg.MASK.RATIO, cfg.MASK.GRID_SIZE) == ((0.15,), 32)
    simclr = load_config("simclr_r50.yaml", get_defaults())
    assert not simclr.VIEWS.A.HIGHPASS and not simclr.VIEWS.B.HIGHPASS
    assert simclr.VIEWS.A.MASK_PROB == simclr.VIEWS.B.MASK_PROB == 0
    assert load_config("mscn_r50_800ep.yaml", get_defaults()).SOLVER.EPOCHS == 800


def test_the_merged_defaults_survive_yaml() -> None:
    from pretrain.common.config import dump_yaml

    cfg = get_defaults()
    assert yaml.safe_load(dump_yaml(cfg))["SOLVER"]["WEIGHT_DECAY"] == cfg.SOLVER.WEIGHT_DECAY


def test_copies_are_independent() -> None:
    get_defaults().SOLVER.EPOCHS = 1
    assert get_defaults().SOLVER.EPOCHS == 100
