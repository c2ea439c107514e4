"""Complete steps of every method in two processes equal those of one process with the same global
batches.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from pretrain.common.config import dump_yaml
from pretrain.engine.loop import train
from pretrain.engine.run import build_training
from pretrain.methods.encode import encode
from tests.two_processes import run_in_two

# Views without chance but for the crops, which do not depend on the processes.
PLAIN = (
    *("VIEWS.FLIP_PROB", 0.0, "VIEWS.JITTER_PROB", 0.0, "VIEWS.GRAY_PROB", 0.0),
    *("VIEWS.A.BLUR_PROB", 0.0, "VIEWS.B.BLUR_PROB", 0.0, "VIEWS.B.MASK_PROB", 0.0),
    *("VIEWS.A.MASK_PROB", 0.0, "SOLVER.OPTIMIZER", "sgd", "SOLVER.LR_PER_256", 0.8),
    *("SOLVER.MAX_STEPS", 3, "SOLVER.WARMUP_EPOCHS", 0.0, "METHOD.MOMENTUM", 0.9),
    *("METHOD.QUEUE_SIZE", 32, "METHOD.PREDICTOR.HIDDEN_DIM", 4, "SOLVER.CLIP_NORM", 1.0),
)
TWO_VIEWS = ("VIEWS.B.COUNT", 1)
V1 = ("METHOD.PROJECTOR.LAYERS", 1)
ONE_PASS = {
    **{n: ("METHOD.NAME", n, *TWO_VIEWS) for n in ("simclr", "moco_v2", "moco_v3", "simsiam")},
    **{n: ("METHOD.NAME", n, *TWO_VIEWS) for n in ("byol", "vicreg", "barlow")},
    "moco_v1": ("METHOD.NAME", "moco_v1", *TWO_VIEWS, *V1),
    "supervised": ("METHOD.NAME", "supervised", "VIEWS.B.COUNT", 0),
    **{f"mscn_{n}": ("METHOD.BASE", n) for n in ("simclr", "moco_v2", "byol", "vicreg", "barlow")},
    "in_parts": ("METHOD.BASE", "simclr", "SOLVER.ACCUMULATE", 2),
    "by_branch": ("METHOD.BASE", "simsiam", "METHOD.JOINT_FORWARD", False),
}


def trained(cfg: CfgNode) -> dict[str, Tensor]:
    """Weights and statistics after the run's steps."""
    training = build_training(cfg, torch.device("cpu"))
    train(training, [])
    assert training.guard.skipped == 0
    return {k: v for k, v in training.method.state_dict().items() if "num_batches" not in k}


def one_of_two(rank: int, folder: str, configs: dict[str, str]) -> None:
    states = {name: trained(CfgNode.load_cfg(text)) for name, text in configs.items()}
    torch.save(states, f"{folder}/{rank}.pt")


def test_two_processes_equal_one(tiny_config: Callable[..., CfgNode], tmp_path: Path) -> None:
    configs = {name: tiny_config(*PLAIN, *more) for name, more in ONE_PASS.items()}
    texts = {name: dump_yaml(cfg) for name, cfg in configs.items()}
    run_in_two(one_of_two, tmp_path, texts)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, cfg in configs.items():
        whole = trained(cfg)
        assert whole.keys() == first[name].keys()
        for key, value in whole.items():
            theirs = first[name][key]
            assert torch.equal(theirs, second[name][key]), f"{name}: {key} differs between them"
            if key == "queue":  # the keys of a step have a different order, which no loss sees
                theirs, value = (torch.sort(x, dim=1).values for x in (theirs, value))
            torch.testing.assert_close(
                theirs, value, rtol=2e-3, atol=2e-4, msg=lambda text: f"{name}: {key}: {text}"
            )


VIT = ("BACKBONE.NAME", "vit_tiny_patch16_224", "BACKBONE.PATCH_SIZE", 8)
DRAWN = {
    "moco_v1": ("METHOD.NAME", "moco_v1", *TWO_VIEWS, *V1, "METHOD.BN_GROUP", 2),
    "mae": (
        *("METHOD.NAME", "mae", "VIEWS.B.COUNT", 0, *VIT, "METHOD.MAE.DECODER_DIM", 16),
        *("METHOD.MAE.DECODER_DEPTH", 1, "METHOD.MAE.DECODER_HEADS", 2),
    ),
    "msn": ("METHOD.NAME", "msn", *TWO_VIEWS, *VIT, "METHOD.MSN.PROTOTYPES", 8),
}


@pytest.mark.parametrize(
    "name", [n if n == "msn" else pytest.param(n, marks=pytest.mark.slow) for n in DRAWN]
)
def test_own_draws_keep_the_processes_together(
    name: str, tiny_config: Callable[..., CfgNode], tmp_path: Path
) -> None:
    """Each process has its own shuffle parts, masks of patches and batch-norm groups, and all end
    with the same weights, copies, queue and prototypes."""
    text = dump_yaml(tiny_config(*PLAIN, *DRAWN[name]))
    run_in_two(one_of_two, tmp_path, {name: text})
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True)[name] for rank in (0, 1))
    own = {key for key, value in one.items() if not torch.equal(value, two[key])}
    assert all(".running_" in key for key in own), own
    assert bool(own) == (name == "moco_v1"), "groups without SyncBN have statistics of their own"


GROUPED = ("METHOD.NAME", "mscn", "METHOD.BASE", "moco_v2", "METHOD.BN_GROUP", 4)


def two_views_through_the_trunk(
    cfg: CfgNode, rows: slice
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Features of a branch of two views, which pass together, and the running statistics."""
    method = build_training(cfg, torch.device("cpu")).method.train()
    images = torch.rand(2, 8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    views = [view[rows] for view in images]
    (features,) = encode(lambda x: (method.trunk(x),), views, [0, 1], [1, 1], joint=True)
    running = {k: v for k, v in method.trunk.state_dict().items() if ".running_" in k}
    return [features[0].detach(), features[1].detach()], running


def half_of_the_images(rank: int, folder: str, text: str) -> None:
    rows = slice(4 * rank, 4 * rank + 4)
    torch.save(two_views_through_the_trunk(CfgNode.load_cfg(text), rows), f"{folder}/{rank}.pt")


def test_groups_mean_the_same_in_one_and_two_processes(
    tiny_config: Callable[..., CfgNode], tmp_path: Path
) -> None:
    """Each process holds one group of images, but a branch of two views is two groups."""
    cfg = tiny_config(*PLAIN, *GROUPED, "SOLVER.BATCH_SIZE", 8)
    run_in_two(half_of_the_images, tmp_path, dump_yaml(cfg))
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    features, running = two_views_through_the_trunk(cfg, slice(0, 8))
    for view in (0, 1):
        theirs = torch.cat([part[0][view] for part in parts])
        torch.testing.assert_close(theirs, features[view], rtol=1e-4, atol=1e-5)
    for name, value in running.items():
        theirs = torch.stack([part[1][name] for part in parts]).mean(dim=0)
        torch.testing.assert_close(theirs, value, rtol=1e-3, atol=1e-5)
