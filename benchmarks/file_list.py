"""Memory that a forked loader process copies when it reads a list of files: a number of made-up
entries in, MiB of its private memory out, for `FileList` and for Python's own lists.

    python benchmarks/file_list.py --output benchmarks/results/file_list_2cores.json

Linux only: the numbers are those of /proc/self/smaps_rollup, before and after the process has read
every path and label once.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import pickle
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pretrain.common.checkpoint import atomic_write_text
from pretrain.common.environment import describe_environment, describe_hardware
from pretrain.data.file_list import FileList

CLASSES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_281_167, help="entries (those of ImageNet)")
    parser.add_argument("--output", type=Path, help="JSON file of the result")
    args = parser.parse_args()
    labels = [i * CLASSES // args.images for i in range(args.images)]
    paths = [f"/data/imagenet/train/n{10**7 + c}/n{c}_{i}.JPEG" for i, c in enumerate(labels)]
    found = {"lists of Python objects": measure(paths, labels)}
    packed = FileList.pack(paths, labels, [])
    del paths, labels
    gc.collect()
    found["FileList"] = measure(packed.paths, packed.labels)
    result = {
        "images": args.images,
        "parts": found,
        "hardware": describe_hardware(),
        "environment": describe_environment(),
    }
    print(json.dumps(found, indent=1))
    if args.output:
        atomic_write_text(args.output, json.dumps(result, indent=1) + "\n")


def measure(paths: Sequence[str], labels: Any) -> dict[str, float]:
    """What one forked process copies as it reads all entries, and what a spawned one is sent."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_read_all, args=(paths, labels, theirs))
    process.start()
    values: dict[str, float] = ours.recv()
    process.join()
    values["sent_to_a_spawned_process_mib"] = round(len(pickle.dumps((paths, labels))) / 2**20, 1)
    return values


def _read_all(paths: Sequence[str], labels: Any, result: Connection) -> None:
    before, start = _memory(), time.perf_counter()
    total = 0
    for index in range(len(paths)):
        total += len(paths[index]) + int(labels[index])
    seconds, after = time.perf_counter() - start, _memory()
    result.send(
        {
            "private_before_mib": before["Private_Dirty"],
            "private_after_mib": after["Private_Dirty"],
            "rss_after_mib": after["Rss"],
            "seconds": round(seconds, 2),
        }
    )


def _memory() -> dict[str, float]:
    """This process's memory in MiB, by the kernel's names."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    return {line.split(":")[0]: round(int(line.split()[1]) / 1024, 1) for line in lines}


if __name__ == "__main__":
    main()
