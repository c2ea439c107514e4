"""Every shipped config loads, opens with its purpose, and names things that can be built."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import yaml
from fvcore.common.config import CfgNode

from pretrain.common.config import load_config
from pretrain.data.build import branches, build_view_maker, loader_shared_bytes, view_sizes
from pretrain.defaults import get_defaults
from pretrain.engine.checks import batch_note, check_backbone, check_config
from pretrain.engine.run import build_schedule, build_solver
from pretrain.methods.all_methods import METHODS
from pretrain.methods.build import build_method

ROOT = Path(__file__).resolve().parents[1] / "configs"
ALL = sorted(ROOT.rglob("*.yaml"))
PRETRAIN = sorted((ROOT / "pretrain").rglob("*.yaml"))
LADDER = sorted((ROOT / "pretrain" / "ladder").glob("*.yaml"))
TWIN = "_r18_tiny100"


def load(path: Path, *overrides: str) -> CfgNode:
    return load_config(str(path), get_defaults(), overrides)


def by_name(name: str, *overrides: str) -> CfgNode:
    return load_config(f"{name}.yaml", get_defaults(), overrides)


@pytest.mark.parametrize("path", PRETRAIN, ids=lambda path: path.stem)
def test_opens_with_what_it_reproduces(path: Path) -> None:
    header = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        header.append(line)
    text = " ".join(header).lower()
    for word in ("reproduces", "source", "hardware", "published number"):
        assert word in text, f"{path}: the header says nothing of '{word}'"


def test_names_are_unambiguous() -> None:
    names = [path.name for path in ALL]
    assert sorted(names) == sorted(set(names)), "commands find a config by its name alone"


@pytest.mark.parametrize("path", PRETRAIN, ids=lambda path: path.stem)
def test_waiting_batches_fit_into_2_gib(path: Path) -> None:
    """On a node of 8 GPUs, with a core for each worker."""
    cfg = load(path)
    processes = 8 if cfg.SOLVER.BATCH_SIZE >= 256 else 1
    assert 0 <= loader_shared_bytes(cfg, processes, cfg.DATALOADER.NUM_WORKERS) <= 2 << 30


@pytest.mark.parametrize("path", PRETRAIN, ids=lambda path: path.stem)
def test_can_be_built(path: Path) -> None:
    """Builds all but the data, on the meta device, which does not use any memory."""
    cfg = load(path)
    processes = 8 if cfg.SOLVER.BATCH_SIZE >= 256 else 1
    check_config(cfg, processes)
    maker = build_view_maker(cfg)
    assert len(branches(cfg)) == len(view_sizes(cfg)) == maker.num_views
    with torch.device("meta"):
        method = build_method(cfg, num_classes=10)
        check_backbone(cfg, method.trunk)
    optimizer = build_solver(cfg, method)
    held = sum(len(group["params"]) for group in optimizer.param_groups)
    assert held == sum(p.requires_grad for p in method.parameters())
    schedule = build_schedule(cfg, steps_per_epoch=100)
    assert max(schedule(step) for step in range(0, 100 * cfg.SOLVER.EPOCHS, 50)) > 0
    assert batch_note(cfg) is None, "a shipped recipe has its own batch"


def test_every_method_has_a_config() -> None:
    named = {cfg.METHOD.NAME for cfg in map(load, PRETRAIN)}
    assert named == set(METHODS)
    bases = {cfg.METHOD.BASE for cfg in map(load, PRETRAIN) if cfg.METHOD.NAME == "mscn"}
    assert {"simclr", "moco_v2", "simsiam", "byol", "vicreg", "barlow"} <= bases


def rate(cfg: CfgNode) -> float:
    return cfg.SOLVER.LR_PER_256 * cfg.SOLVER.BATCH_SIZE / 256


def test_recipes_have_the_rates_of_their_sources() -> None:
    """The learning rate itself, as the authors' command or config gives it."""
    expected = {
        "simclr_r50": 4.8,  # VISSL simclr_8node_resnet
        "mscn_r50": 4.8,
        "moco_v1_r50": 0.03,  # moco main_moco.py
        "moco_v2_r50": 0.03,
        "moco_v3_r50": 9.6,  # moco-v3 CONFIG.md: 0.6 * 4096 / 256
        "simsiam_r50": 0.1,  # simsiam main_simsiam.py: 0.05 * 512 / 256
        "byol_r50": 7.2,  # byol/configs/byol.py: 0.45 * 4096 / 256
        "vicreg_r50": 0.6,  # vicreg README: 0.3 * 512 / 256
        "barlow_r50": 1.6,  # barlowtwins main.py: 0.2 * 2048 / 256
        "supervised_r50": 0.1,  # pytorch/examples imagenet
        "msn_vits16": 1e-3,  # msn_vits16.yaml
        "mae_vitb16": 2.4e-3,  # mae PRETRAIN.md: 1.5e-4 * 4096 / 256
    }
    assert {name: pytest.approx(rate(by_name(name))) for name in expected} == expected
    barlow = by_name("barlow_r50").SOLVER
    # barlowtwins main.py: 0.0048 * 2048 / 256, on a gradient that is 1/16 of ours on 16 GPUs.
    assert barlow.BIAS_LR_PER_256 * barlow.BATCH_SIZE / 256 == pytest.approx(0.0384 / 16)
    msn = build_schedule(by_name("msn_vits16"), steps_per_epoch=100)
    assert msn(0) == pytest.approx(2e-4, rel=0.01) and msn(1499) == pytest.approx(1e-3)
    # Cut off after 1 / 1.25 of the steps of a cosine that would end at 1e-6.
    left = 0.5 * (1 + math.cos(math.pi * (79_999 - 1500) / (100_000 - 1500)))
    assert msn(79_999) == pytest.approx(1e-6 + (1e-3 - 1e-6) * left)


