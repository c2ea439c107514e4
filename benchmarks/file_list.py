"""ImageNet at its true size: seconds from the start of pretraining to its first batch, and the
private memory of a loader process.

    python benchmarks/file_list.py --output benchmarks/results/file_list_2cores.json
    python benchmarks/file_list.py --starts 10000 100000 1281167 --output FILE

Without `--starts`, it takes a number of made-up entries and gives the MiB of a forked process's
private memory, for `FileList` and for Python's own lists. With it, it makes folders of that many
image files, in 1,000 class folders, and starts on each of them in a separate process. The files are
one photograph, hard-linked under each name, and are deleted afterwards.

Linux only: the memory is that of /proc/self/smaps_rollup, before and after the process has read
every path and label once.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import pickle
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.coco_start import measured, peak_mib
from benchmarks.images import write_linked, write_photos
from benchmarks.result_file import write_result
from pretrain.data.file_list import FileList

CLASSES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_281_167, help="entries (those of ImageNet)")
    parser.add_argument(
        "--starts", type=int, nargs="+", help="measure starts on folders of these numbers of files"
    )
    parser.add_argument("--output", type=Path, help="JSON file of the result")
    args = parser.parse_args()
    parts = starts(args.starts) if args.starts else copies(args.images)
    result = {"rows": parts} if args.starts else {"images": args.images, "parts": parts}
    if args.output:
        write_result(args.output, result)


def copies(images: int) -> dict[str, dict[str, float]]:
    """Returns the memory that a process copies of made-up entries, for both kinds of list."""
    labels = [i * CLASSES // images for i in range(images)]
    paths = [f"/data/imagenet/train/n{10**7 + c}/n{c}_{i}.JPEG" for i, c in enumerate(labels)]
    found = {"lists of Python objects": measure(paths, labels)}
    packed = FileList.pack(paths, labels, [])
    del paths, labels
    gc.collect()
    found["FileList"] = measure(packed.paths, packed.labels)
    print(json.dumps(found, indent=1))
    return found


def starts(sizes: Sequence[int]) -> list[dict[str, Any]]:
    """A start on a folder of each size."""
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="bench_") as temporary:
            make_folder(Path(temporary) / "train", size)
            rows.append({"images": size} | measured(start, Path(temporary)))
            print(json.dumps(rows[-1]))
    return rows


def make_folder(folder: Path, images: int) -> None:
    """Writes the class folders: one photograph of ImageNet's size under all names."""
    classes = [folder / f"n{10**7 + number}" for number in range(CLASSES)]
    for place in classes:
        place.mkdir(parents=True)
    write_photos(folder.parent / "photo", 1)
    (photo,) = (folder.parent / "photo").rglob("*.jpg")
    places = (classes[number * CLASSES // images] for number in range(images))
    names = (place / f"{place.name}_{number}.JPEG" for number, place in enumerate(places))
    write_linked(names, photo.read_bytes())


def start(folder: Path) -> dict[str, Any]:
    """Opens and checks the folder as pretraining does, and reads a batch of 64 images."""
    from pretrain.common.config import load_config
    from pretrain.data.build import build_loader
    from pretrain.defaults import get_defaults
    from pretrain.engine.run import check_inputs

    data = ["DATASETS.TRAIN", f"folder:{folder}:train", "DATALOADER.NUM_WORKERS", "0"]
    cfg = load_config(
        "simclr_r50.yaml", get_defaults(), [*data, "SOLVER.BATCH_SIZE", "64"], "pretrain"
    )
    imported, begin, wall = peak_mib(), time.process_time(), time.perf_counter()
    images = check_inputs(cfg).train
    listed = time.process_time() - begin
    next(iter(build_loader(cfg, images).steps(0, 1)))
    found = {
        "cpu_s": round(time.process_time() - begin, 2),
        "cpu_s_listing_and_checks": round(listed, 2),
        "wall_s": round(time.perf_counter() - wall, 2),
        "peak_mib": peak_mib(),
        "peak_mib_after_imports": imported,
    }
    owned = measure(images.files(), images.labels)
    return found | {f"worker_{name}": value for name, value in owned.items()}


def measure(paths: Sequence[str], labels: Any) -> dict[str, float]:
    """Returns the memory that a forked process copies when it reads all entries, and the bytes that
    are sent to a spawned one.
    """
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
    """Returns this process's memory in MiB, by the kernel's names."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    return {line.split(":")[0]: round(int(line.split()[1]) / 1024, 1) for line in lines}


if __name__ == "__main__":
    main()
