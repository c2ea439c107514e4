"""iNaturalist 2018 as released: its folder and a split in, images with labels out.

    train2018.json, val2018.json                 COCO-like: images, annotations, categories
    train_val2018/SUPERCATEGORY/ID/IMAGE.jpg     the images of both splits

The JSON files may also be in `annotations/`. Source of the format: visipedia/inat_comp
2018/README.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretrain.common.errors import InputError
from pretrain.common.safe_json import read_json
from pretrain.data.file_list import FileList
from pretrain.data.official_lists import first_existing, listed_files

IMAGES = "train_val2018"
MOST_BYTES = 1 << 31  # the largest JSON file that is read; the official one has some hundred MB
JSON_FILES = ("{}2018.json", "annotations/{}2018.json")


def read_inat2018(folder: Path, split: str) -> FileList:
    """Returns the images of "train" or "val" in the file's order; the label is the category's id.

    If the ids have gaps, as in a part of the set, the label is the position among the sorted ids.
    If categories have the same name (a plant and a snail may share one), their id is added to it.

    Raises:
        InputError: a file or the image folder is missing (the message shows the expected layout),
            the JSON is damaged or incomplete, a category is unknown, or an image has no annotation,
            has two categories, or is missing.
    """
    layout = f"{folder}/{{train2018.json, val2018.json, {IMAGES}/SUPERCATEGORY/ID/*.jpg}}"
    path = first_existing(folder, [at.format(split) for at in JSON_FILES], layout)
    first_existing(folder, [IMAGES], layout)
    content = _read_json(path)
    try:
        categories = sorted(content["categories"], key=lambda category: category["id"])
        index = {category["id"]: label for label, category in enumerate(categories)}
        by_image = _labels(path, content["annotations"], index)
        names = [image["file_name"] for image in content["images"]]
        labels = [by_image.get(image["id"], -1) for image in content["images"]]
        classes = _class_names(categories)
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not in the format of iNaturalist 2018 ({error!r}); unpack it again"
        ) from None
    if -1 in labels:
        first = names[labels.index(-1)]
        raise InputError(
            f"{path}: {labels.count(-1)} images have no annotation, such as {first}; take the"
            " files of the training and validation sets (the test set has no labels)"
        )
    return listed_files(path, folder, names, labels, classes, layout)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, MOST_BYTES)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}): truncated or damaged") from None


def _labels(
    path: Path, annotations: Sequence[dict[str, Any]], index: dict[int, int]
) -> dict[int, int]:
    """Returns the labels by image id."""
    labels: dict[int, int] = {}
    for annotation in annotations:
        image, category = annotation["image_id"], annotation["category_id"]
        if category not in index:
            ids = f"{len(index)} ids from {min(index)} to {max(index)}" if index else "no ids"
            raise InputError(
                f"{path}: image {image} has the category {category}, out of range: 'categories'"
                f" lists {ids}; unpack the file again"
            )
        if labels.setdefault(image, index[category]) != index[category]:
            raise InputError(
                f"{path}: image {image} has two categories, not one; unpack the file again"
            )
    return labels


def _class_names(categories: Sequence[dict[str, Any]]) -> list[str]:
    names = [str(category["name"]) for category in categories]
    times = Counter(names)
    return [
        f"{name} ({category['id']})" if times[name] > 1 else name
        for name, category in zip(names, categories)
    ]
