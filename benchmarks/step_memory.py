"""Memory and FLOPs of a pretraining step that is computed at once, with blocks computed again
(BACKBONE.CHECKPOINTING), and in parts (SOLVER.ACCUMULATE), of one process without a GPU.

The step runs on fake tensors: nothing is computed, so that it takes seconds at any size. Counted
are the bytes of all tensors that exist at a time, float32, without what a GPU's libraries add.

    python benchmarks/step_memory.py --config simclr_r50.yaml --images 64
"""

from __future__ import annotations

import argparse
import json
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pretrain.common.config import load_config
from pretrain.data.build import branches, view_sizes
from pretrain.defaults import get_defaults
from pretrain.engine.grad_cache import forward_backward_in_parts
from pretrain.methods.build import build_method
from pretrain.methods.shared_encoder import SharedEncoder

WAYS: dict[str, tuple[bool, int]] = {  # checkpointing, parts
    "at once": (False, 1),
    "checkpointing": (True, 1),
    "in 4 parts": (False, 4),
    "in 4 parts, checkpointing": (True, 4),
}


class LiveBytes(TorchDispatchMode):
    """The bytes of the storages that exist, and the most of them at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._drop, key, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def measured(cfg: CfgNode, images: int, checkpointing: bool, parts: int) -> dict[str, float]:
    """{"gib", "tflop"} of one step, each from a run of its own: the counter of FLOPs holds on to
    what a checkpointed network computes again."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.BACKBONE.CHECKPOINTING = checkpointing
    with FakeTensorMode(), LiveBytes() as live:
        _step(cfg, images, parts)
    with FakeTensorMode(), FlopCounterMode(display=False) as flops:
        _step(cfg, images, parts)
    return {"gib": live.most / 2**30, "tflop": flops.get_total_flops() / 1e12}


def _step(cfg: CfgNode, images: int, parts: int) -> None:
    method = build_method(cfg).train()
    assert isinstance(method, SharedEncoder)
    views = [torch.randn(images, 3, size, size) for size in view_sizes(cfg)]
    if parts == 1:
        method(views, branches(cfg))["loss"].backward()
    else:
        forward_backward_in_parts(
            method,
            method,
            views,
            branches(cfg),
            parts=parts,
            autocast=nullcontext,
            backward=lambda loss: loss.backward(),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="simclr_r50.yaml")
    parser.add_argument("--images", type=int, default=64, help="of one process (64)")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    cfg = load_config(args.config, get_defaults(), (), "pretrain")
    found = {way: measured(cfg, args.images, *options) for way, options in WAYS.items()}
    first = found["at once"]
    for values in found.values():
        values.update({f"{key} / at once": values[key] / first[key] for key in ("gib", "tflop")})
    text = json.dumps({"config": args.config, "images": args.images, "ways": found}, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
