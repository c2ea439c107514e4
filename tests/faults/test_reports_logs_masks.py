"""Damaged results, logs and masks in complete tools: the report, readers of logs, segmentation.

A report over a folder with one damaged file is made, or refused in one line. What it prints and
writes contains no markup, formula or control character from a file. A damaged `metrics.jsonl` does
not stop a run.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import strategies as st
from PIL import Image

from pretrain.common.logs import MetricsWriter
from pretrain.data.decode import largest_of_16_bits
from pretrain.visual.curves import RunCurves, read_curves, write_curves
from tests.faults.fuzzing import bytes_of, fuzz, in_child, is_printable, judge
from tests.faults.mutations import edited_bytes, edited_tree
from tests.folder_contents import contents
from tests.transfer.report.conftest import make_writer, write_gallery
from transfer.classification.defaults import get_defaults
from transfer.datasets.numbered_pixels import read_instances, read_mask
from transfer.report.run import write_report
from transfer.results.artifacts import copy_pretrain_artifacts
from transfer.segmentation.data import check_values, open_sets

Tree = dict[str, bytes]  # the files of a folder, by relative name


def results(root: Path) -> Tree:
    """Records of two checkpoints in two columns, with the artifacts that a report reads."""
    write = make_writer(root)
    images = np.random.default_rng(0).uniform(20, 80, 8)
    shipped: dict[str, Any] = yaml.safe_load(get_defaults().dump())
    for name in ("mscn", "simclr"):
        path = write(name, "detection", {"bbox/AP": 1.0}, per_class={"bbox/AP": {"cat": 5.0}})
        write_gallery(path, [[[12.0, 9.0, 48.0, 52.0, 0.5, 0]], []])
        curve = {"recall": [0.0, 0.5, 1.0], "mean": {"bbox/AP50": [0.9, 0.7, 0.1]}}
        _add(path, "pr_curves", curve)
        path = write(name, "knn", {"knn20_top1": 1.0}, scores=images, config=shipped)
        _add(path, "spectrum", {"singular_values": [4.0, 2.0, 1.0]})
    return contents(root)


def _add(path: Path, kind: str, content: Any) -> None:
    record = json.loads(path.read_text())
    record["artifacts"][kind] = f"{kind}.json"
    path.write_text(json.dumps(record))
    path.with_name(f"{kind}.json").write_text(json.dumps(content))


def damaged(name: str, data: bytes) -> st.SearchStrategy[tuple[str, bytes]]:
    """Other contents of one file: its bytes, or its fields if it holds any."""
    contents = edited_bytes([data], focus=[(0, 64)])
    if name.endswith(".json"):
        contents |= edited_tree(json.loads(data)).map(lambda tree: json.dumps(tree).encode())
    elif name.endswith(".yaml"):
        contents |= edited_tree(yaml.safe_load(data)).map(lambda t: yaml.safe_dump(t).encode())
    return st.tuples(st.just(name), contents)


def test_reports(tmp_path: Path) -> None:
    whole = results(tmp_path / "seed")
    cases = st.one_of([damaged(name, data) for name, data in whole.items() if "mscn" in name])
    output = tmp_path / "report"

    def write(case: tuple[str, bytes], folder: Path) -> None:
        for name, data in {**whole, case[0]: case[1]}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)

    def read(folder: Path) -> None:
        written = write_report([folder], output)
        lines = [*written.notes, *written.table.split("\n")]
        assert all(is_printable(line) and len(line) < 2000 for line in lines), lines
        texts = {file.suffix: file.read_text() for file in output.glob("report.*")}
        assert len(texts) == 4 and all(len(text) < 4_000_000 for text in texts.values())
        assert "<script>alert" not in texts[".md"] + texts[".html"]
        assert not any(line.startswith(("=", "@")) for line in texts[".csv"].splitlines())

    fuzz("report", cases, write, read, tmp_path / "runs", 30, named="")


LOG = [
    {"step": 1, "loss": 2.5, "lr": 0.1, "batch_feature_std": 0.1},
    {"step": 2, "loss": 2.25, "lr": 0.1, "batch_feature_std": None},
    {"step": 2, "feature_std": 0.1, "effective_rank": 5.0, "knn20_top1": 55.5},
    {"step": 3, "loss": 2.0, "lr": 0.1, "batch_feature_std": 0.2},
]


def as_lines(rows: Any) -> bytes:
    rows = rows if isinstance(rows, list) else [rows]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize("reader", ["resume", "spectrum", "copied into results"])
def test_logs(reader: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("{}")
    (run / "checkpoint.pth").write_bytes(b"")

    def resume(file: Path) -> None:
        MetricsWriter(run, resume_step=2).close()
        for event in run.glob("events.*"):
            event.unlink()
        steps = [json.loads(line)["step"] for line in file.read_text().splitlines()]
        assert all(step <= 2 for step in steps)

    def spectrum(file: Path) -> None:
        drawn = RunCurves("run", read_curves(run))
        assert is_printable(drawn.last())
        write_curves([drawn], tmp_path / "curves.json")

    def copied(file: Path) -> None:
        copy_pretrain_artifacts(run / "checkpoint.pth", tmp_path / "results")

    read = {"resume": resume, "spectrum": spectrum, "copied into results": copied}[reader]
    cases = edited_bytes([as_lines(LOG)]) | edited_tree(LOG).map(as_lines)
    fuzz(f"metrics.jsonl: {reader}", cases, bytes_of, read, run / "metrics.jsonl")


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


MASK = np.repeat(np.array([[0, 1, 2, 255]], np.uint8), 8, axis=0)
MASKS = (Image.fromarray(MASK), Image.fromarray(MASK).convert("RGB"), Image.new("I;16", (4, 8), 7))


@pytest.mark.parametrize("part", ["mask", "list", "classes"])
def test_segmentation(part: str, tmp_path: Path) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (4, 8)).save(tmp_path / "JPEGImages/1.jpg")
    files = {
        "mask": tmp_path / "SegmentationClass/1.png",
        "list": tmp_path / "ImageSets/Segmentation/train.txt",
        "classes": tmp_path / "classes.txt",
    }
    seeds = {
        "mask": [png(image) for image in MASKS],
        "list": [b"1\n", b"/JPEGImages/1.jpg /SegmentationClass/1.png\n", b"../1\n"],
        "classes": [b"background\ncat\ndog\n", "\ufeffbackground\r\nh\u00e4user\r\n".encode()],
    }
    files["mask"].write_bytes(seeds["mask"][0])
    files["list"].write_bytes(b"1\n")

    def read(file: Path) -> None:
        found = open_sets([f"semseg:{tmp_path}:train"])
        assert all(name.isprintable() for name in found.classes), found.classes
        for sample in found.samples:
            mask = read_mask(sample.mask_name)
            check_values(mask, len(found.classes), sample.mask_name)
        found.fingerprint

    cases = edited_bytes(seeds[part], focus=[(0, 64)])
    fuzz(f"segmentation: {part}", cases, bytes_of, read, files[part], named="")


@pytest.mark.parametrize("read", [read_mask, read_instances, largest_of_16_bits])
def test_a_length_of_4_gib_in_a_png_reserves_no_memory(
    read: Callable[[str], Any], tmp_path: Path
) -> None:
    """Pillow asks an open file for as many bytes as the length field of the pixels says."""
    seed = png(MASKS[0] if read is read_mask else MASKS[2])
    at = seed.index(b"IDAT")
    data = seed[: at - 4] + b"\xff" * 4 + seed[at:]
    (tmp_path / "x.png").write_bytes(data)
    answer = in_child(lambda: {"is": judge(lambda: read(str(tmp_path / "x.png")), "x.png")})
    assert answer.get("is") in ("ok", "refused"), answer
