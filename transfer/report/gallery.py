"""Detections of two checkpoints on the same test images, the biggest disagreements first.

In: the artifacts "gallery" (boxes on a fixed few test images) and "gallery_sheet" (thumbnails).
Out: one panel per protocol, image and checkpoint, and each pair's order of the images. A sheet is
embedded once per protocol, because all its checkpoints were tested on the same images.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from markupsafe import Markup
from PIL import Image

from transfer.report.artifacts import Artifacts
from transfer.report.disagreement import disagreement, hits
from transfer.report.figures.boxes import box_figure
from transfer.report.pictures import data_uri
from transfer.report.results import Protocol, Results

MIN_SCORE = 0.3  # of a drawn box; the order of the images is made of all that are stored
MOST_BOXES = 8


@dataclass(frozen=True)
class Gallery:
    """One protocol's test images.

    `panels[series][image]` is a figure; `orders` has "0-1" -> [[image, disagreement], ...], the
    largest first, for each two checkpoints, the lower series first. `sheet` is a data URI or "".
    """

    number: int
    label: str
    names: list[str]
    sheet: str
    sheet_size: tuple[int, int]
    panels: dict[int, list[Markup]] = field(repr=False)
    orders: dict[str, list[list[float]]] = field(repr=False)
    trials: dict[int, str] = field(default_factory=dict)  # series -> which trial it is


def collect_galleries(results: Results, artifacts: Artifacts, pictures: bool) -> list[Gallery]:
    """One per protocol that two checkpoints or more have boxes of; no sheet without `pictures`."""
    galleries = []
    for protocol in results.protocols:
        gallery = _gallery(results, protocol, artifacts, pictures, len(galleries))
        if gallery:
            galleries.append(gallery)
    return galleries


def _gallery(
    results: Results, protocol: Protocol, artifacts: Artifacts, pictures: bool, number: int
) -> Gallery | None:
    found: dict[int, dict[str, Any]] = {}
    for series, row in enumerate(results.checkpoints):
        content = artifacts.read(results.cell(row, protocol), "gallery", _checked)
        if content:
            found[series] = content
    if len(found) < 2:
        return None
    # Trials cut to other images, or an older choice, have other ids: only common ones compare
    common = set.intersection(*({image["id"] for image in c["images"]} for c in found.values()))
    images = {
        series: [image for image in content["images"] if image["id"] in common]
        for series, content in found.items()
    }
    sheet, size, source = (
        _sheet(results, protocol, artifacts, found) if pictures else ("", (0, 0), 0)
    )
    cells = [image["cell"] for image in images[source]] if sheet else []
    panels = {
        series: [
            _panel(
                results.checkpoints[series].label,
                image,
                found[series]["classes"],
                (f"sheet-{number}", cells[place]) if sheet else ("", None),
            )
            for place, image in enumerate(images[series])
        ]
        for series in found
    }
    names = [str(image["id"]) for image in next(iter(images.values()))]
    orders = {f"{a}-{b}": _order(images[a], images[b]) for a, b in combinations(found, 2)}
    trials = {}
    for series in found:
        cell = results.cell(results.checkpoints[series], protocol)
        which = artifacts.trial(cell, "gallery")
        several = f"trial {which}, one of {len(cell.entries)}"
        trials[series] = several if len(cell.entries) > 1 else "its only trial"
    return Gallery(number, protocol.label, names, sheet, size, panels, orders, trials)


def _order(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> list[list[float]]:
    values = [
        [place, round(disagreement(a["found"], b["found"]), 2)]
        for place, (a, b) in enumerate(zip(one, two))
    ]
    return sorted(values, key=lambda value: -value[1])


def _sheet(
    results: Results, protocol: Protocol, artifacts: Artifacts, found: dict[int, dict[str, Any]]
) -> tuple[str, tuple[int, int], int]:
    """(data URI, size in pixels, series whose cells are on it) of the first checkpoint's sheet."""
    for series, content in found.items():
        cell = results.cell(results.checkpoints[series], protocol)
        path = artifacts.path(cell, "gallery_sheet")
        if not path or not all(image["cell"] for image in content["images"]):
            continue
        try:
            with Image.open(path) as image:
                image.load()
                return data_uri(path.read_bytes(), image.format.lower()), image.size, series
        except OSError as error:
            artifacts.fail(path, "thumbnails", error)
    return "", (0, 0), 0


def _panel(
    label: str, image: dict[str, Any], classes: list[str], picture: tuple[str, Any]
) -> Markup:
    shown = [box for box in image["found"] if box[4] >= MIN_SCORE][:MOST_BOXES]
    right = hits(shown, image["truth"])
    drawn = [
        (box, f"{classes[box[5]]} {f'{box[4]:.2f}'.lstrip('0')}", hit)
        for box, hit in zip(shown, right)
    ]
    objects = [box for box in image["truth"] if box[5]]
    words = f"{right.count(True)} of {len(objects)} objects found, {right.count(False)} wrong"
    title = f"{label}, image {image['id']}: {words}"
    if drawn:
        title += "; " + ", ".join(name for _, name, _ in drawn)
    size = (image["width"], image["height"])
    offset = picture[1][:2] if picture[0] else (0, 0)
    return Markup(box_figure(size, drawn, objects, title, picture[0], offset))


def _checked(content: Any) -> dict[str, Any]:
    """Raises ValueError or KeyError for what cannot be drawn."""
    classes = content["classes"]
    for image in content["images"]:
        if not (image["width"] > 0 and image["height"] > 0):
            raise ValueError(f"image {image['id']} has no size")
        for box in image["found"]:
            x1, y1, x2, y2, score, category = box
            classes[category], float(score), float(x1 + y1 + x2 + y2)
        for box in image["truth"]:
            x1, y1, x2, y2, category, _ = box
            classes[category], float(x1 + y1 + x2 + y2)
        if image["cell"] is not None:
            _, _, _, _ = image["cell"]
    return content
