"""COCO at its true size: seconds and memory from the start of detection to its first batch.

    python benchmarks/coco_start.py --output benchmarks/results/coco_start_2cores.json
    python benchmarks/coco_start.py --sizes 1 --before FOLDER_OF_ANOTHER_CHECKOUT

The input is a made-up data set with as many images (118,287) and objects (860,001) as COCO's
train2017, and with polygons of as many points. The outputs are seconds of processor time and the
peak memory in MiB. Every row runs in a separate process, which gives its peak. `--sizes` repeats
the measurement for parts of the set: it shows how the cost grows. The image files are one
photograph, hard-linked under each image's name, and only the first batch is decoded. The first
start finds an empty cache folder, the second one finds what the first has kept there. Then two
processes start together, with a full and with an empty cache. With `--before`, the code of that
checkout is started first and last.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.images import write_linked
from benchmarks.result_file import write_result

IMAGES, OBJECTS, CLASSES = 118_287, 860_001, 80
WIDTH, HEIGHT = 640, 480  # px
POINTS = 24  # mean number of points of a polygon: the file is then as large as COCO's, 450 MB
SHAPES = 4096  # different polygons


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.1, 1.0], help="parts of COCO")
    parser.add_argument(
        "--folder", type=Path, help="folder that keeps the data (default: a temporary folder)"
    )
    parser.add_argument("--before", type=Path, help="another checkout, measured in turn")
    parser.add_argument("--output", type=Path, help="JSON file of the result")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        for size in args.sizes:
            counts = {"images": int(IMAGES * size), "objects": int(OBJECTS * size)}
            place = make_coco(folder / f"coco_{size:g}", *counts.values())
            for found in starts(place, args.before):
                rows.append(counts | found)
                print(json.dumps(rows[-1]), flush=True)
    if args.output:
        write_result(args.output, {"rows": rows})


def starts(place: Path, before: Path | None) -> Iterator[dict[str, Any]]:
    """Yields a row for each start, in the order of the module's docstring."""
    if before is not None:
        yield {"start": "before"} | _of_another_checkout(before, place)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["MSCN_CACHE"] = cache  # for the processes that are started from here on
        for name in ("first", "second"):
            yield {"start": name} | measured(start, place)
        yield from _two("two, full cache", place)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["MSCN_CACHE"] = cache
        yield from _two("two, empty cache", place)
    if before is not None:
        yield {"start": "before"} | _of_another_checkout(before, place)


def _two(name: str, place: Path) -> Iterator[dict[str, Any]]:
    barrier = multiprocessing.get_context("spawn").Barrier(2)
    with ThreadPoolExecutor(2) as threads:
        for found in threads.map(lambda _: measured(start, place, barrier), range(2)):
            yield {"start": name} | found


def _of_another_checkout(checkout: Path, place: Path) -> dict[str, Any]:
    code = (
        "import json, sys, pathlib; from benchmarks.coco_start import measured, start; "
        "print(json.dumps(measured(start, pathlib.Path(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", code, str(place.resolve())]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    text = subprocess.run(
        command, cwd=checkout, env=environment, check=True, capture_output=True, text=True
    ).stdout
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found


def make_coco(folder: Path, images: int, objects: int) -> Path:
    """Writes annotations and linked image files if the folder lacks them; returns the folder."""
    path, photos = folder / "annotations" / "instances_train.json", folder / "train"
    if path.is_file():
        return folder
    path.parent.mkdir(parents=True)
    photos.mkdir()
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))
    content = io.BytesIO()
    picture.save(content, "JPEG")
    paths = (photos / f"{number:012d}.jpg" for number in range(1, images + 1))
    write_linked(paths, content.getvalue())
    shapes = [_shape(rng) for _ in range(SHAPES)]
    owners, kinds = rng.integers(1, images + 1, objects), rng.integers(0, SHAPES, objects)
    classes = rng.integers(1, CLASSES + 1, objects)
    records = (
        f'{{"segmentation": {shapes[kind]}, "image_id": {image}, "category_id": {category}, '
        f'"id": {number}}}'
        for number, (image, kind, category) in enumerate(zip(owners, kinds, classes), start=1)
    )
    listed = [
        {"id": i, "file_name": f"{i:012d}.jpg", "height": HEIGHT, "width": WIDTH, "license": 3}
        for i in range(1, images + 1)
    ]
    names = [{"id": i, "name": f"class{i}"} for i in range(1, CLASSES + 1)]
    with path.open("w") as file:
        file.write(f'{{"info": {{}}, "licenses": [], "images": {json.dumps(listed)}, ')
        file.write('"annotations": [')
        file.write(next(records))
        file.writelines(f", {record}" for record in records)
        file.write(f'], "categories": {json.dumps(names)}}}')
    return folder


