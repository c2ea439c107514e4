"""The scenes of digits in LVIS's and in Cityscapes' layout, to try these protocols in minutes.

LVIS: digits_lvis/lvis_v1_SPLIT.json describes the images of digits_coco. Its training file has a
long tail: it annotates the digits of `TAIL` in few images, so that one class is rare and two are
common. As in LVIS, an image that shows an unannotated class does not list it as absent either. The
other files annotate every digit.

Cityscapes: digits_cityscapes/{leftImg8bit,gtFine}/SPLIT/digits/. Its labels are fixed, so the
digits 0 to 7 have the names of the eight labels with objects, 8 and 9 those of two labels without
objects, and the photograph is `road`. An object is the outline of the largest part of a digit: its
holes are filled, as in every file of that format. The images of ids are drawn from the polygons.

Legend: S is the side of a scene in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from pretrain.digits.render import NUM_CLASSES
from pretrain.digits.scenes import Scene, coco_annotations, coco_categories, outline

# takes the root, the split, and the scenes by id
LayoutWriter = Callable[[Path, str, Mapping[int, Scene]], None]

# by digit: the number of training images, the first, that annotate it
TAIL = {9: 8, 8: 60, 7: 60}
# LVIS's frequencies: rare up to 10 training images, common up to 100, and frequent. All files have
# those of the training file, as LVIS's have.
_FREQUENCIES = {9: "r", 8: "c", 7: "c"}
CITY, BACKGROUND = "digits", "road"
WITH_OBJECTS = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
LABELS = (*WITH_OBJECTS, "building", "vegetation")  # classes of the digits 0 to 9
_IDS = {"road": 7, "building": 11, "vegetation": 21, "person": 24, "rider": 25, "car": 26}
_IDS |= {"truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33}


def write_lvis(root: Path, split: str, scenes: Mapping[int, Scene]) -> None:
    """Writes digits_lvis/lvis_v1_{split}.json below `root`, for images of these ids."""
    folder = root / "digits_lvis"
    folder.mkdir(exist_ok=True)
    text = json.dumps(lvis_document(split, scenes)) + "\n"
    (folder / f"lvis_v1_{split}.json").write_text(text)


def lvis_document(split: str, scenes: Mapping[int, Scene]) -> dict:
    """Returns the content of a file of LVIS v1, without its empty fields."""
    images: list[dict] = []
    annotations: list[dict] = []
    limits = TAIL if split == "train" else {}
    left = {digit + 1: limits.get(digit, len(scenes)) for digit in range(NUM_CLASSES)}
    counts = dict.fromkeys(left, 0)
    for image_id, scene in scenes.items():
        objects = coco_annotations(scene, image_id, 1)
        shown = {one["category_id"] for one in objects}
        named = {category for category in shown if counts[category] < left[category]}
        counts |= {category: counts[category] + 1 for category in named}
        for one in objects:
            if one["category_id"] in named:
                del one["iscrowd"]  # LVIS has no such field
                annotations.append({**one, "id": len(annotations) + 1})
        height, width = scene.pixels.shape[:2]
        place = f"digits_coco/{split}/{image_id:06d}.jpg"
        images.append({
            "id": image_id, "coco_url": place, "height": height, "width": width,
            "neg_category_ids": sorted(set(counts) - shown), "not_exhaustive_category_ids": [],
        })  # fmt: skip
    return {
        "info": {"description": "scikit-learn's digits on its sample photographs", "version": "1"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [_with_frequency(one, counts[one["id"]]) for one in coco_categories()],
    }


def _with_frequency(category: dict, images: int) -> dict:
    """Returns a category as LVIS describes it, whose objects are annotated in `images` images."""
    return {
        **category,
        "synonyms": [category["name"]],
        "frequency": _FREQUENCIES.get(category["id"] - 1, "f"),
        "image_count": images,
    }


def write_cityscapes(root: Path, split: str, scenes: Mapping[int, Scene]) -> None:
    """Writes the images, polygons and images of ids of a split into digits_cityscapes/."""
    folder = root / "digits_cityscapes"
    images, truth = (folder / kind / split / CITY for kind in ("leftImg8bit", "gtFine"))
    for place in (images, truth):
        place.mkdir(parents=True)
    for image_id, scene in scenes.items():
        stem = f"{CITY}_{image_id:06d}_000000"
        Image.fromarray(scene.pixels).save(images / f"{stem}_leftImg8bit.png", compress_level=1)
        content = polygons_of(scene)
        labels, instances = ids_of(content)
        Image.fromarray(labels).save(truth / f"{stem}_gtFine_labelIds.png")
        Image.fromarray(instances).save(truth / f"{stem}_gtFine_instanceIds.png")
        text = json.dumps(content) + "\n"
        (truth / f"{stem}_gtFine_polygons.json").write_text(text)


def polygons_of(scene: Scene) -> dict:
    """Returns the content of a file of polygons, from the back to the front."""
    height, width = scene.pixels.shape[:2]
    corners = [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]
    objects = [{"label": BACKGROUND, "polygon": corners}]
    for digit, mask in zip(scene.classes, scene.masks):
        parts, _ = ndimage.label(mask)
        sizes = np.bincount(parts.ravel())[1:]
        largest = outline(parts == 1 + sizes.argmax())
        objects.append({"label": LABELS[digit], "polygon": [list(point) for point in largest]})
    return {"imgHeight": height, "imgWidth": width, "objects": objects}


def ids_of(content: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """Returns the label ids uint8 (S, S) and instance ids uint16 (S, S) that the polygons give; an
    object has the id 1000 x label + number.
    """
    size = content["imgWidth"], content["imgHeight"]
    labels, instances = Image.new("L", size), Image.new("I", size)
    numbers: dict[str, int] = {}
    for one in content["objects"]:
        name, label = one["label"], _IDS[one["label"]]
        number = numbers[name] = numbers.get(name, -1) + 1
        instance = 1000 * label + number if name in WITH_OBJECTS else label
        for image, value in ((labels, label), (instances, instance)):
            ImageDraw.Draw(image).polygon([tuple(point) for point in one["polygon"]], value, value)
    return np.asarray(labels), np.asarray(instances).astype(np.uint16)


# What `make_digits` can write in addition to VOC's and COCO's layout.
LAYOUTS: Mapping[str, LayoutWriter] = {
    "lvis": write_lvis,
    "cityscapes": write_cityscapes,
}
