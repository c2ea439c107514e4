"""Fixed synthetic records, and their report, whose text is kept in `golden/`.

`python -m tests.transfer.report.golden_report` records the golden files again. Do this only on
purpose. Read `git diff` of the three text files afterwards: readers of a report will see that text.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pretrain.common.config import load_config
from pretrain.common.roles import Roles
from tests.transfer.report.conftest import make_writer, write_gallery
from transfer.classification.defaults import ROLES as CLASSIFICATION
from transfer.detection.roles import ROLES as DETECTION
from transfer.report.run import write_report

FOLDER = Path(__file__).with_name("golden")
FILES = ("report.md", "report.csv", "report.tex", "report.html")
# The bytes of two PNG files. They are not drawn here: encoders differ between versions of Pillow
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAGUlEQVR4nGNkYKiQY2DARCwMcgxYweCUAABSsQI68xOQ"
    "5gAAAABJRU5ErkJggg=="
)
SHEET = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAABgAAAAICAIAAABsw6g0AAAAF0lEQVR4nGOMqpBjoAZgooopowYNUYMANoIBAGjFD9QA"
    "AAAASUVORK5CYII="
)
Writer = Callable[..., Path]


def report_texts(folder: Path) -> dict[str, str]:
    """The four files of the report on `write_records`, without what varies between two machines.

    The folder becomes `RUNS`, and a number of ten or more decimals is cut to nine digits: the last
    ones depend on the machine's way of summing. Everything else stays as the report wrote it.
    """
    runs = folder / "runs"
    write_records(runs)
    write_report([runs], folder / "report", pair=("mscn", "simclr"), title="Golden")
    return {
        name: re.sub(
            r"\d+\.\d{10,}",
            lambda found: f"{float(found[0]):.9g}",
            (folder / "report" / name).read_text(encoding="utf-8").replace(str(runs), "RUNS"),
        )
        for name in FILES
    }


def write_records(root: Path) -> None:
    """Records of every kind that a report treats in its own way.

    A detector of 3 trials with replicates on the shipped config and beside it a shortened protocol
    of the same name; a linear probe and kNN with numbers per class; three pretraining seeds of one
    method; a failed run, a record of schema 1, a copy, a torn file, and artifacts that are missing.
    """
    write = make_writer(root)
    _detection(write)
    _classification(write)
    _pretraining_seeds(write)
    _left_out(write, root)


def read_golden(name: str) -> str:
    """The stored text; the page is compressed."""
    if name.endswith(".html"):
        return gzip.decompress((FOLDER / f"{name}.gz").read_bytes()).decode()
    return (FOLDER / name).read_text(encoding="utf-8")


def _detection(write: Writer) -> None:
    shipped = _shipped("detection/voc_mscn.yaml", DETECTION)
    changed = {**shipped, "SOLVER": {**shipped["SOLVER"], "MAX_ITER": 600}}
    protocol = {"name": "voc_mscn", "engine": "torchvision", "engine_version": "0.29"}
    whole = {**protocol, "config_sha256": "aa" * 32, "overrides": []}
    cut = {**protocol, "config_sha256": "bb" * 32, "overrides": ["SOLVER.MAX_ITER", "600"]}
    images = np.random.default_rng(0).uniform(20, 80, 50)
    for name, gain, method in (("mscn", 2.0, "mscn"), ("simclr", 0, "simclr"), ("r", -9, "random")):
        for trial in range(3):
            noise = np.random.default_rng([trial, len(name)]).normal(gain, 3, 50)
            path = write(
                name,
                "detection",
                {"bbox/AP": 0.0},
                trial,
                "whole",
                method,
                pictures=False,
                scores=images + noise,
                config=shipped,
                dataset="voc_2007_test",
                per_class={"bbox/AP": {"cat": 50.0 + gain + trial, "d<g": 40.0 - gain}},
                protocol_facts=whole,
            )
            _add(
                path,
                "metrics",
                {"bbox/AP50": 60.0 + gain + trial / 3, "bbox/AP75": 45.0, "bbox/APs": None},
            )
            _add_artifacts(path, detections=PICTURE)
            rows = [{"step": s, "total_loss": 3 / (s + 1) + gain / 9} for s in range(4)]
            curve = {"recall": [0.0, 0.5, 1.0], "mean": {"bbox/AP50": [0.9, 0.7, 0.1 + trial / 9]}}
            _add_artifacts(path, curves=rows, pr_curves=curve)
            if method != "random":
                score = 0.9 - trial / 9
                write_gallery(path, [[[12.0, 9.0, 48.0, 52.0, score, 0]], []], sheet=False)
                _place_on_sheet(path)
    for name, value in (("mscn", 31.5), ("simclr", 30.0)):
        metrics = {"bbox/AP": value, "bbox/AP50": value + 20}
        path = write(
            name,
            "detection",
            metrics,
            0,
            "cut",
            name,
            pictures=False,
            config=changed,
            dataset="voc_2007_test",
            status="shortened",
            protocol_facts=cut,
        )
        _add_artifacts(path, detections=PICTURE)


def _classification(write: Writer) -> None:
    config = _shipped("classification/linear_imagenet_moco.yaml", CLASSIFICATION)
    facts = {"name": "linear_imagenet_moco", "engine": "torch", "engine_version": "2.14.1"}
    linear = {**facts, "config_sha256": "cc" * 32, "overrides": []}
    for name, value, method in (("mscn", 61.25, "mscn"), ("simclr", 58.5, "simclr")):
        for trial in range(2):
            path = write(
                name,
                "linear",
                {"top1": value + trial / 7, "top5": value + 20},
                trial,
                "linear",
                method,
                pictures=False,
                config=config,
                dataset="imagenet:val",
                hardware={"device": "NVIDIA H100", "count": 8},
                gpu_seconds=240.0,
                protocol_facts=linear,
            )
            rows = [{"step": s, "loss": 2 / (s + 1), "lr": 0.1} for s in range(3)]
            _add_artifacts(path, curves=rows, kernels=PICTURE, views=PICTURE, pretrain_curves=rows)
    for name, value, method in (
        ("mscn", 50.0, "mscn"),
        ("simclr", 48.0, "simclr"),
        ("r", 9, "random"),
    ):
        metrics = {"knn20_top1": 0.0}
        hits = (np.arange(100) % 100 < value) * 100.0
        path = write(
            name,
            "knn",
            metrics,
            0,
            "knn",
            method,
            pictures=False,
            scores=hits,
            per_class={"knn20_top1": {"cat": value, "d<g": value, "emu": value / 2}},
        )
        _add(path, "metrics", {"features/std": 0.0625, "features/rank": 12.5})
        _add_artifacts(path, spectrum={"singular_values": [4.0, 2.0, value / 50]})
    # The record names a file that is not there
    _edit(path, lambda record: record["artifacts"].update(views="views.png"))


def _pretraining_seeds(write: Writer) -> None:
    for seed in range(3):
        facts = {"pretrain_seed": seed, "pretrain_config_sha256": "dd" * 32, "method": "byol"}
        facts |= {"pretrain_gpu_seconds": 7300.0, "pretrain_views": 250_000_000, "proof": "none"}
        scores = (np.arange(100) < 40 + seed) * 100.0
        write(
            f"byol_s{seed}",
            "knn",
            {"knn20_top1": 0.0},
            0,
            "knn",
            "byol",
            pictures=False,
            scores=scores,
            checkpoint=facts,
        )


def _left_out(write: Writer, root: Path) -> None:
    failed = {"status": "failed", "pictures": False}
    write("mscn", "knn", {"knn20_top1": 1.0}, 1, "knn", "mscn", **failed)
    write("mscn", "knn", {"knn20_top1": None}, 2, "knn", "mscn", pictures=False)
    old = write("old", "knn", {"knn20_top1": 33.0}, 0, "knn", "simclr", pictures=False)
    _edit(old, lambda record: record.update(schema=1))
    _edit(old, lambda record: record["checkpoint"].pop("proof"))
    copy = root / "copies/record.json"
    copy.parent.mkdir()
    copy.write_text(old.read_text(encoding="utf-8"), encoding="utf-8")
    torn = root / "torn/record.json"
    torn.parent.mkdir()
    torn.write_text("{", encoding="utf-8")


def _shipped(name: str, roles: Roles) -> dict[str, Any]:
    """A config of this checkout as a run keeps it."""
    path = Path(__file__).parents[3] / "configs" / name
    content = yaml.safe_load(load_config(str(path), roles.make_defaults()).dump())
    assert isinstance(content, dict)
    return content


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    change(record)
    path.write_text(json.dumps(record), encoding="utf-8")


def _add(path: Path, field: str, values: dict[str, Any]) -> None:
    """Adds to the record's field, which is an object."""
    _edit(path, lambda record: record[field].update(values))


def _add_artifacts(path: Path, **contents: Any) -> None:
    """Writes files next to the record, PNG bytes or JSON, and names them in it."""
    for kind, content in contents.items():
        file = path.with_name(f"{kind}.png" if isinstance(content, bytes) else f"{kind}.json")
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            file.write_text(json.dumps(content), encoding="utf-8")
        _add(path, "artifacts", {kind: file.name})


def _place_on_sheet(path: Path) -> None:
    """Gives the two images of the gallery their places on the sheet."""
    gallery = path.with_name("gallery.json")
    content = json.loads(gallery.read_text(encoding="utf-8"))
    for place, image in enumerate(content["images"]):
        image["cell"] = [12 * place, 0, 12 * place + 12, 8]
    gallery.write_text(json.dumps(content), encoding="utf-8")
    _add_artifacts(path, gallery_sheet=SHEET)


def main() -> None:
    """Records the golden."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in report_texts(Path(folder)).items():
            if name.endswith(".html"):
                (FOLDER / f"{name}.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
            else:
                (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
