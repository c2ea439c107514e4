"""Synthetic records with known numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from transfer.results.record import SCHEMA, write_record
from transfer.results.replicates import Replicates

Writer = Callable[..., Path]


@pytest.fixture
def write_run(tmp_path: Path) -> Writer:
    """Returns write_run(name, task, metrics, trial=0, ...): it writes a record below tmp_path/runs.

    It returns the record's path. scores: (n,) of the test images, whose mean is then each metric;
    config: kept as an artifact; checkpoint: changes of the record's field of that name;
    protocol_facts: all of the field "protocol".
    """
    return make_writer(tmp_path / "runs")


def make_writer(root: Path) -> Writer:
    """The same for any folder."""

    def write(
        name: str,
        task: str,
        metrics: dict[str, float],
        trial: int = 0,
        protocol: str | None = None,
        method: str = "simclr",
        pictures: bool = True,
        scores: np.ndarray | None = None,
        config: dict[str, object] | None = None,
        checkpoint: dict[str, object] | None = None,
        protocol_facts: dict[str, object] | None = None,
        **changes: object,
    ) -> Path:
        folder = root / task / (protocol or task) / name / f"trial_{trial}"
        folder.mkdir(parents=True)
        artifacts = {}
        if pictures:
            number = int(hashlib.sha256(name.encode()).hexdigest()[:2], 16)
            artifacts = {"kernels": "kernels.png", "views": "views.png", "curves": "curves.json"}
            artifacts["pretrain_curves"] = "pretrain_curves.json"
            Image.new("RGB", (64, 64), (number, 90, 120)).save(folder / "kernels.png")
            Image.new("RGB", (500, 200), (number, 120, 60)).save(folder / "views.png")
            rows = [{"step": i, "loss": 4 / (i + 1) + number / 300, "lr": 0.1} for i in range(30)]
            for kind in ("curves", "pretrain_curves"):
                (folder / f"{kind}.json").write_text(json.dumps(rows))
        if scores is not None:  # of test images: every metric is their mean, and has replicates
            metrics = {metric: float(scores.mean()) for metric in metrics}
            drawn = Replicates.draw([f"{i:04d}" for i in range(len(scores))])
            drawn.add({metric: scores @ drawn.weights / len(scores) for metric in metrics})
            artifacts["replicates"] = drawn.write(folder).name
        if config is not None:
            (folder / "config.yaml").write_text(yaml.safe_dump(config))
            artifacts["config"] = "config.yaml"
        if task == "detection":
            artifacts["detections"] = "detections.png"
            Image.new("RGB", (640, 320), (30, 90, 140)).save(folder / "detections.png")
        random = method == "random"
        record = {
            "schema": SCHEMA,
            "checkpoint": {
                "name": name,
                "sha256": hashlib.sha256(f"{name}{trial if random else ''}".encode()).hexdigest(),
                "source": "random" if random else "mscn",
                "method": method,
                "backbone": "resnet18",
                "pretrain_epochs": 0 if random else 10,
                "pretrain_seed": 0,
                "pretrain_config_sha256": None,
                "pretrain_seconds": None if random else 912.0,
                "pretrain_gpu_seconds": None if random else 0.0,
                "pretrain_views": None if random else 123456,
                "proof": "random" if random else "own",
                **(checkpoint or {}),
            },
            "task": task,
            "dataset": "folder:photos:test",
            "protocol": protocol_facts
            or {
                "name": protocol or f"{task}_photos",
                "config_sha256": hashlib.sha256((protocol or task).encode()).hexdigest(),
                "engine": "torch",
                "engine_version": "1",
                "overrides": [],
            },
            "trial": trial,
            "seed": trial,
            "metrics": metrics,
            "per_class": None,
            "artifacts": artifacts,
            "started": "2026-01-01T00:00:00+00:00",
            "seconds": 30.0 + trial,
            "gpu_seconds": 0.0,
            "views_seen": 5000,
            "hardware": {"device": "cpu"},
            "environment": {"torch": "2.14.1", "git_commit": "abc"},
            "status": "done",
            **changes,
        }
        return write_record(folder, record)

    return write


@pytest.fixture
def add_gallery() -> Callable[..., None]:
    """add_gallery(record's path, boxes by image): adds the artifacts of a detection run."""
    return write_gallery


def write_gallery(path: Path, boxes: list[list[list[float]]], sheet: bool = True) -> None:
    """Image i holds one cat; `boxes[i]` is what was found: (x1, y1, x2, y2, score, class)."""
    images = [
        {
            "id": f"image{i}",
            "width": 100,
            "height": 80,
            "cell": [192 * i, 0, 192, 154] if sheet else None,
            "truth": [[10.0, 10.0, 50.0, 50.0, 0, 1]],
            "found": found,
        }
        for i, found in enumerate(boxes)
    ]
    content = {"schema": 1, "classes": ["cat", "d<g"], "images": images}
    (path.parent / "gallery.json").write_text(json.dumps(content))
    record = json.loads(path.read_text())
    record["artifacts"]["gallery"] = "gallery.json"
    if sheet:
        Image.new("RGB", (192 * len(boxes), 154), (90, 120, 30)).save(path.parent / "sheet.jpg")
        record["artifacts"]["gallery_sheet"] = "sheet.jpg"
    path.write_text(json.dumps(record))