def test_initialisation_and_groups_are_their_sources() -> None:
    """Residual blocks that start as the identity: BYOL's (Haiku), SimCLR's (Google), FAIR (2021).
    MoCo's and torchvision's supervised do not. Batch norms of 32 images: theirs on 8 GPUs."""
    zero = "byol simclr mscn vicreg barlow simsiam moco_v3 mscn_byol mscn_vicreg".split()
    for name in [*(f"{method}_r50" for method in zero), *(path.stem for path in LADDER)]:
        assert by_name(name).BACKBONE.ZERO_INIT_RESIDUAL == (TWIN not in name), name
    for name in ("moco_v1_r50", "moco_v2_r50", "mscn_moco_v2_r50", "supervised_r50"):
        cfg = by_name(name)
        assert (cfg.BACKBONE.ZERO_INIT_RESIDUAL, cfg.METHOD.BN_GROUP) == (False, 32), name
        assert cfg.SOLVER.BATCH_SIZE == 8 * 32


@pytest.mark.parametrize("base", ["moco_v2", "simsiam", "byol", "vicreg", "barlow"])
@pytest.mark.parametrize("suffix", ["_r50", TWIN])
def test_mscn_changes_views_only(base: str, suffix: str) -> None:
    """The recipe of MSCN on a base is the base's: same optimizer, heads and augmentation."""
    mscn, parent = by_name(f"mscn_{base}{suffix}"), by_name(base + suffix)
    differing = {key for key, value in flat(mscn).items() if flat(parent)[key] != value}
    allowed = ("METHOD.NAME", "METHOD.BASE", "MASK.")
    allowed += tuple(f"VIEWS.{b}.{k}" for b in "AB" for k in ("COUNT", "HIGHPASS", "MASK_PROB"))
    assert differing and all(key.startswith(allowed) for key in differing), differing


@pytest.mark.parametrize(
    "path", [p for p in LADDER if TWIN not in p.stem], ids=lambda path: path.stem
)
def test_ladder_twins_take_the_same_step(path: Path) -> None:
    """A small twin changes what its ImageNet step changes, but for the crop's scale."""
    twin = path.with_name(f"{path.stem}{TWIN}.yaml")
    step, small = (yaml.safe_load(file.read_text()) for file in (path, twin))
    base = step.pop("_BASE_")
    if base == "../mscn_r50.yaml":
        assert small.pop("_BASE_") == f"../mscn{TWIN}.yaml"
    else:
        assert small.pop("_BASE_") == base.replace(".yaml", f"{TWIN}.yaml")
    if path.stem == "step_3":
        assert step["VIEWS"].pop("CROP_SCALE") == [0.08, 1.0]
        assert small["VIEWS"].pop("CROP_SCALE") == [0.2, 1.0]
    assert step == small


def test_the_last_step_is_the_final_design_at_ratio_030() -> None:
    step, final = flat(by_name("step_9")), flat(by_name("mscn_r50"))
    differing = {key for key, value in step.items() if final[key] != value}
    assert differing == {"MASK.RATIO"} and step["MASK.RATIO"] == [0.30]
    small, twin = flat(by_name(f"step_9{TWIN}")), flat(by_name(f"mscn{TWIN}"))
    assert {key for key, value in small.items() if twin[key] != value} == {"MASK.RATIO"}


def test_comparisons_cost_what_they_are_compared_with() -> None:
    views = {path.stem: len(branches(load(path))) for path in LADDER}
    assert views["no_mask"] == views["no_mask_unfiltered"] == views["step_9"] == 3
    assert views["no_mask_2views"] == views["no_mask_2views_unfiltered"] == views["step_8"] == 2


def flat(node: dict, prefix: str = "") -> dict:
    out: dict = {}
    for key, value in node.items():
        if isinstance(value, dict):
            out.update(flat(value, f"{prefix}{key}."))
        else:
            out[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return out
