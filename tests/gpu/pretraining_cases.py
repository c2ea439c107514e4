"""The complete step of every pretraining recipe as cases of the rehearsal, `CONFIG@W`.

Images have the recipe's true size, and a process has as many images as one of 8 processes that
share the recipe's global batch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode

from pretrain.common.precision import amp_dtype
from pretrain.data.build import branches, build_view_maker, view_sizes
from pretrain.data.loader import Batch
from pretrain.engine import loop
from pretrain.engine.checks import load_checked
from pretrain.engine.nonfinite_guard import StepGuard
from pretrain.engine.run import build_solver, convert_norms
from pretrain.methods.build import build_method
from tests.gpu.counting import counted, process_group
from tests.gpu.pretend_cuda import CUDA, ROOT, PretendCuda

PROCESSES = 8  # that share a recipe's global batch
RECIPES = sorted(
    path.stem
    for path in (ROOT / "configs" / "pretrain").glob("*.yaml")
    # Those are the same networks on smaller images, or on other data, or for longer.
    if not re.search("tiny100|demo|own_|800ep|base_", path.stem)
)
# On several processes, MSCN on another method's loss does what that method and MSCN itself do.
SHARED = [
    recipe for recipe in RECIPES if recipe == "mscn_r50" or not re.match("mscn_.*_r50", recipe)
]
CASES = [f"{name}@1" for name in RECIPES] + [f"{name}@{PROCESSES}" for name in SHARED]
CASES += ["mscn_r50@64"]


class TenSteps:
    """In place of a loader: only the length of an epoch is asked for."""

    steps_per_epoch = 10

    def steps(self, first: int, end: int) -> Iterator[Batch]:
        """No batches: the rehearsal gives them."""
        return iter(())


def measure(case: str, values: bool = False, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The numbers of the second step of a case, when the optimizer has its state; `places` are its
    synchronisations by file and line."""
    name, world = case.split("@")
    with process_group(int(world)), PretendCuda(values) as cuda:
        images = load_checked(f"{name}.yaml", list(overrides), 1).SOLVER.BATCH_SIZE // PROCESSES
        batch = ["SOLVER.BATCH_SIZE", str(images * int(world))]
        cfg = load_checked(f"{name}.yaml", [*overrides, *batch], int(world))
        training = pretended_training(cfg)
        model = cuda.live
        for step in range(2):
            batch_of_crops = crops(cfg, images)
            cuda.reset()
            given = loop.prepare(training, batch_of_crops, step)
            of_views = {
                "views_synchronisations": sum(cuda.synchronisations.values()),
                "view_kernels": sum(cuda.kernels.values()),
                "view_gb": round(cuda.moved / 1e9, 2),
            }
            outcome = loop.forward_backward(training, given)
            taken = loop.finish_step(training, outcome)
            assert taken and training.step == step + 1
        return counted(cuda, images, model, of_views)


def pretended_training(cfg: CfgNode) -> loop.Training:
    """What `pretrain.engine.run.build_training` builds, without data and without DDP."""
    torch.manual_seed(cfg.SEED)
    method = build_method(cfg, num_classes=1000)
    method = method.to(CUDA).to(memory_format=torch.channels_last)
    convert_norms(cfg, method, CUDA)
    return loop.Training(
        method=method,
        model=method,
        optimizer=build_solver(cfg, method),
        lr_at=lambda step: 0.1,
        loader=TenSteps(),
        make_views=build_view_maker(cfg),
        branches=branches(cfg),
        guard=StepGuard(method, 0),
        device=CUDA,
        total_steps=10,
        batch_size=cfg.SOLVER.BATCH_SIZE,
        amp=amp_dtype(CUDA) if cfg.SOLVER.BF16 else None,
        clip_norm=cfg.SOLVER.CLIP_NORM,
    )


def crops(cfg: CfgNode, images: int) -> Batch:
    """A batch as the loader gives it: pinned, channels last in memory."""
    made = [
        torch.zeros(images, size, size, 3, dtype=torch.uint8, pin_memory=True).permute(0, 3, 1, 2)
        for size in view_sizes(cfg)
    ]
    labels = torch.zeros(images, dtype=torch.long, pin_memory=True)
    return Batch(made, labels, torch.arange(images).pin_memory())
