"""Config values that cannot work: each gives one line that names the key."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode

from pretrain.common.errors import InputError
from pretrain.data.build import build_view_maker, crop_specs
from pretrain.data.datasets import ArrayImages
from pretrain.engine.checks import check_backbone, check_config, check_monitor, queue_note
from pretrain.methods.build import build_method

MOCO = ("METHOD.BASE", "moco_v2")
MSN = ("METHOD.NAME", "msn", "VIEWS.B.COUNT", 1)


@pytest.mark.parametrize(
    "overrides, processes, message",
    [
        (("SOLVER.BATCH_SIZE", 7), 2, "SOLVER.BATCH_SIZE 7 must be a multiple of the 2"),
        (("SOLVER.BATCH_SIZE", 2), 2, "at least 2 images"),
        (("SOLVER.ACCUMULATE", 3), 1, "SOLVER.ACCUMULATE 3 must divide the 8 images of a process"),
        (("SOLVER.ACCUMULATE", 0), 1, "SOLVER.ACCUMULATE 0 must divide the 8"),
        (("SOLVER.ACCUMULATE", 4), 2, "at least 2 images in each part"),
        (("SOLVER.ACCUMULATE", 2, "METHOD.BASE", "byol"), 1, "the loss of byol cannot be computed"),
        (("SOLVER.ACCUMULATE", 2, "METHOD.BN_GROUP", 8), 1, "BN_GROUP 8 must divide the 4 images"),
        (("METHOD.NAME", "simclr"), 1, "VIEWS.B.COUNT to 1, or METHOD.NAME mscn"),
        (("METHOD.NAME", "mae"), 1, "set VIEWS.B.COUNT to 0$"),
        (("METHOD.NAME", "msn"), 1, "set VIEWS.B.COUNT to 1$"),
        (("VIEWS.A.COUNT", 0), 1, "VIEWS.A.COUNT 0 must be at least 1"),
        (("VIEWS.FOCAL.COUNT", 2), 1, "METHOD.NAME mscn does not use focal views"),
        (("METHOD.NAME", "simclrr"), 1, "did you mean 'simclr'"),
        (("METHOD.NAME", "mscm"), 1, "did you mean 'mscn'"),
        (("METHOD.BASE", "mae"), 1, "unknown base loss 'mae'"),
        (("METHOD.PAIRS", "some"), 1, "METHOD.PAIRS"),
        (("SOLVER.OPTIMIZER", "adam"), 1, "unknown optimizer"),
        (("SOLVER.SCHEDULE", "linear"), 1, "unknown schedule 'linear' in SOLVER.SCHEDULE"),
        (("SOLVER.MILESTONES", "(0.8, 0.6)"), 1, "SOLVER.MILESTONES"),
        ((*MOCO, "METHOD.MOMENTUM_SCHEDULE", "cosin"), 1, "known: constant, cosine"),
        ((*MOCO, "METHOD.QUEUE_SIZE", 20), 1, "METHOD.QUEUE_SIZE 20 must be a multiple of .* 8"),
        ((*MOCO, "METHOD.QUEUE_SIZE", 0), 1, "METHOD.QUEUE_SIZE 0"),
        ((*MOCO, "METHOD.BN_GROUP", 3), 1, "METHOD.BN_GROUP 3 must divide the 8 images"),
        ((*MOCO, "METHOD.BN_GROUP", 8), 2, "METHOD.BN_GROUP 8 must divide the 4 images"),
        ((*MOCO, "METHOD.BN_GROUP", 1), 1, "METHOD.BN_GROUP 1 must be 0 or at least 2"),
        ((*MOCO, "METHOD.MOMENTUM", 1.5), 1, "METHOD.MOMENTUM 1.5"),
        (("METHOD.BASE", "moco_v1"), 1, "MoCo v1 has a linear projector"),
        ((*MSN, "METHOD.MSN.PATCH_DROP", 1.0), 1, "METHOD.MSN.PATCH_DROP 1.0"),
        ((*MSN, "METHOD.MSN.PROTOTYPES", 1), 1, "METHOD.MSN.PROTOTYPES 1"),
        (("SOLVER.LR_PER_256", 0.0), 1, "SOLVER.LR_PER_256 0.0 must be above 0"),
        (("SOLVER.STRETCH", 0.5), 1, "SOLVER.STRETCH 0.5 must be at least 1"),
        (("SOLVER.MAX_SKIPPED_STEPS", -1), 1, "SOLVER.MAX_SKIPPED_STEPS -1"),
        (("METHOD.VICREG.WEIGHTS", "(1.0,)"), 1, "METHOD.VICREG.WEIGHTS .* 3 values"),
        (("VIEWS.B.MASK_PROB", 1.5), 1, "VIEWS.B.MASK_PROB 1.5 is not a probability"),
        (("HIGHPASS.AT_TRANSFER", "maybe"), 1, "known: auto, no, yes"),
        (("VIEWS.SAME_VIEW", True), 1, "VIEWS.SAME_CROP"),
        (("VIEWS.JITTER", "(.4, .4)"), 1, "VIEWS.JITTER"),
        (("MASK.RATIO", "(.1, .2, .3)"), 1, "1 or 2 values"),
        (("SOLVER.EPOCHS", 0), 1, "both 0"),
        (("SOLVER.EPOCHS", -1), 1, "SOLVER.EPOCHS -1"),
        (("METHOD.TEMPERATURE", 0.0), 1, "METHOD.TEMPERATURE"),
        (("DATASETS.KNN_TEST", ""), 1, "go together"),
        (("LOG.EVERY_STEPS", 0), 1, "LOG.EVERY_STEPS"),
    ],
)
def test_refused(
    tiny_config: Callable[..., CfgNode], overrides: tuple, processes: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_config(tiny_config(*overrides), processes)


def test_the_defaults_pass(tiny_config: Callable[..., CfgNode]) -> None:
    check_config(tiny_config(), 4)


def test_the_monitor_compares_labels_of_one_list_of_classes() -> None:
    """A query set that lacks a class numbers those behind it otherwise."""

    def images(*classes: str) -> ArrayImages:
        pixels = np.zeros((2, 4, 4, 3), np.uint8)
        return ArrayImages(pixels, [0, 0] if classes else [-1, -1], classes, ["a", "b"])

    check_monitor(images("cat", "dog"), images("cat", "dog"))
    with pytest.raises(InputError, match="DATASETS.KNN_TEST has no class folders"):
        check_monitor(images("cat"), images())
    with pytest.raises(InputError, match="KNN_TRAIN has 3 classes, .*KNN_TEST 2; .*: see bee$"):
        check_monitor(images("ant", "bee", "cat"), images("ant", "cat"))


def test_small_views_are_held_against_their_own_size(
    tiny_config: Callable[..., CfgNode],
) -> None:
    small = ("VIEWS.FOCAL.COUNT", 1, "VIEWS.FOCAL.SIZE", 8, "VIEWS.BLUR_KERNEL", 17)
    with pytest.raises(InputError, match="blur kernel of 17 px is too large for images of 8 px"):
        build_view_maker(tiny_config(*MSN, *small))
    build_view_maker(tiny_config(*MSN, *small, "VIEWS.FOCAL.BLUR_PROB", 0.0))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("VIEWS.JITTER", (0.4, 0.4, 0.4, 0.9), "^VIEWS: hue 0.9 must be"),
        ("VIEWS.SIZE", 0, "^VIEWS: crop size 0 must be at least 1 px$"),
        ("VIEWS.BLUR_KERNEL", 4, "^VIEWS: blur kernel size 4 must be"),
        ("VIEWS.CROP_SCALE", (0.9, 0.1), r"^VIEWS: crop scale \(0.9, 0.1\) must be"),
        ("VIEWS.FOCAL.CROP_SCALE", (0.9, 0.1), "^VIEWS.FOCAL: crop scale"),
        ("MASK.GRID_SIZE", 0, "^MASK: mask grid_size 0 must be at least 1 px$"),
        ("MASK.NOISE_STD", -1.0, "^MASK: mask noise_std -1.0 must not be negative$"),
        ("MASK.BLUR_SIGMA", 0.0, "^MASK: mask blur_sigma 0.0 must be above 0$"),
        ("HIGHPASS.SIGMA", -1.0, "^HIGHPASS: high-pass sigma -1.0 must be above 0"),
        ("METHOD.PROJECTOR.LAYERS", 0, "^METHOD.PROJECTOR.LAYERS: a projector needs"),
    ],
)
def test_a_bad_value_is_told_with_its_node(
    key: str, value: object, told: str, tiny_config: Callable[..., CfgNode]
) -> None:
    cfg = tiny_config("METHOD.NAME", "mscn", "VIEWS.A.HIGHPASS", True, key, value)
    with pytest.raises(InputError, match=told):
        build_view_maker(cfg)
        crop_specs(cfg)
        build_method(cfg)


class Encoder(torch.nn.Module):
    """A backbone that returns a map, as some of timm's encoders do."""

    out_dim = 3

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


def test_a_backbone_without_pooled_features_is_refused(
    tiny_config: Callable[..., CfgNode],
) -> None:
    with pytest.raises(InputError, match=r"gives no pooled features \(N, 3\)"):
        check_backbone(tiny_config(), Encoder())


@pytest.mark.parametrize("name", ["moco_v1", "moco_v2", "mscn"])
def test_a_queue_longer_than_the_data(tiny_config: Callable[..., CfgNode], name: str) -> None:
    base = ("METHOD.BASE", "moco_v2") if name == "mscn" else ()
    cfg = tiny_config("METHOD.NAME", name, *base, "METHOD.QUEUE_SIZE", 64)
    assert "METHOD.QUEUE_SIZE 64 is larger than the 63 training images" in queue_note(cfg, 63)
    assert queue_note(cfg, 64) is None
    assert queue_note(tiny_config("METHOD.QUEUE_SIZE", 64), 63) is None, "SimCLR has no queue"
