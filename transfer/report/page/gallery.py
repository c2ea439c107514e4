"""Detections of two checkpoints on the same test images, the largest disagreements first.

The artifact "gallery" has the boxes that a run found on a few fixed test images, "gallery_sheet"
has their thumbnails. Each protocol, image and checkpoint has a panel. Each pair of checkpoints has
an order of the images by their disagreement, which does not depend on the annotations. A sheet is
embedded once per protocol, because all its checkpoints were tested on the same images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from markupsafe import Markup

from transfer.datasets.box_checks import iou
from transfer.report.figures.boxes import box_figure
from transfer.report.page.artifacts import Artifacts, drawable
from transfer.report.page.pictures import PICTURE_FAULTS, data_uri, read_picture
from transfer.report.rows_columns_cells import Protocol, Results

MIN_SCORE = 0.3  # least score of a drawn box; all stored boxes decide the order of the images
MOST_BOXES = 8
MIN_IOU = 0.5
MOST_IMAGES, MOST_STORED = 200, 1000  # most images of a file, and boxes of an image
MOST_OF_SHEET = 4_000_000  # most bytes of a sheet

Box = Sequence[float]  # x1, y1, x2, y2, score, class; XYXY in pixels


@dataclass(frozen=True)
class Gallery:
    """Holds one protocol's test images.

    `panels[series][image]` is a figure; `orders` has [[image, disagreement], ...] under "0-1", the
    largest first, for each two checkpoints, the lower series first. `sheet` is a data URI or "".
    """

    number: int
    label: str
    names: list[str]
    sheet: str
    sheet_size: tuple[int, int]
    panels: dict[int, list[Markup]] = field(repr=False)
    orders: dict[str, list[list[float]]] = field(repr=False)
    trials: dict[int, str] = field(default_factory=dict)  # the text that names a series' trial


def collect_galleries(results: Results, artifacts: Artifacts, pictures: bool) -> list[Gallery]:
    """Returns one for each protocol with boxes of two or more checkpoints.

    Without `pictures` they have no sheet.
    """
    galleries: list[Gallery] = []
    for protocol in results.protocols:
        gallery = _gallery(results, protocol, artifacts, pictures, len(galleries))
        if gallery:
            galleries.append(gallery)
    return galleries


def _gallery(
    results: Results, protocol: Protocol, artifacts: Artifacts, pictures: bool, number: int
) -> Gallery | None:
    found: dict[int, dict[str, Any]] = {}
    cells = {
        n: c for n, row in enumerate(results.checkpoints) if (c := results.cell(row, protocol))
    }
    for series, cell in cells.items():
        content = artifacts.read(cell, "gallery", _checked)
        if content:
            found[series] = content
    if len(found) < 2:
        return None
    # Shortened trials, or an older choice of images, have different ids: only common ids compare
    common = set.intersection(*({image["id"] for image in c["images"]} for c in found.values()))
    images = {
        series: [image for image in content["images"] if image["id"] in common]
        for series, content in found.items()
    }
    sheet, size, source = (
        _sheet(results, protocol, artifacts, found) if pictures else ("", (0, 0), 0)
    )
    places = [image["cell"] for image in images[source]] if sheet else []
    panels = {
        series: [
            _panel(
                results.checkpoints[series].label,
                image,
                found[series]["classes"],
                (f"sheet-{number}", places[place]) if sheet else ("", None),
            )
            for place, image in enumerate(images[series])
        ]
        for series in found
    }
    names = [str(image["id"]) for image in next(iter(images.values()))]
    orders = {f"{a}-{b}": _order(images[a], images[b]) for a, b in combinations(found, 2)}
    trials = {}
    for series in found:
        cell = cells[series]
        which = artifacts.trial(cell, "gallery")
        several = f"trial {which}, one of {len(cell.files)}"
        trials[series] = several if len(cell.files) > 1 else "its only trial"
    return Gallery(number, protocol.short, names, sheet, size, panels, orders, trials)


def _order(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> list[list[float]]:
    values = [
        [place, round(disagreement(a["found"], b["found"]), 2)]
        for place, (a, b) in enumerate(zip(one, two))
    ]
    return sorted(values, key=lambda value: -value[1])


def _sheet(
    results: Results, protocol: Protocol, artifacts: Artifacts, found: dict[int, dict[str, Any]]
) -> tuple[str, tuple[int, int], int]:
    """Returns the first checkpoint's sheet: data URI, size in pixels, series of its cells."""
    for series, content in found.items():
        cell = results.cell(results.checkpoints[series], protocol)
        path = artifacts.path(cell, "gallery_sheet")
        if not path or not all(image["cell"] for image in content["images"]):
            continue
        try:
            data, image = read_picture(path)
            if len(data) > MOST_OF_SHEET:
                raise ValueError(f"{len(data)} bytes; a page embeds at most {MOST_OF_SHEET}")
            return data_uri(data, str(image.format).lower()), image.size, series
        except PICTURE_FAULTS as error:
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
    """Returns the content; raises ValueError, or a wrong type's error, if it cannot be drawn."""
    classes, images = content["classes"], content["images"]
    if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise ValueError("the classes are not a list of texts")
    if not isinstance(images, list) or len(images) > MOST_IMAGES:
        raise ValueError(f"the images are not a list of at most {MOST_IMAGES}")
    for image in images:
        if isinstance(image["id"], bool) or not isinstance(image["id"], (int, str)):
            raise ValueError("an image's id is neither a number nor a text")
        if not (drawable(image["width"]) >= 1 and drawable(image["height"]) >= 1):
            raise ValueError(f"image {image['id']} has no size")
        for part, category in (("found", 5), ("truth", 4)):
            _check_boxes(image[part], category, len(classes))
        if image["cell"] is not None:
            _, _, _, _ = map(drawable, image["cell"])
    return content


