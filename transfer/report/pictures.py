"""Artifacts of records for a page: image files in, data URIs out; curve files in, rows out.

A missing or broken artifact becomes a note: the numbers do not depend on it.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from transfer.report.results import Cell, Checkpoint, Results
from transfer.results.store import Entry

MAX_BYTES = 250_000  # per picture, so that ten checkpoints stay below some megabytes
MAX_SIDE = 1200
TITLES = {
    "views": "Masked and augmented views that the method trained on",
    "kernels": "First-layer kernels",
    "detections": "Detections on test images",
}


@dataclass(frozen=True)
class Picture:
    """One image of one checkpoint, ready for `<img src>`."""

    kind: str
    label: str
    alt: str
    uri: str
    small: bool  # drawn by the pixel: not to be smoothed when enlarged


def collect_pictures(results: Results, kinds: Sequence[str], notes: list[str]) -> list[Picture]:
    """One picture of each kind per checkpoint (detections: per protocol), from its first trial."""
    pictures = []
    for kind in kinds:
        for checkpoint in results.checkpoints:
            seen: set[str] = set()
            for protocol in results.protocols:
                cell = results.cell(checkpoint, protocol)
                path = _first_artifact(cell, kind)
                place = protocol.label if kind == "detections" else ""
                if path is None or place in seen:
                    continue
                label = f"{checkpoint.label}, {place}" if place else checkpoint.label
                picture = _load(path, kind, label, notes)
                if picture:
                    seen.add(place)
                    pictures.append(picture)
    return pictures


def collect_curves(
    results: Results, kind: str, notes: list[str]
) -> dict[str, list[tuple[Checkpoint, list[dict[str, Any]]]]]:
    """{group title: [(checkpoint, rows)]} from the artifact "curves" or "pretrain_curves".

    Fine-tuning curves are grouped by protocol; a checkpoint's pretraining is one group for all.
    """
    groups: dict[str, list[tuple[Checkpoint, list[dict[str, Any]]]]] = {}
    for protocol in results.protocols:
        title = "Pretraining" if kind == "pretrain_curves" else protocol.label
        for checkpoint in results.checkpoints:
            members = groups.setdefault(title, [])
            path = _first_artifact(results.cell(checkpoint, protocol), kind)
            if path is None or any(member is checkpoint for member, _ in members):
                continue
            rows = _read_rows(path, notes)
            if rows:
                members.append((checkpoint, rows))
    return {title: members for title, members in groups.items() if members}


def _first_artifact(cell: Cell | None, kind: str) -> Path | None:
    entries: list[Entry] = cell.entries if cell else []
    return next((path for path in (e.artifact(kind) for e in entries) if path), None)


def _load(path: Path, kind: str, label: str, notes: list[str]) -> Picture | None:
    try:
        with Image.open(path) as image:
            image.load()
            data, mime = _encoded(path, image)
            small = max(image.size) <= 400
    except (OSError, UnidentifiedImageError) as error:
        note = f"{path}: picture left out ({' '.join(str(error).split())})"
        if note not in notes:
            notes.append(note)
        return None
    uri = f"data:image/{mime};base64,{base64.b64encode(data).decode()}"
    return Picture(kind, label, f"{TITLES[kind]}: {label}", uri, small)


def _encoded(path: Path, image: Image.Image) -> tuple[bytes, str]:
    """The file's own bytes when small; else scaled to MAX_SIDE and compressed."""
    data = path.read_bytes()
    if len(data) <= MAX_BYTES and image.format == "PNG":
        return data, "png"
    shrunk = image.convert("RGB")
    shrunk.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    for quality in (85, 70, 50, 30):
        stream = io.BytesIO()
        shrunk.save(stream, "JPEG", quality=quality, optimize=True)
        if stream.tell() <= MAX_BYTES:
            break
    return stream.getvalue(), "jpeg"


def _read_rows(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [row for row in rows if isinstance(row["step"], (int, float))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        notes.append(f"{path}: curves left out ({' '.join(str(error).split())})")
        return []
