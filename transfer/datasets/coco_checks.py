"""What a COCO file must have: one clear line for entries that lack something or contradict.

The checks look at the parsed JSON and raise an InputError that names the file, the entries and
their count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings
from transfer.datasets.annotation_values import as_id, shown
from transfer.datasets.coco_annotations import AnnotationColumns, unusual
from transfer.datasets.coco_masks import Segmentation, for_evaluators, has_pixels, has_polygon
from transfer.datasets.coco_records import roots

KEYS = {
    "images": ("id", "file_name", "height", "width"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
}
# The popular splits of COCO 2014 by that name repeat some ids; Detectron2 lets them pass, too.
MINIVAL = "minival"
NO_MASK = (
    "objects have no mask, or only polygons with fewer than 3 points, but COCO's mask metrics need "
    "one"
)
EMPTY_MASK = (
    "masks have no pixel in their image: these objects count as never found in the mask metrics"
)
NO_MASK_REMEDY = "correct them, remove the annotations, or set MODEL.MASK_ON False"


def check_entries(path: Path, content: Mapping[str, Any]) -> None:
    """Raises InputError unless each entry is a record with its keys, and its id is unique."""
    findings = Findings(str(path))
    for part, keys in KEYS.items():
        for place, entry in unusual(content[part]):
            _check_entry(findings, part, place, entry, keys)
    findings.report()
    for part in KEYS:
        _check_ids(path, part, content[part])
    left = roots([content])
    names = [str(c["name"]) for c in content["categories"]]
    for name, count in Counter(names).items():
        if count > 1 + sum(name == root for _, root in left):
            raise InputError(
                f"{path}: 'categories' lists the name '{name}' twice; give each class one id"
            )


def _check_entry(
    findings: Findings, part: str, place: int, entry: Any, keys: Sequence[str]
) -> None:
    if not isinstance(entry, dict):
        text = f"{part}[{place}] ({shown(entry)})"
        findings.refuse("entries are not records", text, "correct the file, or remove them")
        return
    for key in keys:
        if key not in entry:
            which = f"{part}[id {entry['id']}]" if "id" in entry else f"{part}[{place}]"
            findings.refuse("entries lack a key", f"{which} has no '{key}'", "correct the file")
    if "id" in entry and as_id(entry["id"]) is None:
        text = f"{part}[{place}] (id {shown(entry['id'])})"
        findings.refuse("ids are neither whole numbers nor text", text, "number the entries")
    name = entry.get("name", "none")
    if part == "categories" and (isinstance(name, (dict, list, type(None))) or name == ""):
        text = f"{part}[{place}] (name {shown(entry['name'])})"
        findings.refuse("names of classes are not text, or empty", text, "correct the file")


def _check_ids(path: Path, part: str, entries: Sequence[Mapping[str, Any]]) -> None:
    if isinstance(entries, AnnotationColumns) and len(different := entries.values("id")) == len(
        entries
    ):
        if not entries.odd:
            return  # whole numbers, all different
        ids = [as_id(value) for value in different]
    else:
        ids = [as_id(entry["id"]) for entry in entries]
    twice = [value for value, count in Counter(ids).items() if count > 1]
    if twice and not (part == "annotations" and MINIVAL in path.name):
        others = f" (and {len(twice) - 1} more ids)" if twice[1:] else ""
        raise InputError(
            f"{path}: the id {twice[0]} occurs twice in '{part}'{others}; ids must be unique"
        )
    texts = [value for value in ids if isinstance(value, str)]
    if part != "annotations" and 0 < len(texts) < len(ids):
        raise InputError(
            f"{path}: {len(texts)} of the {len(ids)} ids of '{part}' are text and the others "
            f"numbers, first: {shown(texts[0])}; write them all as numbers, or all as text"
        )


def check_mask(
    findings: Findings, where: str, mask: Segmentation | None, height: int, width: int
) -> None:
    """Refuses what would stop the evaluation of masks after the training; notes masks that no
    detector can find. `height` and `width` are the image's, in pixels."""
    if not mask or isinstance(mask, list) and not has_polygon(mask):
        findings.refuse(NO_MASK, where, NO_MASK_REMEDY)
    elif not has_pixels(for_evaluators(mask), height, width):
        findings.note(EMPTY_MASK, where)
