"""Reads a data set in COCO's layout.

A JSON file with images, annotations and categories, and the folder of its images, become Samples
with the semantics of Detectron2 (data/datasets/coco.py): images sorted by id, categories sorted by
id, polygons with fewer than six numbers dropped and objects left with none skipped, crowd regions
kept with their flag. Masks may also be run lengths (RLE). Boxes become XYXY and keep their numbers
where they reach beyond the image. What Detectron2 tolerates is counted in one warning; what
contradicts itself is an error (`coco_checks.py`, `coco_records.py`, `box_checks.py`).

Two differences from plain Detectron2 are meant. It keeps the integers of a JSON file as integers,
and cuts the fractions off boxes and polygons after the resize; here every coordinate is a float
(with `10.0` in place of `10` in the file both train the same weights). It also draws its
flips and image sizes from its own generators, so they differ from the torchvision engine's.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.common.errors import InputError
from pretrain.common.findings import SHOWN, Findings
from pretrain.common.lookup import near_matches
from pretrain.common.safe_json import parse_json
from pretrain.data.decode import GIT_LFS, ZIP
from pretrain.data.root import check_present
from transfer.datasets.annotation_values import Id, find_id
from transfer.datasets.box_checks import Box
from transfer.datasets.coco_annotations import AnnotationColumns
from transfer.datasets.coco_cache import kept
from transfer.datasets.coco_checks import check_entries, check_mask
from transfer.datasets.coco_clear import find_clear, pack_samples
from transfer.datasets.coco_masks import SHORTEST
from transfer.datasets.coco_records import (
    Annotation,
    Image,
    all_categories,
    read_annotations,
)
from transfer.datasets.coco_records import read_categories as read_categories
from transfer.datasets.coco_records import read_images, roots, used_categories
from transfer.datasets.json_records import read_object
from transfer.datasets.missing_images import check_files
from transfer.datasets.other_json import other_kind
from transfer.datasets.samples import Instance, Sample, note_like_names

SHORT_POLYGON = "polygons with fewer than 3 points, or half a point, were dropped"
NO_POLYGON = "objects without any other polygon were skipped"
BOX_ALONE = "objects without any other polygon are scored by their box alone"
ALL_SHORT = "no object is left to train on: all have only polygons with fewer than 3 points"
ALL_SHORT_REMEDY = "write other polygons, or remove 'segmentation' to train on the boxes alone"
ANY_PAIR = "any other place: coco:FILE.json:IMAGES"
ROOT = "categories only group others, and were dropped"
NOT_JSON = (
    (b"\x1f\x8b", "packed with gzip; unpack it"),
    ZIP,
    GIT_LFS,
    (b"<", "a page of markup (HTML, XML); download or export the file itself again"),
)
SEVERAL_RECORDS = (
    "more text follows its first record, as in JSON Lines; a COCO file is one record with "
    "'images', 'annotations' and 'categories'"
)
WRITTEN_OTHERWISE = (
    "damaged, or written by hand; JSON has double quotes only, and neither comments nor a comma "
    "before } or ]"
)
NOT_TRAINED = "categories without objects are not among the classes, and were left out"


def read_json(path: Path, image_folder: Path, keypoints: bool = False) -> dict[str, Any]:
    """Returns the parsed file; see `read_instances`. Raises InputError if it, or the image folder,
    is missing or malformed.
    """
    check_present((path, image_folder), lambda: _tree(path, image_folder))
    return read_instances(path, keypoints)


def read_instances(
    path: Path,
    keypoints: bool = False,
    complete: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Returns the content of the file; raises InputError unless it is a COCO instances file.

    `keypoints`: they are needed: the annotations stay records, since columns have no keypoints.
    `complete`: adds what a related format writes differently, before the entries are checked.
    """
    try:
        content = parse_json(path.read_bytes()) if keypoints else _parsed(path)
    except UnicodeDecodeError as error:
        _refuse_packed(path)
        raise InputError(f"{path} is not in UTF-8 ({error}); save it in that encoding") from None
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        _refuse_packed(path)
        raise InputError(f"{path} is not valid JSON ({error}): {_fault(error)}") from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror or error}); give a copy"
        ) from None
    other = other_kind(content)
    if other is not None:
        what, remedy = other
        raise InputError(f"{path} is {what}, not a COCO instances file; {remedy}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(
            content.get(key), (list, AnnotationColumns)
        ):
            raise InputError(
                f"{path} has no list '{key}': it is not a COCO instances file; give such a file"
            )
    if not content["images"]:
        raise InputError(f"{path} does not list any image; give a file that does")
    if complete is not None:
        complete(content)
    check_entries(path, content)
    return content


