"""Complete tiny runs: files, exact resumption, MSCN's limit case, and the effect of config keys."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from fvcore.common.config import CfgNode

from pretrain.backbones.resnet import build_resnet
from pretrain.common.checkpoint import load_checkpoint
from pretrain.common.config import dump_yaml, flat
from pretrain.common.errors import InputError
from pretrain.common.logs import read_metrics
from pretrain.data.build import (
    build_view_maker,
    mask_recipe,
    train_images,
    transfer_preprocess,
)
from pretrain.data.preprocess import Preprocess
from pretrain.engine.checks import batch_note
from pretrain.engine.monitor import centre_crop
from pretrain.engine.run import build_training, check_inputs, pretrain
from pretrain.engine.state import check_same_config
from pretrain.methods.all_methods import BASES

Config = Callable[..., CfgNode]
NO_MASK = ("VIEWS.A.MASK_PROB", 0.0, "VIEWS.B.MASK_PROB", 0.0)
NO_FILTER = ("VIEWS.A.HIGHPASS", False, "VIEWS.B.HIGHPASS", False)
TWO_VIEWS = ("VIEWS.A.COUNT", 1, "VIEWS.B.COUNT", 1)
PLAIN = (*TWO_VIEWS, *NO_MASK, *NO_FILTER)
QUICK = ("DATASETS.KNN_TRAIN", "", "DATASETS.KNN_TEST", "")
HEADS = ("METHOD.PREDICTOR.HIDDEN_DIM", 4, "METHOD.QUEUE_SIZE", 16)
V1 = ("METHOD.PROJECTOR.LAYERS", 1)
VIT = ("BACKBONE.NAME", "vit_tiny_patch16_224", "BACKBONE.PATCH_SIZE", 8)
DECODER = {"DIM": 16, "DEPTH": 1, "HEADS": 2}
FOCAL = {"COUNT": 2, "SIZE": 8, "BLUR_PROB": 0.0}
METHOD_RUNS: dict[str, tuple] = {
    **{base: ("METHOD.NAME", base, *PLAIN, *HEADS) for base in BASES},
    "moco_v1": ("METHOD.NAME", "moco_v1", *PLAIN, *HEADS, *V1, "METHOD.BN_GROUP", 4),
    "supervised": ("METHOD.NAME", "supervised", *PLAIN, "VIEWS.B.COUNT", 0),
    "mae": (
        *("METHOD.NAME", "mae", *PLAIN, "VIEWS.B.COUNT", 0, *VIT, "SOLVER.OPTIMIZER", "adamw"),
        *(x for key, value in DECODER.items() for x in (f"METHOD.MAE.DECODER_{key}", value)),
    ),
    "msn": (
        *("METHOD.NAME", "msn", *PLAIN, *VIT, "SOLVER.OPTIMIZER", "adamw", "SOLVER.CLIP_NORM", 3.0),
        *("METHOD.MSN.PROTOTYPES", 16, "METHOD.MSN.PATCH_DROP", 0.5, "SOLVER.STRETCH", 1.25),
        *("METHOD.MOMENTUM_SCHEDULE", "linear", "SOLVER.FINAL_WEIGHT_DECAY", 0.4),
        *(x for key, value in FOCAL.items() for x in (f"VIEWS.FOCAL.{key}", value)),
    ),
}
KEYS = {
    *("format", "version", "model", "method", "backbone", "optimizer", "schedule", "loader"),
    *("rng", "step", "config", "environment", "preprocess", "data"),
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
    assert rows[-2]["views_per_image"] == schedule["views_per_image"] == 3


def test_rates_and_decay_are_the_configs(tiny_config: Config) -> None:
    """Barlow Twins' rate of biases; MSN's schedules, which span more than the run's 6 steps."""
    rates = ("SOLVER.LR_PER_256", 0.2, "SOLVER.BIAS_LR_PER_256", 0.0048)
    decay = ("SOLVER.WEIGHT_DECAY", 0.1, "SOLVER.FINAL_WEIGHT_DECAY", 0.4)
    span = ("SOLVER.STRETCH", 1.25, "SOLVER.WARMUP_EPOCHS", 0.0)
    training = build_training(tiny_config(*rates, *decay, *span), torch.device("cpu"))
    for step in range(6):
        left = 0.5 * (1 + math.cos(math.pi * step / 7.5))
        assert training.lr_at(step) == pytest.approx(0.2 * 8 / 256 * left)
        assert training.weight_decay_at(step) == pytest.approx(0.4 - 0.3 * left)
    for group in training.optimizer.param_groups:
        (matrices,) = {parameter.ndim > 1 for parameter in group["params"]}
        assert group["lr_ratio"] == pytest.approx(1.0 if matrices else 0.0048 / 0.2)
        assert group["weight_decay"] == (0.1 if matrices else 0.0)


