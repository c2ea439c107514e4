"""Detection scenes of digits, and their annotations in VOC's and COCO's layout.

A `Scene` (pixels, classes, visible masks) is drawn for a split from a numpy generator; its
annotations are XML text and JSON values. Legend: S side of a scene in pixels, n digits in it. Boxes
are (top, left, bottom, right), 0-based and half-open, until they are written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence
from xml.etree import ElementTree

import numpy as np
from scipy import ndimage

from pretrain.digits.render import (
    NUM_CLASSES,
    VISIBLE_ALPHA,
    digit_pool,
    draw_background,
    draw_glyph,
    paste,
    tight_box,
)

SCENE_SIDE = 128
KEYPOINTS = ("top", "bottom", "left", "right")  # the ends of a digit
_HEIGHTS = (24.0, 60.0)  # pixels of a digit in a scene
_ZOOM = (1.0, 1.6)  # photo pixels per scene pixel
_MAX_DIGITS = 4
_MAX_OVERLAP = 0.1  # share of the area of the smaller of two boxes
_PLACEMENT_TRIES = 20


@dataclass(frozen=True)
class Scene:
    """Holds uint8 `pixels` (S, S, 3) RGB and n digits: their `classes` 0..9 and bool `masks`
    (n, S, S) of their visible pixels.
    """

    pixels: np.ndarray
    classes: list[int]
    masks: np.ndarray


def draw_scene(split: str, rng: np.random.Generator) -> Scene:
    """Returns one scene with 1 to 4 digits that are fully inside and overlap only a little."""
    side = SCENE_SIDE
    pixels = draw_background(split, side, _ZOOM, rng)
    classes: list[int] = []
    masks: list[np.ndarray] = []
    boxes: list[tuple[int, int, int, int]] = []
    for _ in range(rng.integers(1, _MAX_DIGITS + 1)):
        digit = int(rng.integers(NUM_CLASSES))
        pool = digit_pool(split)[digit]
        alpha = draw_glyph(pool[rng.integers(len(pool))], rng.uniform(*_HEIGHTS), rng)
        corner = _find_place(alpha.shape, boxes, rng)
        if corner is None:  # the scene is full
            continue
        top, left = corner
        paste(pixels, alpha, top, left, rng)
        mask = np.zeros((side, side), bool)
        mask[top : top + alpha.shape[0], left : left + alpha.shape[1]] = alpha >= VISIBLE_ALPHA
        masks = [earlier & ~mask for earlier in masks] + [mask]
        boxes.append((top, left, top + alpha.shape[0], left + alpha.shape[1]))
        classes.append(digit)
    return Scene(pixels, classes, np.stack(masks))


def _find_place(
    shape: tuple[int, int], taken: list[tuple[int, int, int, int]], rng: np.random.Generator
) -> tuple[int, int] | None:
    """Returns a (top, left) where a glyph of this shape covers little of the boxes already
    taken.
    """
    height, width = shape
    for _ in range(_PLACEMENT_TRIES):
        top = int(rng.integers(SCENE_SIDE - height + 1))
        left = int(rng.integers(SCENE_SIDE - width + 1))
        box = (top, left, top + height, left + width)
        if all(_overlap(box, other) <= _MAX_OVERLAP for other in taken):
            return top, left
    return None


def _overlap(a: Sequence[int], b: Sequence[int]) -> float:
    """Returns the shared area of two boxes over the area of the smaller one."""
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(height, 0) * max(width, 0) / smaller


def voc_annotation(scene: Scene, file_name: str) -> str:
    """Returns VOC's XML text for a scene. Boxes become 1-based, inclusive: the upper left corner
    moves.
    """
    root = ElementTree.Element("annotation")
    _add(root, folder="digits_voc", filename=file_name)
    height, width = scene.pixels.shape[:2]
    _add(ElementTree.SubElement(root, "size"), width=width, height=height, depth=3)
    _add(root, segmented=0)
    for digit, mask in zip(scene.classes, scene.masks):
        top, left, bottom, right = tight_box(mask)
        item = ElementTree.SubElement(root, "object")
        _add(item, name=digit, pose="Unspecified", truncated=0, difficult=0)
        box = ElementTree.SubElement(item, "bndbox")
        _add(box, xmin=left + 1, ymin=top + 1, xmax=right, ymax=bottom)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(parent: ElementTree.Element, **texts: str | int) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(parent, tag).text = str(text)


def coco_annotations(scene: Scene, image_id: int, first_id: int) -> list[dict]:
    """Returns COCO's annotations of one scene; ids count up from `first_id` (>= 1: 0 means
    "none").
    """
    annotations = []
    for offset, (digit, mask) in enumerate(zip(scene.classes, scene.masks)):
        top, left, bottom, right = tight_box(mask)
        annotations.append(
            {
                "id": first_id + offset,
                "image_id": image_id,
                "category_id": digit + 1,
                "bbox": [left, top, right - left, bottom - top],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": mask_polygons(mask),
            }
        )
    return annotations


def coco_categories() -> list[dict]:
    """Returns categories 1..10, named by their digit."""
    return [
        {"id": digit + 1, "name": str(digit), "supercategory": "digit"}
        for digit in range(NUM_CLASSES)
    ]


def keypoint_annotations(scene: Scene, image_id: int, first_id: int) -> list[dict]:
    """As `coco_annotations`, of one class, with the ends of each digit's visible pixels as
    keypoints x, y, 2: those of `KEYPOINTS`."""
    annotations = coco_annotations(scene, image_id, first_id)
    for annotation, mask in zip(annotations, scene.masks):
        keypoints = [value for x, y in mask_ends(mask) for value in (x, y, 2)]
        annotation |= {"category_id": 1, "keypoints": keypoints, "num_keypoints": len(KEYPOINTS)}
    return annotations


def keypoint_categories() -> list[dict]:
    """Returns the one category, with the keypoints' names and the two lines that join them."""
    category = {"id": 1, "name": "digit", "supercategory": "digit"}
    return [{**category, "keypoints": list(KEYPOINTS), "skeleton": [[1, 2], [3, 4]]}]