def _check_boxes(boxes: Any, category: int, classes: int) -> None:
    """Raises ValueError unless each box has six numbers, of which one is a class."""
    if not isinstance(boxes, list) or len(boxes) > MOST_STORED:
        raise ValueError(f"the boxes are not a list of at most {MOST_STORED}")
    for box in boxes:
        if len(box) != 6 or type(box[category]) is not int or not 0 <= box[category] < classes:
            raise ValueError("a box is not six numbers, one of them a class")
        for value in box[:5]:
            drawable(value)


def disagreement(one: Sequence[Box], two: Sequence[Box]) -> float:
    """Returns the scores of boxes that only one list has, plus score differences of common boxes.

    A box is common if the classes agree and the boxes overlap by an IoU of 0.5 or more. Each box is
    paired once; pairs with the largest overlap come first. Symmetric, and 0 for equal lists.
    """
    overlaps = [(iou(a, b), i, j) for i, a in enumerate(one) for j, b in enumerate(two)]
    left, right = set(range(len(one))), set(range(len(two)))
    total = 0.0
    for overlap, i, j in sorted(overlaps, reverse=True):
        if overlap < MIN_IOU:
            break
        if i in left and j in right and one[i][5] == two[j][5]:
            left.remove(i)
            right.remove(j)
            total += abs(one[i][4] - two[j][4])
    return total + sum(one[i][4] for i in left) + sum(two[j][4] for j in right)


def hits(found: Sequence[Box], truth: Sequence[Box]) -> list[bool | None]:
    """Returns whether each found box is right, in the order of descending scores.

    `truth` are (x1, y1, x2, y2, class, counts). A box is right if the object of its class with the
    largest overlap has an IoU of 0.5 or more, and no box with a higher score was matched to it.
    None: the box is on an object that does not count (crowd, difficult).
    """
    free = set(range(len(truth)))
    results: list[bool | None] = []
    for box in found:
        same = [
            (iou(box, truth[k]), k)
            for k in range(len(truth))
            if truth[k][4] == box[5] and k in free
        ]
        overlap, best = max(same, default=(0.0, -1))
        if overlap < MIN_IOU:
            results.append(False)
        elif not truth[best][5]:
            results.append(None)
        else:
            free.remove(best)
            results.append(True)
    return results