def test_statistics_are_estimated_again(tiny_config: Config, tmp_path: Path) -> None:
    """checkpoint.pth keeps the statistics of training; the second file has those of clean images,
    filtered as the weights want them."""
    cfg = tiny_config("PRECISE_BN.IMAGES", 24, "PRECISE_BN.BATCH_SIZE", 8)
    pretrain(dump_yaml(cfg), str(tmp_path / "run"), False)
    raw, precise = (
        load_checkpoint(tmp_path / "run" / name)
        for name in ("checkpoint.pth", "checkpoint_precise_bn.pth")
    )
    assert set(precise) == KEYS and precise["optimizer"] is None
    assert raw["preprocess"] == precise["preprocess"] and raw["step"] == precise["step"]
    moved = {k for k, v in raw["model"].items() if not torch.equal(v, precise["model"][k])}
    assert moved and all(k.startswith("trunk.") and ".running_" in k for k in moved), moved
    trunk = build_resnet("tiny_resnet")
    prefix = "trunk."
    state = {k.removeprefix(prefix): v for k, v in raw["model"].items() if k.startswith(prefix)}
    trunk.load_state_dict(state)
    images = [centre_crop(train_images(cfg).read(i), 16) for i in range(24)]
    batch = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])
    maps = trunk.conv1(transfer_preprocess(cfg).apply(batch))
    mean, variance = maps.mean(dim=(0, 2, 3)), maps.var(dim=(0, 2, 3), unbiased=False)
    found = precise["model"]
    torch.testing.assert_close(found["trunk.bn1.running_mean"], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["trunk.bn1.running_var"], variance, rtol=1e-2, atol=1e-5)


def test_a_trunk_without_batch_norm_has_no_second_file(tiny_config: Config, tmp_path: Path) -> None:
    pretrain(dump_yaml(tiny_config(*METHOD_RUNS["mae"], *QUICK)), str(tmp_path / "run"), False)
    assert not (tmp_path / "run" / "checkpoint_precise_bn.pth").exists()
    assert (tmp_path / "run" / "checkpoint.pth").exists()


RESUMED = {
    "mscn_lars": ("SOLVER.OPTIMIZER", "lars"),
    "mscn_adamw": ("SOLVER.OPTIMIZER", "adamw"),
    **{name: METHOD_RUNS[name] for name in ("moco_v1", "moco_v2", "byol", "simsiam")},
    **{name: METHOD_RUNS[name] for name in ("supervised", "mae", "msn")},
}


@pytest.mark.parametrize("name", RESUMED)
def test_resuming_in_the_middle_of_an_epoch_is_exact(
    tiny_config: Config, tmp_path: Path, name: str
) -> None:
    """Losses and the complete state, including queue and pointer, momentum copies, prototypes."""
    text = dump_yaml(tiny_config(*RESUMED[name], *QUICK, "CHECKPOINT.EVERY_STEPS", 4))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    pretrain(text, str(whole), False)
    broken.mkdir()
    stop_after(text, broken, steps=5)
    assert load_checkpoint(broken / "checkpoint.pth")["loader"] == {"epoch": 1, "step_in_epoch": 1}
    pretrain(text, str(broken), True)
    assert losses(broken) == losses(whole)
    one, two = (load_checkpoint(folder / "checkpoint.pth") for folder in (whole, broken))
    assert all(torch.equal(one["model"][key], two["model"][key]) for key in one["model"])