def mask_ends(mask: np.ndarray) -> list[tuple[int, int]]:
    """Returns (x, y) of the uppermost, lowest, leftmost and rightmost true pixel of a bool (H, W)
    mask; if there are several, the middle one.
    """
    y, x = np.nonzero(mask)
    ends = []
    for along, across, value in (
        (y, x, y.min()),
        (y, x, y.max()),
        (x, y, x.min()),
        (x, y, x.max()),
    ):
        there = np.sort(across[along == value])
        middle = int(there[len(there) // 2])
        ends.append((middle, int(value)) if along is y else (int(value), middle))
    return ends


def mask_polygons(mask: np.ndarray) -> list[list[int]]:
    """Returns polygons [x0, y0, x1, y1, ...] that pycocotools fills to exactly the bool (H, W)
    mask.

    There is one polygon per 4-connected part, along pixel edges. Holes are joined to the outline by
    a seam that is followed in both directions, which adds nothing under the even-odd rule.
    """
    labels, count = ndimage.label(mask)
    polygons = []
    for part in range(1, count + 1):
        loops = _trace_loops(labels == part)
        start = loops[0][0]
        path = list(loops[0])
        for loop in loops[1:]:
            path += [start, *loop, loop[0]]
        polygons.append([coordinate for point in path for coordinate in point])
    return polygons


def outline(mask: np.ndarray) -> list[tuple[int, int]]:
    """Returns points (x, y) of the outermost pixels of a bool (H, W) mask of one 4-connected part,
    in their order along its outline; at least three, of which some may be equal. Holes are left
    out.
    """
    corners = _trace_loops(mask)[0]
    points: list[tuple[int, int]] = []
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1]):
        dx, dy = int(np.sign(x1 - x0)), int(np.sign(y1 - y0))
        # The pixel to the right of the edge's first and of its last unit.
        right = min(dx, 0) - max(dy, 0), min(dy, 0) + min(dx, 0)
        for x, y in ((x0, y0), (x1 - dx, y1 - dy)):
            point = x + right[0], y + right[1]
            if not points or points[-1] != point:
                points.append(point)
    return points + points[:1] * (3 - len(points))


def _trace_loops(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """Closed loops of corners (x, y) around a mask's pixels, collinear corners left out."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # Each pixel edge with background beyond it, directed so that the pixel is on the right.
    for beyond, start, end in (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    ):
        for y, x in np.argwhere(inside & ~beyond).tolist():
            begin = (x + start[0], y + start[1])
            following.setdefault(begin, []).append((x + end[0], y + end[1]))
    loops = []
    while following:
        first = min(following)
        loop = [first]
        while (corner := _step(following, loop[-1])) != first:
            loop.append(corner)
        loops.append(_corners_only(loop))
    return loops


def _step(
    following: dict[tuple[int, int], list[tuple[int, int]]], corner: tuple[int, int]
) -> tuple[int, int]:
    """Removes one edge that starts at `corner` from the table and returns its end."""
    ends = following[corner]
    end = ends.pop()
    if not ends:
        del following[corner]
    return end


def _corners_only(loop: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Removes the points at which a closed loop of unit steps does not turn."""
    around = zip(loop[-1:] + loop[:-1], loop, loop[1:] + loop[:1])
    return [
        here for before, here, after in around if (before[0] == here[0]) != (here[0] == after[0])
    ]
