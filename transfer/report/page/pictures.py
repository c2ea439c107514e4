"""The page's pictures: views, kernels and detections of the records, as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pretrain.common.regular_file import MEGABYTE, read_regular
from pretrain.data.decode import FAULTS as DECODING_FAULTS
from transfer.report.page.artifacts import FAULTS, Artifacts
from transfer.report.rows_columns_cells import Results

MAX_BYTES = 250_000  # for one picture
MAX_TOTAL = 1_200_000  # for all: a page of ten checkpoints and eight protocols stays below 5 MB
MAX_SIDE = 1200
FORMATS = ("PNG", "JPEG")  # our commands write these; readers of other formats start programs
MOST_BYTES, MOST_PIXELS = 64 * MEGABYTE, 4e7
PICTURE_FAULTS = (*FAULTS, *DECODING_FAULTS, Image.DecompressionBombError)
TITLES = {
    "views": "Masked and augmented views that the method trained on",
    "kernels": "First-layer kernels",
    "detections": "Detections on test images",
}


@dataclass(frozen=True)
class Picture:
    """Is one image of one checkpoint, ready for `<img src>`."""

    kind: str
    label: str
    alt: str
    uri: str
    small: bool  # drawn pixel by pixel: must not be smoothed when enlarged


def collect_pictures(results: Results, kinds: Sequence[str], artifacts: Artifacts) -> list[Picture]:
    """Returns one picture of each kind per checkpoint, from its first trial.

    Detections have one per protocol, if there are no stored test images to show side by side.
    """
    found = [place for kind in kinds for place in _find(results, kind, artifacts)]
    limit = min(MAX_BYTES, MAX_TOTAL // max(1, len(found)))
    pictures = [_load(path, kind, label, limit, artifacts) for kind, label, path in found]
    return [picture for picture in pictures if picture]


def _find(results: Results, kind: str, artifacts: Artifacts) -> list[tuple[str, str, Path]]:
    """Returns (kind, label, file) of each picture."""
    found: dict[str, Path] = {}
    for checkpoint in results.checkpoints:
        for protocol in results.protocols:
            cell = results.cell(checkpoint, protocol)
            if kind == "detections" and artifacts.path(cell, "gallery_sheet"):
                continue  # more images are shown side by side
            path = artifacts.path(cell, kind)
            place = f", {protocol.short}" if kind == "detections" else ""
            if path:
                found.setdefault(checkpoint.label + place, path)
    return [(kind, label, path) for label, path in found.items()]


def _load(path: Path, kind: str, label: str, limit: int, artifacts: Artifacts) -> Picture | None:
    try:
        data, image = read_picture(path)
        data, mime = _encoded(data, image, limit)
        small = max(image.size) <= 400
    except PICTURE_FAULTS as error:
        artifacts.fail(path, "picture", error)
        return None
    uri = data_uri(data, mime)
    return Picture(kind, label, f"{TITLES[kind]}: {label}", uri, small)


def read_picture(path: Path) -> tuple[bytes, Image.Image]:
    """Returns the bytes of a PNG or JPEG file, and its decoded image.

    Raises one of PICTURE_FAULTS for a different format, a damaged file or a file that is too large.
    """
    data = read_regular(path, MOST_BYTES)
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS:.0e}")
    image.load()
    return data, image


def data_uri(data: bytes, mime: str) -> str:
    """Returns the data URI of an image; `mime` is png or jpeg."""
    return f"data:image/{mime};base64,{base64.b64encode(data).decode()}"


def _encoded(data: bytes, image: Image.Image, limit: int) -> tuple[bytes, str]:
    """Returns the file's bytes if they are at most `limit`; else a smaller, compressed image."""
    if len(data) <= limit and image.format == "PNG":
        return data, "png"
    for side, quality in ((MAX_SIDE, 85), (MAX_SIDE, 70), (MAX_SIDE, 50), (800, 50), (500, 40)):
        shrunk = image.convert("RGB")
        shrunk.thumbnail((side, side), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        shrunk.save(stream, "JPEG", quality=quality, optimize=True)
        if stream.tell() <= limit:
            break
    return stream.getvalue(), "jpeg"
