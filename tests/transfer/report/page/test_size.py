"""Ten checkpoints under eight protocols, with every artifact: one file below 5 MB, in seconds."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from transfer.report.run import write_report

TASKS = {  # by protocol: task, metrics, number of classes
    "knn_imagenet": ("knn", ["knn10_top1", "knn20_top1", "knn200_top1"], 1000),
    "linear_imagenet": ("linear", ["top1", "top5"], 1000),
    "linear_inat18": ("linear", ["top1", "top5"], 2000),
    "linear_places205": ("linear", ["top1", "top5"], 205),
    "svm_voc07": ("svm", ["mAP"], 20),
    "voc_mscn": ("detection", ["bbox/AP", "bbox/AP50", "bbox/AP75"], 20),
    "voc_mscn_10pct": ("detection", ["bbox/AP", "bbox/AP50", "bbox/AP75"], 20),
    "coco_mscn": (
        "detection",
        [f"{kind}/{m}" for kind in ("bbox", "segm") for m in "AP AP50 AP75 APs APm APl".split()],
        80,
    ),
}


@pytest.fixture
def pictures() -> dict[str, bytes]:
    """Returns contents by file name, as hard to compress as photographs are: blurred noise."""
    pixels = np.random.default_rng(0).integers(0, 255, (768, 1152, 3), dtype=np.uint8)
    photo = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1.5))
    kernels = Image.fromarray(pixels[: 29 * 8, : 29 * 8])
    found = {}
    for name, image in (
        ("views.jpg", photo.crop((0, 0, 600, 200))),
        ("kernels.png", kernels),
        ("gallery.jpg", photo),
    ):
        stream = io.BytesIO()
        image.save(stream, "PNG" if name.endswith("png") else "JPEG", quality=75)
        found[name] = stream.getvalue()
    return found


def _write_artifacts(path: Path, task: str, pictures: dict[str, bytes]) -> None:
    """What a run stores next to its record."""
    generator, folder = np.random.default_rng(len(str(path))), path.parent
    record = json.loads(path.read_text())
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
    record["artifacts"].update(views="views.jpg", kernels="kernels.png")
    names = "loss total_loss loss_cls loss_box_reg loss_rpn_cls knn20_top1".split()
    rows = [{"step": i, **dict(zip(names, generator.random(6)))} for i in range(300)]
    files = {"pretrain_curves": rows, "curves": rows if task in ("linear", "detection") else []}
    if task == "detection":
        curve = np.sort(generator.random(101))[::-1].round(4).tolist()
        recall = np.linspace(0, 1, 101).round(2).tolist()
        mean = {f"bbox/{name}": curve for name in ("AP", "AP50", "AP75")}
        files["pr_curves"] = {"recall": recall, "mean": mean}
        record["artifacts"]["gallery_sheet"] = "gallery.jpg"
        files["gallery"] = {"classes": ["class"], "images": []}
        for i in range(24):
            boxes = generator.integers(0, 200, (14, 4)).tolist()
            boxes = [[x, y, x + w + 9, y + h + 9] for x, y, w, h in boxes]
            files["gallery"]["images"].append(
                {
                    **{"id": 580000 + i, "width": 640, "height": 480},
                    "cell": [i % 6 * 192, i // 6 * 192, 192, 144],
                    "truth": [[*box, 0, 1] for box in boxes[:7]],
                    "found": [[*box, 0.9, 0] for box in boxes[7:]],
                }
            )
    elif task != "svm":
        shares = np.sort(generator.random(96))[::-1]
        files["spectrum"] = {"singular_values": shares.tolist()}
    for kind, content in files.items():
        (folder / f"{kind}.json").write_text(json.dumps(content))
        record["artifacts"][kind] = f"{kind}.json"
    path.write_text(json.dumps(record))


def test_five_megabytes(
    tmp_path: Path, write_run: Callable[..., Path], pictures: dict[str, bytes]
) -> None:
    generator = np.random.default_rng(0)
    for number in range(10):
        name = f"method{number}_r50_200ep" if number else "random"
        for protocol, (task, metrics, count) in TASKS.items():
            values = {
                metric: float(value) for metric, value in zip(metrics, generator.random(12) * 90)
            }
            numbers = generator.uniform(0, 100, count).round(2).tolist()
            classes = {metrics[0]: {f"class number {i}": n for i, n in enumerate(numbers)}}
            options = {"protocol": protocol, "method": "simclr" if number else "random"}
            path = write_run(name, task, values, per_class=classes, pictures=False, **options)
            _write_artifacts(path, task, pictures)
    start = time.process_time()
    written = write_report([tmp_path], tmp_path / "out")
    seconds = time.process_time() - start
    size = written.page.stat().st_size
    assert 2e6 < size < 5e6, f"{size / 1e6:.1f} MB"
    assert seconds < 30  # of this process; a few where the machine is quick
    assert not [note for note in written.notes if "left out" in note or "not found" in note]
    assert written.page.read_text().count("data:image") == 10 + 10 + 3  # views, kernels, sheets
