"""Every method under bfloat16 autocast: the loss stays float32 and near the float32 one."""

from __future__ import annotations

import copy

import pytest
import torch

from pretrain.common.config import load_config
from pretrain.data.build import branches, view_sizes
from pretrain.defaults import get_defaults
from pretrain.methods.build import build_method

TINY = ("BACKBONE.NAME", "tiny_resnet", "METHOD.QUEUE_SIZE", "512", "VIEWS.SIZE", "32")
VITS = ("VIEWS.SIZE", "32", "VIEWS.FOCAL.SIZE", "16")
CASES = {
    **{f"{name}_r18_tiny100": TINY for name in ("simclr", "mscn", "moco_v1", "moco_v2")},
    **{f"{name}_r18_tiny100": TINY for name in ("moco_v3", "simsiam", "byol", "vicreg")},
    **{f"{name}_r18_tiny100": TINY for name in ("barlow", "supervised")},
    "msn_vitt_tiny100": VITS,
    "mae_vitt_tiny100": VITS,
}


@pytest.mark.parametrize("name", CASES)
def test_losses_are_computed_in_float32(name: str) -> None:
    cfg = load_config(f"{name}.yaml", get_defaults(), (*CASES[name], "METHOD.BN_GROUP", "0"))
    torch.manual_seed(0)
    method = build_method(cfg, num_classes=4)
    views = [torch.randn(8, 3, size, size) for size in view_sizes(cfg)]
    labels = torch.arange(8) % 4
    losses = []
    for autocast in (False, True):
        copied = copy.deepcopy(method)
        generator = torch.Generator().manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outcome = copied(views, branches(cfg), labels=labels, generator=generator)
        outcome["loss"].backward()
        copied.after_step(0, 10)
        assert outcome["loss"].dtype == torch.float32
        grads = [p.grad for p in copied.parameters() if p.grad is not None]
        assert grads and all(torch.isfinite(grad).all() for grad in grads)
        assert all(v.dtype == torch.float32 for v in copied.state_dict().values() if v.ndim > 1)
        losses.append(outcome["loss"].item())
    assert losses[0] != losses[1], "the network ran in bfloat16"
    assert losses[1] == pytest.approx(losses[0], rel=0.08, abs=0.02)