def test_float16_resumes_with_its_scale(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dtype of a GPU without bfloat16, on a CPU: near float32, and resumed exactly."""
    short = ("SOLVER.MAX_STEPS", 3, "SOLVER.WARMUP_EPOCHS", 0.0, "CHECKPOINT.EVERY_STEPS", 1)
    text = dump_yaml(tiny_config(*PLAIN, *QUICK, *short))
    plain, whole, broken = (tmp_path / name for name in ("plain", "whole", "broken"))
    pretrain(text, str(plain), False)
    assert "scaler" not in load_checkpoint(plain / "checkpoint.pth")
    monkeypatch.setattr("pretrain.engine.run.amp_dtype", lambda device: torch.float16)
    scaler = partial(torch.amp.GradScaler, init_scale=64.0)  # fits from the first step on
    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    pretrain(text, str(whole), False)
    assert losses(whole) != losses(plain)
    assert losses(whole) == pytest.approx(losses(plain), rel=0.05)
    broken.mkdir()
    stop_after(text, broken, steps=2)
    assert load_checkpoint(broken / "checkpoint.pth")["step"] == 1
    pretrain(text, str(broken), True)
    assert losses(broken) == losses(whole)
    one, two = (load_checkpoint(folder / "checkpoint.pth") for folder in (whole, broken))
    assert one["scaler"] == two["scaler"] and one["scaler"]["scale"] == 64.0
    assert one["scaler"]["_growth_tracker"] == 3, "the scale is not started again"
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


def test_a_run_killed_before_its_first_checkpoint_leaves_no_rows(
    tiny_config: Config, tmp_path: Path
) -> None:
    """Its continuation starts at step 0, and writes every row again."""
    cut = '{"step": 0, "knn3_top1": 9.0}\n{"step": 1, "loss": 9.0}\n{"step": 2, "lo'
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text(cut)
    short = ("SOLVER.MAX_STEPS", 2, "SOLVER.WARMUP_EPOCHS", 0.0, *QUICK)
    pretrain(dump_yaml(tiny_config(*short)), str(tmp_path / "run"), True)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2]
    assert 9.0 not in [*losses(tmp_path / "run").values(), *(row.get("knn3_top1") for row in rows)]


def test_resume_refuses_another_config(tiny_config: Config, tmp_path: Path) -> None:
    short = ("SOLVER.MAX_STEPS", 2, "SOLVER.WARMUP_EPOCHS", 0.0)
    pretrain(dump_yaml(tiny_config(*short)), str(tmp_path / "run"), False)
    with pytest.raises(InputError, match=r"METHOD.TEMPERATURE \(0.1 then, 0.5 now\)"):
        text = dump_yaml(tiny_config(*short, "METHOD.TEMPERATURE", 0.5))
        pretrain(text, str(tmp_path / "run"), True)
    with pytest.raises(InputError, match="SOLVER.MAX_STEPS"):
        text = dump_yaml(tiny_config(*short[2:], "SOLVER.MAX_STEPS", 3))
        pretrain(text, str(tmp_path / "run"), True)


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("base", BASES)
def test_mscn_without_masks_and_filter_is_its_base(
    tiny_config: Config, tmp_path: Path, base: str, joint: bool
) -> None:
    """One mask an image, ratio 0, no filter: bit-identical losses and weights."""
    common = (*METHOD_RUNS[base], *QUICK, "SOLVER.MAX_STEPS", 3, "SOLVER.WARMUP_EPOCHS", 0.0)
    common += ("METHOD.JOINT_FORWARD", joint, "PRECISE_BN.IMAGES", 0)
    masked = ("VIEWS.A.MASK_PROB", 0.5, "VIEWS.B.MASK_PROB", 1.0, "MASK.RATIO", "(0.0,)")
    parent = tiny_config(*common)
    mscn = tiny_config(*common, *masked, "METHOD.NAME", "mscn", "METHOD.BASE", base)
    for cfg, name in ((parent, "parent"), (mscn, "mscn")):
        pretrain(dump_yaml(cfg), str(tmp_path / name), False)
    assert losses(tmp_path / "parent") == losses(tmp_path / "mscn")
    one, two = (load_checkpoint(tmp_path / n / "checkpoint.pth") for n in ("parent", "mscn"))
    assert one["model"].keys() == two["model"].keys()
    assert all(torch.equal(one["model"][key], two["model"][key]) for key in one["model"])


def test_any_convnet_of_timm(tiny_config: Config, tmp_path: Path) -> None:
    """ConvNeXt under MSCN, and one whose batch norms hold their activation, under SimCLR."""
    cases = {"convnext_atto": (), "efficientnet_b0": METHOD_RUNS["simclr"]}
    for name, overrides in cases.items():
        size = ("BACKBONE.NAME", name, "VIEWS.SIZE", 32, "SOLVER.MAX_STEPS", 2)
        cfg = tiny_config(*overrides, *size, "SOLVER.WARMUP_EPOCHS", 0.0)
        check_inputs(cfg)
        pretrain(dump_yaml(cfg), str(tmp_path / name), False)
        saved = load_checkpoint(tmp_path / name / "checkpoint.pth")
        assert saved["backbone"] == name and len(losses(tmp_path / name)) == 2


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
        ("BACKBONE.NAME", "resnet51", "did you mean 'resnet5"),
        ("MASK.GRID_SIZE", 32, "grid_size 32 px is larger than the image of 16 px"),
        ("DATASETS.TRAIN", "folder:/nowhere", "/nowhere is missing"),
        ("MASK.FILL", "median", "unknown mask fill 'median'"),
        ("METHOD.NAME", "mae", "METHOD.NAME mae leaves patches out, and .* tiny_resnet does not"),
        ("METHOD.NAME", "msn", "give a timm ViT"),
        ("BACKBONE.NAME", "convnext_atto", "convnext_atto does not take images of VIEWS.SIZE 16"),
        ("BACKBONE.NAME", "convnext_attto", "did you mean 'convnext_atto"),
        ("BACKBONE.PATCH_SIZE", 4, "BACKBONE.PATCH_SIZE 4 is for ViTs"),
    ],
)
def test_bad_values_are_named(tiny_config: Config, key: str, value: object, message: str) -> None:
    backbone = ("BACKBONE.NAME", "resnetv2_50") if key == "BACKBONE.PATCH_SIZE" else ()
    with pytest.raises(InputError, match=message):
        check_inputs(tiny_config(*backbone, key, value))


@pytest.mark.parametrize(
    "overrides, message",
    [
        (("VIEWS.SIZE", 20), "VIEWS.SIZE 20 must be a multiple of the backbone's 8 px patches"),
        (("METHOD.MAE.MASK_RATIO", 1.0), "METHOD.MAE.MASK_RATIO 1.0"),
        (("METHOD.MAE.DECODER_HEADS", 3), "METHOD.MAE.DECODER_DIM 16 must be a multiple"),
    ],
)
def test_bad_settings_of_mae_are_named(tiny_config: Config, overrides: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_inputs(tiny_config(*METHOD_RUNS["mae"], *overrides))


def test_focal_views_that_patches_do_not_tile_are_named(tiny_config: Config) -> None:
    with pytest.raises(InputError, match="VIEWS.FOCAL.SIZE 12 must be a multiple"):
        check_inputs(tiny_config(*METHOD_RUNS["msn"], "VIEWS.FOCAL.SIZE", 12))


def test_supervised_needs_class_folders(tiny_config: Config, image_folder: Path) -> None:
    flat = f"folder:{image_folder / 'class_0'}"
    with pytest.raises(InputError, match="needs labels, but DATASETS.TRAIN .* no class folders"):
        check_inputs(tiny_config(*METHOD_RUNS["supervised"], "DATASETS.TRAIN", flat))


def test_another_batch_than_the_recipes_is_warned_of(tiny_config: Config, tmp_path: Path) -> None:
    cfg = tiny_config("SOLVER.RECIPE_BATCH_SIZE", 4096, "SOLVER.MAX_STEPS", 1)
    assert batch_note(tiny_config("SOLVER.RECIPE_BATCH_SIZE", 8)) is None
    text = dump_yaml(cfg)
    pretrain(text.replace("WARMUP_EPOCHS: 0.5", "WARMUP_EPOCHS: 0.0"), str(tmp_path / "run"), False)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "is not the recipe's 4096" in log and "to 0.009375 from 4.8" in log


def test_a_run_continues_with_other_keys_of_the_machine_and_of_watching(
    tiny_config: Config, tmp_path: Path
) -> None:
    """Every key, one after the other."""
    free: tuple[str, ...] = ("OUTPUT_DIR", "DATALOADER.", "CHECKPOINT.", "LOG", "KNN.")
    free += ("DATASETS.KNN_", "BACKBONE.CHECKPOINTING", "SOLVER.COMPILE", "SOLVER.SIDE_STREAM")
    text = dump_yaml(tiny_config())
    for key in flat(yaml.safe_load(text)):
        changed = yaml.safe_load(text)
        *parents, last = key.split(".")
        node = reduce(dict.__getitem__, parents, changed)
        node[last] = "other"
        if key.startswith((*free, "PRECISE_BN.")):
            check_same_config(text, yaml.safe_dump(changed), tmp_path)
        else:
            with pytest.raises(InputError, match=rf"different config: {key} \("):
                check_same_config(text, yaml.safe_dump(changed), tmp_path)


@pytest.mark.parametrize("saved", ["a: &a [*a]", "a: 2020-99-99", "{" * 2000, "- 1", "", 3, None])
def test_a_checkpoint_with_a_damaged_config_is_refused(
    tiny_config: Config, tmp_path: Path, saved: Any
) -> None:
    with pytest.raises(InputError, match="the config in .* cannot be read") as told:
        check_same_config(saved, dump_yaml(tiny_config()), tmp_path / "checkpoint.pth")
    assert len(str(told.value).splitlines()) == 1


def test_an_old_checkpoint_lacks_only_keys_at_their_defaults(
    tiny_config: Config, tmp_path: Path
) -> None:
    text = dump_yaml(tiny_config())
    older = yaml.safe_load(text)
    del older["SOLVER"]["CLIP_NORM"]
    check_same_config(yaml.safe_dump(older), text, tmp_path)
    with pytest.raises(InputError, match=r"SOLVER.CLIP_NORM \(0.0 then, 3.0 now\)"):
        check_same_config(
            yaml.safe_dump(older), dump_yaml(tiny_config("SOLVER.CLIP_NORM", 3.0)), tmp_path
        )
