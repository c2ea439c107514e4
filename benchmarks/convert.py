#!/usr/bin/env python
"""Compares a conversion with its proof to a bare load and save: seconds and peak memory.

The input is a backbone. The output is JSON. Each repetition measures in turn `import` (python with
torch and torchvision), `copy` (import, load, save) and `convert` (tools/convert_weights.py); the
ratios are those within a repetition.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch

from pretrain.backbones.resnet import build_resnet
from pretrain.common.environment import describe_environment, describe_hardware

ROOT = Path(__file__).resolve().parents[1]
IMPORT = "import torch, torchvision"
COPY = IMPORT + "; torch.save(torch.load({0!r}, weights_only=True)['state_dict'], {1!r})"


def make_moco_v2(backbone: str, path: Path) -> None:
    """Writes a MoCo v2 file of random weights: both encoders, projectors and the queue."""
    state = dict(build_resnet(backbone).state_dict())
    width = [value for name, value in state.items() if name.endswith("running_var")][-1].numel()
    state |= {"fc.0.weight": torch.randn(width, width), "fc.0.bias": torch.zeros(width)}
    state |= {"fc.2.weight": torch.randn(128, width), "fc.2.bias": torch.zeros(128)}
    content = {f"module.encoder_q.{name}": value for name, value in state.items()}
    content |= {f"module.encoder_k.{name}": value.clone() for name, value in state.items()}
    queue = {"module.queue": torch.randn(128, 65536), "module.queue_ptr": torch.zeros(1).long()}
    torch.save({"epoch": 200, "arch": backbone, "state_dict": {**content, **queue}}, path)


def measure(command: Sequence[str]) -> dict[str, float]:
    """Runs one process; returns its seconds and peak MiB."""
    code = (
        "import resource, subprocess, sys, time; start = time.perf_counter()\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024\n"
        "print(time.perf_counter() - start, peak)"
    )
    words = [sys.executable, "-c", code, *command]
    done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=ROOT)
    seconds, peak = map(float, done.stdout.split())
    return {"seconds": round(seconds, 2), "peak_mib": round(peak, 1)}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the repetitions and prints or writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--output", help="a JSON file (if omitted, the result is printed)")
    args = parser.parse_args(argv)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        source, copied = Path(folder) / "moco.pth.tar", Path(folder) / "copy.pth"
        make_moco_v2(args.backbone, source)
        tool = str(ROOT / "tools" / "convert_weights.py")
        commands = {
            "import": [sys.executable, "-c", IMPORT],
            "copy": [sys.executable, "-c", COPY.format(str(source), str(copied))],
            "convert": [sys.executable, tool, str(source), str(Path(folder) / "out.pkl")],
        }
        file_mib = source.stat().st_size / 2**20
        for _ in range(args.repetitions):
            row = {name: measure(command) for name, command in commands.items()}
            own = row["convert"]["peak_mib"] - row["import"]["peak_mib"]
            row["seconds_over_copy"] = round(row["convert"]["seconds"] / row["copy"]["seconds"], 2)
            row["memory_over_file"] = round(own / file_mib, 2)
            rows.append(row)
    keys = ("seconds_over_copy", "memory_over_file")
    result = {
        "backbone": args.backbone,
        "file_mib": round(file_mib, 1),
        "medians": {key: median(row[key] for row in rows) for key in keys},
        "rows": rows,
        "hardware": describe_hardware(),
        "environment": describe_environment(),
        "finished": time.strftime("%Y-%m-%d"),
    }
    text = json.dumps(result, indent=1)
    if args.output:
        Path(args.output).write_text(text + "\n", encoding="utf-8")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