def _shape(rng: np.random.Generator) -> str:
    """Returns the keys of an object that depend on its polygon, star-shaped around its centre."""
    count = int(rng.integers(POINTS // 2, POINTS * 3 // 2))
    centre, radius = rng.uniform([80, 80], [WIDTH - 80, HEIGHT - 80]), rng.uniform(5, 75)
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    lengths = rng.uniform(0.5, 1, count) * radius
    points = centre + lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    points = points.round(2)
    (left, top), (right, low) = points.min(0), points.max(0)
    box = [round(float(v), 2) for v in (left, top, right - left, low - top)]
    area = round(box[2] * box[3] / 2, 4)
    return f'[{json.dumps(points.ravel().tolist())}], "area": {area}, "iscrowd": 0, "bbox": {box}'


def measured(function: Callable[..., dict[str, Any]], *args: object) -> dict[str, Any]:
    """Returns the result of `function` in a new process, with the memory that it used there."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(theirs, function, *args))
    process.start()
    theirs.close()  # otherwise we would wait for a process that failed
    found: dict[str, Any] = ours.recv()
    process.join()
    return found


def _run(result: Connection, function: Callable[..., dict[str, Any]], *args: object) -> None:
    result.send(function(*args))


def start(folder: Path, together: Barrier | None = None) -> dict[str, Any]:
    """Opens the set as training does, with all checks but the images' sizes, and reads a batch.

    Args:
        together: for processes that begin at the same time, and keep the set until all have it.
    """
    from pretrain.common.distributed import seed_everything
    from transfer.datasets.checks_before_training import check_masks, check_trainable, describe
    from transfer.datasets.registry import open_sets
    from transfer.detection.config import load_detection_config
    from transfer.detection.torchvision_engine.engine import training_batches

    seed_everything(0)
    imported, imported_share = peak_mib(), share_mib()
    if together is not None:
        together.wait()
    cfg = load_detection_config("coco_mscn_fpn_1x.yaml", ["DATALOADER.NUM_WORKERS", "0"])
    begin, wall = time.process_time(), time.perf_counter()
    data = open_sets([f"coco:{folder}:train"])
    read = time.process_time() - begin
    check_trainable(data)
    check_masks(data, "annotate them")
    data.has_run_lengths()
    describe(data, "training")
    checked = time.process_time() - begin - read
    batches = training_batches(cfg, data)
    next(batches)
    found = {
        "cpu_s": round(time.process_time() - begin, 2),
        "cpu_s_reading": round(read, 2),
        "cpu_s_checks": round(checked, 2),
        "wall_s": round(time.perf_counter() - wall, 2),
        "peak_mib": peak_mib(),
        "peak_mib_after_imports": imported,
        "share_mib_after_imports": imported_share,
    }
    if together is not None:
        together.wait()
    found["share_mib"] = share_mib()
    if together is not None:
        together.wait()
    return found


def peak_mib() -> int:
    """Returns the largest memory that this process has used, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def share_mib() -> int:
    """Returns this process's memory in MiB, pages that n processes map counted as 1 / n (Linux's
    PSS).
    """
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("Pss:"))
    return int(line.split()[1]) // 1024


if __name__ == "__main__":
    main()
