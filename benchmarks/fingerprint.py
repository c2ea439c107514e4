"""The cost of the fingerprint of data, relative to listing or reading that data.

    python benchmarks/fingerprint.py --folder /dev/shm --output FILE.json

The inputs are two made-up data sets: empty files in class folders, as many as ImageNet has, and
COCO at its true size (`coco_start.py`). The outputs are seconds of processor time and their ratios.
The folder's entries are in memory; on a network file system, each file's size needs a request.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.coco_start import IMAGES, OBJECTS, make_coco
from benchmarks.result_file import write_result
from pretrain.data.datasets import open_images
from transfer.datasets.registry import open_sets

FILES, CLASSES = 1_281_167, 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, default=1.0, help="share of both sets to use (1)")
    parser.add_argument("--folder", type=Path, help="folder for the data (a temporary folder)")
    parser.add_argument("--output", type=Path, help="JSON file of the result")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        rows = [_folder(Path(temporary), args.size), _coco(Path(temporary), args.size)]
    for row in rows:
        print(json.dumps(row))
    if args.output:
        write_result(args.output, {"rows": rows})


def _folder(root: Path, size: float) -> dict[str, Any]:
    each = round(FILES * size / CLASSES)
    for number in range(CLASSES):
        folder = root / "folder" / f"n{number:08d}"
        folder.mkdir(parents=True)
        for image in range(each):
            (folder / f"n{number:08d}_{image}.JPEG").touch()
    images, listed = _timed(lambda: open_images(f"folder:{root / 'folder'}"))
    _, found = _timed(lambda: images.fingerprint)
    _, every = _timed(lambda: images.origin.stamps(np.arange(len(images))))
    return {
        "data": "class folders",
        "images": len(images),
        "listing_s": listed,
        "fingerprint_s": found,
        "sizes_of_all_the_others_s": every,
        "fingerprint_of_listing": round(found / listed, 2),
    }


def _coco(root: Path, size: float) -> dict[str, Any]:
    folder = make_coco(root / "coco", int(IMAGES * size), int(OBJECTS * size))
    data, read = _timed(lambda: open_sets([f"coco:{folder}:train"]))
    _, found = _timed(lambda: data.fingerprint)
    return {
        "data": "COCO",
        "images": len(data),
        "objects": len(data.objects.image),
        "reading_s": read,
        "fingerprint_s": found,
        "fingerprint_of_reading": round(found / read, 2),
    }


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Returns the result of `work`, and its seconds of processor time."""
    begin = time.process_time()
    found = work()
    return found, round(time.process_time() - begin, 2)


if __name__ == "__main__":
    main()