def _fault(error: Exception) -> str:
    """Returns what is wrong with a text that is not JSON, by the error of its parser, with the
    remedy.
    """
    if not isinstance(error, json.JSONDecodeError):
        return "correct it"  # the error names what is wrong
    if error.msg == "Extra data":
        return SEVERAL_RECORDS
    if error.msg.startswith("Unterminated") or error.pos >= len(error.doc.rstrip()):
        return "truncated; restore it"
    return WRITTEN_OTHERWISE


def _parsed(path: Path) -> Any:
    try:
        return kept(path, lambda: read_object(path, {"annotations": AnnotationColumns}))
    except (ValueError, RecursionError):
        # From bytes: UTF-8, with or without a byte order mark, UTF-16 and UTF-32 are distinguished.
        return parse_json(path.read_bytes())


def _refuse_packed(path: Path) -> None:
    """Raises InputError for what is often there in place of a JSON file."""
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    for beginning, what in NOT_JSON:
        if start.startswith(beginning):
            raise InputError(f"{path} is not valid JSON: it is {what}")
    if not start.strip(b"\0"):
        raise InputError(f"{path} is empty, or has only zeros; restore it")


def _tree(path: Path, image_folder: Path) -> str:
    return (
        f"{image_folder.parent}/{{{path.parent.name}/{path.name}, {image_folder.name}/*.jpg}}; "
        f"{ANY_PAIR}{_exported(image_folder)}"
    )


def _exported(image_folder: Path) -> str:
    """Returns the name of the pair, if the folder is as Roboflow or CVAT unpack it."""
    folder, split = image_folder.parent, image_folder.name
    pairs = [
        (folder / split / "_annotations.coco.json", folder / split),
        (folder / "annotations" / f"instances_{split}.json", folder / "images" / split),
        (folder / "annotations" / f"instances_{split}.json", folder / "images"),
    ]
    for file, images in pairs:
        if file.is_file() and images.is_dir():
            return f", here coco:{file}:{images}"
    found = sorted([*folder.glob("*.json"), *folder.glob("*/*.json")])[:SHOWN]
    return f"; there is {', '.join(map(str, found))}" if found else ""


