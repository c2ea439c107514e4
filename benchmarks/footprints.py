#!/usr/bin/env python
"""What a training step of each shipped pretraining config needs of a GPU, in a table and in the
headers of the configs. `python -m benchmarks.footprints` computes both, some seconds per config.

Configs for CPU cores (*_demo.yaml, *_cpu.yaml) and configs that are only bases are left out.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pretrain.common.config import CHECKOUT, load_config
from pretrain.common.gpus import GPUS, WORKSPACE
from pretrain.defaults import get_defaults
from pretrain.engine.footprint import step_cost

CONFIGS = CHECKOUT / "configs" / "pretrain"
TABLE = Path(__file__).with_name("results") / "footprints.json"
# The GPU that has the least memory among those of a size, by the gigabytes that the makers state.
SIZES = {
    11: "rtx2080ti",
    16: "t4",
    24: "l4",
    32: "v100-32",
    40: "a100-40",
    48: "l40s",
    80: "a100-80",
    141: "h200",
}
# Numbers of processes (one per GPU) in the headers. With 8, mscn_convnext_tiny does not fit 80 GB.
PROCESSES = {"msn_vits16": 16, "mscn_convnext_tiny": 16}
LINE = re.compile(r"^# Hardware: \d+ GPUs? of \d+ GB \(.*\); hours not measured\.$", re.MULTILINE)
Entry = dict[str, float]  # processes, and gib and tflop of each process


def named_configs() -> dict[str, Path]:
    """Returns the configs that run on GPUs, by their path below configs/pretrain without suffix."""
    return {
        str(path.relative_to(CONFIGS).with_suffix("")): path
        for path in sorted(CONFIGS.rglob("*.yaml"))
        if not path.stem.endswith(("_demo", "_cpu")) and not path.stem.startswith("base_")
    }


def processes_of(name: str) -> int:
    """Returns 1 for small runs and runs on own data, otherwise 8 or the number in PROCESSES."""
    small = name.endswith("tiny100") or name.startswith("own_")
    return PROCESSES.get(name, 1 if small else 8)


def footprint(name: str) -> Entry:
    """Returns the entry of a config, computed."""
    processes = processes_of(name)
    cost = step_cost(load_config(str(named_configs()[name]), get_defaults()), processes)
    tflop = float(f"{cost.flops / 1e12:.4g}")
    return {"processes": processes, "gib": round(cost.peak_bytes / 2**30, 2), "tflop": tflop}


def hardware_line(entry: Entry) -> str:
    """Returns the line of a config's header."""
    need = entry["gib"] * (1 + WORKSPACE)
    size = next((size for size, name in SIZES.items() if need <= GPUS[name].gib), None)
    if size is None:
        raise ValueError(f"no GPU has {need:.1f} GiB: raise the number of processes")
    cost = f"{entry['gib']:.3g} GiB and {entry['tflop']:.3g} TFLOP a step"
    gpus = "1 GPU" if entry["processes"] == 1 else f"{entry['processes']:.0f} GPUs"
    each = "" if entry["processes"] == 1 else " on each"
    return f"# Hardware: {gpus} of {size} GB ({cost}{each}); hours not measured."


def main(names: Sequence[str]) -> None:
    """Computes the entries of the given configs (all, if none is given) and rewrites the lines."""
    paths = named_configs()
    table = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {}
    for name in names or paths:
        begin = time.perf_counter()
        table[name] = footprint(name)
        print(f"{name}: {table[name]} ({time.perf_counter() - begin:.1f} s)", flush=True)
    kept = {name: table[name] for name in paths if name in table}
    TABLE.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    for name, entry in kept.items():
        text, line = paths[name].read_text(encoding="utf-8"), hardware_line(entry)
        changed, count = LINE.subn(line, text, count=1)
        if count == 0:
            print(f"the header of {paths[name]} lacks a line like: {line}", file=sys.stderr)
        elif changed != text:
            paths[name].write_text(changed, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
