"""Boxes over a thumbnail: the detections of one checkpoint on one image."""

from __future__ import annotations

from collections.abc import Sequence

from transfer.report.figures.svg import open_svg, shorten, text

SIDE = 192.0  # long edge of the drawing
CHARACTER, LINE = 5.2, 9.0  # approximate size of a label's character
Drawn = tuple[Sequence[float], str, bool | None]  # box, label, right (None: does not count)


def box_figure(
    size: tuple[float, float],
    found: Sequence[Drawn],
    truth: Sequence[Sequence[float]],
    title: str,
    picture: str = "",
    offset: tuple[float, float] = (0, 0),
) -> str:
    """Draws the detected boxes over the annotated objects, which are thin and dotted.

    Args:
        size: size of the image in pixels, the unit of the boxes (XYXY).
        picture: id of an `<image>` element in the page, or "" for none.
        offset: position of this image's thumbnail in the picture, in its pixels.
    """
    scale = SIDE / max(size)
    width, height = size[0] * scale, size[1] * scale
    parts = [open_svg(round(width, 1), round(height, 1), title, "photo")]
    if picture:
        parts.append(f'<use href="#{picture}" x="{-offset[0]:g}" y="{-offset[1]:g}"/>')
    paths = {"truth": "".join(_path(box, scale) for box in truth)}
    for css, kind in (("right", True), ("wrong", False), ("aside", None)):
        paths[css] = "".join(_path(box, scale) for box, _, right in found if right is kind)
    parts += [f'<path class="{css}" d="{path}"/>' for css, path in paths.items() if path]
    parts += _labels(found, scale, width)
    return "".join([*parts, "</svg>"])


def _path(box: Sequence[float], scale: float) -> str:
    x, y, right, bottom = (side * scale for side in box[:4])
    return f"M{x:.0f} {y:.0f}H{right:.0f}V{bottom:.0f}H{x:.0f}z"


def _labels(found: Sequence[Drawn], scale: float, width: float) -> list[str]:
    """Writes class and score at the top of each box; the highest score is placed first."""
    placed: list[tuple[float, float, float]] = []
    parts = []
    for box, label, _ in found:
        label = shorten(label, 18)
        reach = CHARACTER * len(label)
        x = max(0.0, min(box[0] * scale + 2, width - reach))
        y = max(box[1] * scale - 2, LINE)
        while any(abs(y - v) < LINE and x < u + w and u < x + reach for u, v, w in placed):
            y += LINE
        placed.append((x, y, reach))
        parts.append(text(round(x), round(y), label, css="on"))
    return parts
