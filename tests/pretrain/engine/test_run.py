"""Whole tiny runs: files written, exact resumption, MSCN's limit case, what a config asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fvcore.common.config import CfgNode

from pretrain.backbones.resnet import build_resnet
from pretrain.common.checkpoint import load_checkpoint
from pretrain.common.config import dump_yaml
from pretrain.common.errors import InputError
from pretrain.common.logs import read_metrics
from pretrain.data.preprocess import Preprocess
from pretrain.data.run import build_view_maker, mask_recipe, transfer_preprocess
from pretrain.engine.run import build_training, check_inputs, pretrain

Config = Callable[..., CfgNode]
NO_MASK = ("VIEWS.A.MASK_PROB", 0.0, "VIEWS.B.MASK_PROB", 0.0)
NO_FILTER = ("VIEWS.A.HIGHPASS", False, "VIEWS.B.HIGHPASS", False)
TWO_VIEWS = ("VIEWS.A.COUNT", 1, "VIEWS.B.COUNT", 1)
KEYS = {
    *("format", "version", "model", "method", "backbone", "optimizer", "schedule", "loader"),
    *("rng", "step", "config", "environment", "preprocess"),
}


def losses(folder: Path) -> dict[int, float]:
    rows = read_metrics(folder / "metrics.jsonl")
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def test_a_run_writes_what_the_contract_says(tiny_config: Config, tmp_path: Path) -> None:
    pretrain(dump_yaml(tiny_config()), str(tmp_path / "run"), False)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"checkpoint.pth", "metrics.jsonl", "config.yaml", "views.png", "log.txt"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    saved = load_checkpoint(tmp_path / "run" / "checkpoint.pth")
    assert set(saved) == KEYS
    schedule = saved["schedule"]
    assert (schedule["epochs"], schedule["steps_per_epoch"], schedule["total_steps"]) == (2, 3, 6)
    assert (schedule["images_seen"], schedule["views_seen"]) == (48, 144)
    assert schedule["seconds"] > 0 and schedule["gpu_seconds"] >= 0
    assert saved["loader"] == {"epoch": 2, "step_in_epoch": 0} and saved["step"] == 6
    assert saved["method"] == "mscn" and saved["backbone"] == "tiny_resnet"
    assert Preprocess.from_dict(saved["preprocess"]).highpass.kernel_size == 5
    prefix = "trunk."
    trunk = {k.removeprefix(prefix): v for k, v in saved["model"].items() if k.startswith(prefix)}
    build_resnet("tiny_resnet").load_state_dict(trunk, strict=True)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    monitored = [row["step"] for row in rows if "knn3_top1" in row]
    assert monitored == [0, 3, 6] and set(losses(tmp_path / "run")) == set(range(1, 7))
    needed = {"lr", "images_per_s", "views_seen", "nt_xent", "epoch"}
    assert all(needed <= set(row) for row in rows if "loss" in row)
    assert {"feature_std", "effective_rank"} <= set(rows[0])


@pytest.mark.parametrize("optimizer", ["lars", "adamw"])
def test_resuming_in_the_middle_of_an_epoch_is_exact(
    tiny_config: Config, tmp_path: Path, optimizer: str
) -> None:
    common = ("SOLVER.OPTIMIZER", optimizer, "DATASETS.KNN_TRAIN", "", "DATASETS.KNN_TEST", "")
    text = dump_yaml(tiny_config(*common, "CHECKPOINT.EVERY_STEPS", 4))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    pretrain(text, str(whole), False)
    broken.mkdir()
    stop_after(text, broken, steps=5)
    assert load_checkpoint(broken / "checkpoint.pth")["loader"] == {"epoch": 1, "step_in_epoch": 1}
    pretrain(text, str(broken), True)
    assert losses(broken) == losses(whole)
    one, two = (load_checkpoint(folder / "checkpoint.pth") for folder in (whole, broken))
    assert all(torch.equal(one["model"][key], two["model"][key]) for key in one["model"])


def stop_after(text: str, folder: Path, steps: int) -> None:
    """A run that dies in its step `steps` + 1, one step after its last checkpoint."""
    from pretrain.data.views import ViewMaker

    calls = iter(range(steps + 1))
    original = ViewMaker.__call__

    def dying(self: ViewMaker, crops: list[torch.Tensor], generator: torch.Generator) -> list:
        if next(calls) >= steps:
            raise KeyboardInterrupt
        return original(self, crops, generator)

    with pytest.MonkeyPatch.context() as patch:
        # The panel would count as a call.
        patch.setattr("pretrain.engine.callbacks.save_view_panel", lambda *a, **k: None)
        patch.setattr(ViewMaker, "__call__", dying)
        with pytest.raises(KeyboardInterrupt):
            pretrain(text, str(folder), False)


def test_resume_refuses_another_config(tiny_config: Config, tmp_path: Path) -> None:
    short = ("SOLVER.MAX_STEPS", 2, "SOLVER.WARMUP_EPOCHS", 0.0)
    pretrain(dump_yaml(tiny_config(*short)), str(tmp_path / "run"), False)
    with pytest.raises(InputError, match=r"METHOD.TEMPERATURE \(0.1 then, 0.5 now\)"):
        text = dump_yaml(tiny_config(*short, "METHOD.TEMPERATURE", 0.5))
        pretrain(text, str(tmp_path / "run"), True)
    with pytest.raises(InputError, match="SOLVER.MAX_STEPS"):
        text = dump_yaml(tiny_config(*short[2:], "SOLVER.MAX_STEPS", 3))
        pretrain(text, str(tmp_path / "run"), True)


def test_mscn_without_masks_and_filter_is_simclr(tiny_config: Config, tmp_path: Path) -> None:
    common = (*TWO_VIEWS, *NO_FILTER, "SOLVER.MAX_STEPS", 3, "SOLVER.WARMUP_EPOCHS", 0.0)
    common += ("DATASETS.KNN_TRAIN", "", "DATASETS.KNN_TEST", "")
    simclr = tiny_config(*common, *NO_MASK, "METHOD.NAME", "simclr")
    mscn = tiny_config(*common, "MASK.RATIO", "(0.0,)")
    for cfg, name in ((simclr, "simclr"), (mscn, "mscn")):
        pretrain(dump_yaml(cfg), str(tmp_path / name), False)
    assert losses(tmp_path / "simclr") == losses(tmp_path / "mscn")


def test_max_steps_and_limit_per_class_bound_a_run(tiny_config: Config) -> None:
    cfg = tiny_config("DATASETS.LIMIT_PER_CLASS", 4, "SOLVER.MAX_STEPS", 7)
    training = build_training(cfg, torch.device("cpu"))
    assert training.loader.steps_per_epoch == 1 and training.total_steps == 7
    assert training.lr_at(0) == pytest.approx(0.3 * 8 / 256)


def test_warmup_longer_than_the_run_is_refused(tiny_config: Config) -> None:
    with pytest.raises(InputError, match="lower SOLVER.WARMUP_EPOCHS"):
        build_training(tiny_config("SOLVER.WARMUP_EPOCHS", 2.0), torch.device("cpu"))


@pytest.mark.parametrize(
    "overrides, filtered",
    [
        ((), True),
        (("VIEWS.A.HIGHPASS", False), False),
        (("VIEWS.A.HIGHPASS", False, "HIGHPASS.AT_TRANSFER", "yes"), True),
        (("HIGHPASS.AT_TRANSFER", "no"), False),
    ],
)
def test_filter_at_transfer(tiny_config: Config, overrides: tuple, filtered: bool) -> None:
    preprocess = transfer_preprocess(tiny_config(*overrides))
    assert (preprocess.highpass is not None) == filtered


def test_branches_have_their_own_recipes(tiny_config: Config) -> None:
    cfg = tiny_config("VIEWS.A.BLUR_PROB", 1.0, "VIEWS.B.HIGHPASS", False, "MASK.RATIO", "(.1, .3)")
    maker = build_view_maker(cfg)
    assert [recipe.blur_prob for recipe in maker.recipes] == [1.0, 0.5, 0.5]
    assert [highpass is not None for highpass in maker.highpasses] == [True, False, False]
    assert [mask.apply_prob for mask in maker.masks] == [0.5, 1.0, 1.0]
    assert maker.masks[0].ratio == (0.1, 0.3)
    assert mask_recipe(tiny_config(*NO_MASK), tiny_config(*NO_MASK).VIEWS.A) is None


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("METHOD.NAME", "mscm", "did you mean 'mscn'"),
        ("BACKBONE.NAME", "resnet51", "did you mean 'resnet5"),
        ("SOLVER.OPTIMIZER", "adam", "unknown optimizer"),
        ("METHOD.PAIRS", "some", "METHOD.PAIRS"),
        ("MASK.GRID_SIZE", 32, "grid_size 32 px is larger than the image of 16 px"),
        ("DATASETS.TRAIN", "folder:/nowhere", "/nowhere does not exist"),
    ],
)
def test_bad_values_are_named(tiny_config: Config, key: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_inputs(tiny_config(key, value))