def read_classes(contents: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Returns names of the categories by id, those of a whole training set.

    A root that none of its files uses is left out (see `coco_records.roots`). Raises InputError
    if the files differ.
    """
    left = roots(contents)
    found = []
    for content in contents:
        pairs = all_categories(content)
        found.append(tuple(name for key, name in pairs if (key, name) not in left))
    if any(other != found[0] for other in found):
        raise InputError(
            "the COCO files of DATASETS.TRAIN list different categories; name files with the same "
            "ones"
        )
    return found[0]


def read_coco(
    path: Path,
    image_folder: Path,
    content: Mapping[str, Any],
    classes: Sequence[str],
    *,
    scored: Sequence[str] = (),
    keypoints: int = 0,
) -> Sequence[Sample]:
    """Returns all images of the file, by ascending id; category i is `classes[i]`, matched by name.

    `scored`: what is to be scored on the file, of "bbox" and "segm"; masks need more of it.
    `keypoints`: how many an object has; 0: they are not read.

    Raises InputError for a category with objects outside `classes`, missing images, and all that
    contradicts itself, counted.
    """
    findings = Findings(str(path))
    categories = read_categories(content, classes)
    note_like_names(categories.values(), findings)
    index = _category_index(path, content, categories, classes, findings)
    images = read_images(content, findings)
    records, clear = content["annotations"], None
    if isinstance(records, AnnotationColumns) and not scored:
        clear = find_clear(records, images, index)
    others: list[tuple[int, Id, Instance]] = []
    skipped: list[str] = []
    for found in read_annotations(
        content,
        path,
        images,
        categories,
        findings,
        scored=bool(scored),
        clear=clear,
        keypoints=keypoints,
    ):
        if "segm" in scored:
            height, width = found.image.height, found.image.width
            check_mask(findings, found.where, found.segmentation, height, width)
        instance = _instance(found, index, findings, bool(scored))
        if instance is not None:
            others.append((found.place, found.image.id, instance))
        else:
            skipped.append(found.where)
    if skipped and not others and (clear is None or not len(clear.rows)):
        for where in skipped:
            findings.refuse(ALL_SHORT, where, ALL_SHORT_REMEDY)
    findings.report()
    check_files(image_folder, [image.file_name for image in images.values()])
    if clear is not None:
        return pack_samples(image_folder, images, index, records, clear, others)
    grouped: dict[Id, list[Instance]] = defaultdict(list)
    for _, image_id, instance in others:
        grouped[image_id].append(instance)
    return tuple(_sample(image_folder, image, grouped[key]) for key, image in images.items())


def _category_index(
    path: Path,
    content: Mapping[str, Any],
    categories: Mapping[Id, str],
    classes: Sequence[str],
    findings: Findings,
) -> dict[Id, int]:
    known = {name: i for i, name in enumerate(classes)}
    used = used_categories(content)
    for key, name in sorted(roots([content]), key=str):
        if key not in categories:
            findings.note(ROOT, f"'{name}' (id {key})")
    for key, name in categories.items():
        if name in known:
            continue
        if (key, name) in used:
            count = sum(
                find_id(a["category_id"], categories) == key for a in content["annotations"]
            )
            raise InputError(
                f"{path} has the category '{name}', which is not one of the {len(known)} classes"
                f"{near_matches(name, known)}; remove or rename its objects ({count}), or "
                "train on it"
            )
        findings.note(NOT_TRAINED, f"'{name}'")
    return {key: known[name] for key, name in categories.items() if name in known}


def _instance(
    found: Annotation, index: Mapping[Id, int], findings: Findings, scored: bool
) -> Instance | None:
    """Returns the object; None if it is skipped, as Detectron2 skips it in training.

    Of a test set nothing is skipped: Detectron2's evaluator reads the file itself.
    """
    polygons, rle = None, None
    if isinstance(found.segmentation, dict):
        rle = found.segmentation
    elif found.segmentation:
        long = [p for p in found.segmentation if len(p) >= SHORTEST]
        # pycocotools reads the whole points of a polygon, where Detectron2's reader drops it.
        polygons = [p[: len(p) // 2 * 2] for p in long if scored or len(p) % 2 == 0]
        findings.note(SHORT_POLYGON, found.where, len(found.segmentation) - len(polygons))
        if not polygons:
            findings.note(BOX_ALONE if scored else NO_POLYGON, found.where)
            if not scored:
                return None
            polygons = None
    category = index[found.category_id]
    keypoints = None if found.keypoints is None else _from_corner(found.keypoints)
    box = _corners(found.bbox)
    return Instance(box, category, found.crowd, polygons=polygons, rle=rle, keypoints=keypoints)


def _from_corner(keypoints: Sequence[float]) -> tuple[float, ...]:
    """COCO names the pixel that a keypoint is in; its centre is half a pixel from its corner."""
    return tuple(v + 0.5 if place % 3 < 2 else v for place, v in enumerate(keypoints))


def _corners(bbox: Box) -> Box:
    """Converts XYWH to XYXY in float32, as Detectron2 does: else boxes differ in their last
    digits.
    """
    left, top, wide, high = np.array(bbox, dtype=np.float32)
    return float(left), float(top), float(left + wide), float(top + high)


def _sample(folder: Path, image: Image, instances: Iterable[Instance]) -> Sample:
    path = folder / image.file_name
    return Sample(str(path), image.id, image.height, image.width, tuple(instances))
