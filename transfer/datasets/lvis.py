"""Reads a data set in the format of LVIS v1, as COCO's with more to each image.

LVIS annotates COCO's images with 1,203 classes. No image is searched for all of them: an image
lists the classes that it surely does not show (`neg_category_ids`) and those of which not every
object is annotated (`not_exhaustive_category_ids`). A class is rare, common or frequent
(`frequency`: r, c, f) by the number of training images that show it: below 10, below 100, or more.
The last two parts of an image's `coco_url` name its file, such as train2017/000000391895.jpg.
Ids and objects are read as in a COCO file, with categories sorted by id: of the official files,
which number them 1 to 1203, category k + 1 is class k, as in Detectron2 (data/datasets/lvis.py).

Source: A. Gupta, P. Dollar, R. Girshick, LVIS: a dataset for large vocabulary instance segmentation
(CVPR 2019, arXiv 1908.03195), and the package `lvis` 0.5.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings
from pretrain.data.root import check_present
from transfer.datasets.annotation_values import shown
from transfer.datasets.coco import read_instances
from transfer.datasets.coco_annotations import AnnotationColumns

NEGATIVE, NOT_EXHAUSTIVE = "neg_category_ids", "not_exhaustive_category_ids"
FREQUENCIES = ("r", "c", "f")
DOWNLOAD = "the files of lvisdataset.org have it"


def read_json(path: Path, image_folder: Path) -> dict[str, Any]:
    """Returns the parsed file, in COCO's form. `image_folder` holds the folders that `coco_url`
    names.

    Raises InputError when the file or the folder is missing, malformed, or not one of LVIS's.
    """
    tree = (
        f"{path} with COCO's images, {image_folder}/{{train2017,val2017}}/*.jpg; for any other "
        "place, lvis:FILE.json:IMAGES"
    )
    check_present((path, image_folder), lambda: tree)
    return read_lvis(path)


def read_lvis(path: Path) -> dict[str, Any]:
    """Returns the content of the file: file names from `coco_url`, and no object is a crowd region.

    Raises InputError unless it is an LVIS file, with the first entries that lack something.
    """
    content = read_instances(path, complete=lambda content: _complete(path, content))
    content["annotations"] = _without_crowds(content["annotations"])
    _check(path, content)
    return content


def _complete(path: Path, content: Mapping[str, Any]) -> None:
    """Names the files of the images, or refuses a COCO file."""
    images = [entry for entry in content["images"] if isinstance(entry, dict)]
    if not any(NEGATIVE in entry for entry in images):
        raise InputError(
            f"{path} is not an LVIS file: none of its {len(content['images'])} images has "
            f"'{NEGATIVE}', without which LVIS cannot be scored; name a COCO file as "
            "coco:FILE.json:IMAGES"
        )
    for entry in images:
        parts = str(entry.get("coco_url", "")).split("/")
        if len(parts) >= 2 and parts[-1]:
            entry["file_name"] = "/".join(parts[-2:])


def _without_crowds(records: Any) -> Any:
    """LVIS has no crowd regions, and its objects no flag that says so."""
    if not isinstance(records, AnnotationColumns):
        return [{"iscrowd": 0, **record} for record in records]
    arrays, odd = records.parts()
    arrays["crowd"] = np.where(arrays["crowd"] == -1, 0, arrays["crowd"]).astype(np.int8)
    return AnnotationColumns.of_parts(arrays, [(at, {"iscrowd": 0, **one}) for at, one in odd])


def _check(path: Path, content: Mapping[str, Any]) -> None:
    """Raises InputError for images and categories that the evaluator could not read."""
    findings = Findings(str(path))
    known = {entry["id"] for entry in content["categories"]}
    for entry in content["categories"]:
        if entry.get("frequency") not in FREQUENCIES:
            findings.refuse(
                "categories have no 'frequency' r, c or f",
                f"categories[id {shown(entry['id'])}] ({shown(entry.get('frequency'))})",
                DOWNLOAD,
            )
    for entry in content["images"]:
        for key in (NEGATIVE, NOT_EXHAUSTIVE):
            _check_ids(findings, entry, key, known)
    findings.report()


def _check_ids(findings: Findings, entry: Mapping[str, Any], key: str, known: set[Any]) -> None:
    where, ids = f"images[id {shown(entry['id'])}]", entry.get(key)
    if not isinstance(ids, list):
        kind = f"images have no list '{key}', without which LVIS cannot be scored"
        findings.refuse(kind, f"{where} ({shown(ids)})", DOWNLOAD)
        return
    for one in ids:
        if isinstance(one, (list, dict)) or one not in known:
            kind = f"images list a class in '{key}' that 'categories' does not"
            findings.refuse(kind, f"{where} ({shown(one)})", "list the category or remove its id")
