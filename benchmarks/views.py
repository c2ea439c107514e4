"""Processor time of making the views from uint8 crops in memory on a CPU, in milliseconds per
image, compared with another checkout. One run measures both in turn, each in a separate process,
and compares their views.

    OMP_NUM_THREADS=1 python benchmarks/views.py --before FOLDER --output FILE
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.timing import ratio, spread

# By config: the number of images of a batch
CASES = {"mscn_r50": 64, "simclr_r50": 64, "mscn_r50_tiny100": 256}
HERE = Path(__file__).resolve().parents[1]


def measure(config: str, batch: int, repetitions: int) -> dict[str, Any]:
    """In the imported checkout: milliseconds per image of each repetition, and a digest of the
    views of the first repetition."""
    import torch
    import torch.nn.functional as F

    from pretrain.data.build import build_view_maker, view_sizes
    from pretrain.engine.checks import load_checked
    from pretrain.engine.loop import step_generator

    torch.set_num_threads(1)
    cfg = load_checked(f"{config}.yaml", ["SOLVER.BATCH_SIZE", str(batch)], 1)
    maker, draws = build_view_maker(cfg), torch.Generator().manual_seed(0)
    crops = []
    for size in view_sizes(cfg):  # smooth colours with a little noise
        coarse = torch.rand(batch, 3, size // 16, size // 16, generator=draws) * 240
        pixels = F.interpolate(coarse, (size, size), mode="bilinear")
        pixels += torch.rand(pixels.shape, generator=draws) * 15
        crops.append(pixels.byte().contiguous(memory_format=torch.channels_last))
    digest = hashlib.sha256()
    for view in maker(crops, step_generator(0, 0)):
        digest.update(view.numpy().tobytes())
    times = []
    for repetition in range(repetitions):
        start = time.process_time()
        maker(crops, step_generator(0, repetition))
        times.append((time.process_time() - start) * 1000 / batch)
    return {"cpu_ms": times, "views": digest.hexdigest()}


def in_checkout(folder: Path, config: str, batch: int) -> dict[str, Any]:
    """Runs `measure` with two repetitions and the packages of a checkout."""
    code = (
        "import runpy, json, sys;"
        f"found = runpy.run_path({str(Path(__file__).resolve())!r})['measure'];"
        f"print(json.dumps(found({config!r}, {batch}, 2)))"
    )
    # This file imports `benchmarks` from the last place: the packages are those of the checkout.
    places = os.pathsep.join([str(folder), str(HERE)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": places},
        cwd=folder,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run(before: Path, rounds: int) -> dict[str, Any]:
    """Returns the result as one dict of builtins."""
    from pretrain.common.environment import describe_environment, describe_hardware

    rows: dict[str, Any] = {}
    for config, batch in CASES.items():
        times: dict[str, list[float]] = {"before": [], "now": []}
        views: set[str] = set()
        for number in range(rounds):
            folders = [("before", before), ("now", HERE)]
            for name, folder in folders if number % 2 == 0 else reversed(folders):
                found = in_checkout(folder, config, batch)
                times[name].append(min(found["cpu_ms"]))
                views.add(found["views"])
        rows[config] = {
            "batch": batch,
            "cpu_ms_per_image": {name: spread(values) for name, values in times.items()},
            "now / before": ratio(times["now"], times["before"]),
            "views_equal": len(views) == 1,
        }
    return {
        "rounds": rounds,
        "configs": rows,
        "hardware": describe_hardware(),
        "environment": describe_environment(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, required=True, help="checkout to compare with")
    parser.add_argument("--rounds", type=int, default=4, help="processes of each checkout (4)")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    text = json.dumps(run(args.before.resolve(), args.rounds), indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
