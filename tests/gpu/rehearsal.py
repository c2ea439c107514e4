"""Whole pretraining steps on pretended CUDA, measured; the numbers are kept in `recorded.json`.

    python -m tests.gpu.rehearsal            # measures every case and prints what changed
    python -m tests.gpu.rehearsal --record   # and stores the new numbers
    python -m tests.gpu.rehearsal mscn_r50@8 # cases of your choice, with the places

A case is a recipe and a number of processes, `CONFIG@W`. Of W processes one is run, the last, in a
process group that sends nothing (torch's "fake" backend). Images have the recipe's true size, and
a process has the images that it has when the recipe's global batch is shared by 8. The method is
not wrapped in DistributedDataParallel, whose constructor and backward pass need answers from other
processes: its all-reduce of the gradients, one a step and bucket, is not among the collectives.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import subprocess
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from fvcore.common.config import CfgNode

from pretrain.common.precision import amp_dtype
from pretrain.data.build import branches, build_view_maker, view_sizes
from pretrain.data.loader import Batch
from pretrain.engine import loop
from pretrain.engine.checks import load_checked
from pretrain.engine.nonfinite_guard import StepGuard
from pretrain.engine.run import build_solver, convert_norms
from pretrain.methods.build import build_method
from tests.gpu.pretend_cuda import CUDA, ROOT, PretendCuda
from tests.gpu.runtime import build

RECORDED = Path(__file__).with_name("recorded.json")
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
EXACT = ("views_synchronisations", "synchronisations", "large_pageable_copies", "collectives")
NEAR = ("host_to_device_copies", "view_kernels", "kernels", "peak_mib", "gflop")
TOLERANCE = 0.02  # of the numbers that are only near


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
            views = (sum(cuda.synchronisations.values()), sum(cuda.kernels.values()))
            outcome = loop.forward_backward(training, given)
            taken = loop.finish_step(training, outcome)
            assert taken and training.step == step + 1
        return {
            "images": images,
            "views_synchronisations": views[0],
            "synchronisations": sum(cuda.synchronisations.values()),
            "large_pageable_copies": sum(cuda.large_pageable.values()),
            "collectives": dict(sorted(cuda.collectives.items())),
            "host_to_device_copies": sum(cuda.copies.values()),
            "view_kernels": views[1],
            "kernels": sum(cuda.kernels.values()),
            "model_mib": round(model / 2**20, 1),
            "peak_mib": round(cuda.peak / 2**20, 1),
            "gflop": round(cuda.flops / 1e9, 2),
            "dtypes": dict(sorted(cuda.convolutions.items())),
            "places": dict(cuda.synchronisations + cuda.large_pageable),
        }


@contextlib.contextmanager
def process_group(world: int) -> Iterator[None]:
    """The last of `world` processes of a group in which nothing is sent; none for one process."""
    if world == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=world - 1, world_size=world, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


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


def measured(cases: Sequence[str], capability: int = 80) -> dict[str, dict[str, Any]]:
    """The numbers of each case, from one process over the no-op CUDA runtime, on a GPU of this
    compute capability times ten; a case that failed has one entry, `error`."""
    command = [sys.executable, "-m", "tests.gpu.rehearsal", "--as-json", *cases]
    environment = build.environment(capability=capability)
    done = subprocess.run(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def differences(now: dict[str, Any], recorded: dict[str, Any]) -> list[str]:
    """What is not as recorded, in sentences; for synchronisations with file and line of each place
    whose function has more of them than it had."""
    found = [
        f"{key} is {now[key]}, recorded {recorded[key]}"
        for key in (*EXACT, *NEAR)
        if now[key] != recorded[key]
        and (key in EXACT or abs(now[key] - recorded[key]) > TOLERANCE * recorded[key])
    ]
    before = Counter(recorded["places"])
    seen: Counter[str] = Counter()
    for spot, number in now["places"].items():
        function = without_lines(spot)
        seen[function] += number
        if seen[function] > before[function]:
            found.append(f"new: {number} x {spot}")
    return found


def without_lines(spot: str) -> str:
    """A place by the innermost file and function, and why it waits: stable when lines move."""
    why, _, calls = spot.partition(", ")
    innermost = calls.split(" < ")[0]
    return re.sub(r"\d+ bytes", "bytes", why) + ", " + re.sub(r":\d+", "", innermost)


def for_the_record(numbers: dict[str, Any]) -> dict[str, Any]:
    """The numbers as they are stored."""
    places: Counter[str] = Counter()
    for spot, number in numbers["places"].items():
        places[without_lines(spot)] += number
    return {**numbers, "places": dict(sorted(places.items()))}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("cases", nargs="*", help="CONFIG@PROCESSES; all of them by default")
    parser.add_argument("--record", action="store_true", help="store the numbers")
    parser.add_argument("--as-json", action="store_true", help="measure in this process")
    args = parser.parse_args()
    if args.as_json:
        print(json.dumps({case: _safely_measured(case) for case in args.cases}))
        return
    if reason := build.missing():
        sys.exit(reason)
    recorded = json.loads(RECORDED.read_text()) if RECORDED.is_file() else {}
    numbers = measured(args.cases or CASES)
    for case, now in numbers.items():
        changed = differences(now, recorded[case]) if case in recorded else ["new"]
        print(case, *changed if "error" not in now else [now["error"]], sep="\n  ")
        if args.cases and "error" not in now:
            print(json.dumps(now, indent=1))
    if args.record:
        assert not any("error" in now for now in numbers.values()), "a case failed: not stored"
        recorded.update({case: for_the_record(now) for case, now in numbers.items()})
        kept = {case: recorded[case] for case in CASES if case in recorded}
        RECORDED.write_text(json.dumps(kept, indent=1) + "\n")


def _safely_measured(case: str) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    import torch.fx.experimental._config as shapes

    shapes.meta_nonzero_assume_all_nonzero = True  # so that a mask is counted, not refused
    try:
        return measure(case)
    except Exception as error:
        calls = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if ".venv" not in frame.filename
        ]
        path = [f"{frame.filename.removeprefix(f'{ROOT}/')}:{frame.lineno}" for frame in calls]
        return {"error": f"{type(error).__name__}: {error}; called by {' > '.join(path)}"}


if __name__ == "__main__":
    main()
