"""Every shipped suite: its entries name configs that exist and overrides that they take."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.common.config import load_config
from pretrain.defaults import get_defaults
from pretrain.engine.checks import check_config
from transfer.suite.defaults import suite_defaults
from transfer.suite.plan import plan

SUITES = sorted((Path(__file__).resolve().parents[3] / "configs" / "suites").glob("*.yaml"))


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_plans_and_loads(path: Path, tmp_path: Path) -> None:
    cfg = load_config(str(path), suite_defaults(), (), "suites")
    jobs = plan(cfg, tmp_path, {})
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names)
    for entry in cfg.PRETRAIN:
        overrides = [str(word) for word in entry.get("overrides", ())]
        loaded = load_config(entry["config"], get_defaults(), overrides, "pretrain")
        check_config(loaded, 1)
        assert f"pretrain/{entry['name']}" in names


@pytest.mark.parametrize("name", ["ablations_tiny100", "tuning_tiny100"])
def test_each_ablation_changes_something(name: str) -> None:
    path = next(path for path in SUITES if path.stem == name)
    cfg = load_config(str(path), suite_defaults(), (), "suites")
    seen = []
    for entry in cfg.PRETRAIN:
        overrides = [str(word) for word in entry.get("overrides", ())]
        seen.append(load_config(entry["config"], get_defaults(), overrides, "pretrain"))
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i])
