"""Every shipped suite: its entries name configs that exist and overrides that they take."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.common.config import load_config
from pretrain.defaults import get_defaults
from pretrain.engine import before_a_run
from transfer.suite.check import check_configs
from transfer.suite.defaults import suite_defaults
from transfer.suite.plan import plan

SUITES = sorted((Path(__file__).resolve().parents[3] / "configs" / "suites").glob("*.yaml"))


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_plans_and_loads(path: Path, tmp_path: Path) -> None:
    cfg = load_config(str(path), suite_defaults(), (), "suites")
    jobs = plan(cfg, tmp_path, {"given": "random"})
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names)
    check_configs(jobs, before_a_run)
    listed = {Path(job.config).name for job in jobs if job.kind in ("det", "cls")}
    assert len(listed) >= 1 or not cfg.TASKS


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_opens_with_what_it_reproduces(path: Path) -> None:
    text = " ".join(line for line in path.read_text().splitlines() if line.startswith("#")).lower()
    for word in ("reproduces", "source", "hardware", "data"):
        assert word in text, f"{path}: the header says nothing of '{word}'"


@pytest.mark.parametrize("name", ["ablations_tiny100", "tuning_tiny100"])
def test_each_ablation_changes_something(name: str) -> None:
    path = next(path for path in SUITES if path.stem == name)
    cfg = load_config(str(path), suite_defaults(), (), "suites")
    seen = []
    for entry in cfg.PRETRAIN:
        overrides = [str(word) for word in entry.get("overrides", ())]
        seen.append(load_config(entry["config"], get_defaults(), overrides, "pretrain"))
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i])
