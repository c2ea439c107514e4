"""Tells which other file was given in place of a COCO instances file, by the keys of its content.

Many labelling tools have their own JSON next to their COCO export, and COCO has files of captions,
panoptic segments and detections with similar names. Naming the file saves a user the search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

EXPORT = "export it as COCO"
OF_THE_SET = "give the file of instances of the same set"
# What a file is, with the remedy, by keys that its object has ...
OBJECTS: tuple[tuple[frozenset[str], str, str], ...] = (
    (frozenset({"shapes", "imagePath"}), "labelme's file of one image", "convert all to one COCO"),
    (frozenset({"_via_img_metadata"}), "a project of VGG Image Annotator (VIA)", EXPORT),
    (frozenset({"items", "categories"}), "a file in Datumaro's own format", EXPORT),
    (frozenset({"item", "annotations"}), "a file of V7 Darwin", EXPORT),
    (frozenset({"metadata", "instances"}), "a file of SuperAnnotate", EXPORT),
    (frozenset({"assets", "tags"}), "a project of VoTT", EXPORT),
)
# ... by keys of the first record of its list ...
LISTS: tuple[tuple[frozenset[str], str, str], ...] = (
    (
        frozenset({"image_id", "category_id", "score"}),
        "a list of detections",
        "give the annotations with which they are compared",
    ),
    (frozenset({"data", "annotations"}), "Label Studio's own JSON", EXPORT),
    (frozenset({"image", "annotations"}), "a file of Create ML", EXPORT),
    (frozenset({"labels", "name"}), "a file in the format of BDD100K (Scalabel)", EXPORT),
    (frozenset({"images", "annotations"}), "a list around a COCO file", "remove the list"),
)
# ... or by keys of its first annotation.
ANNOTATIONS: tuple[tuple[frozenset[str], str, str], ...] = (
    (frozenset({"segments_info"}), "a file of panoptic segments", OF_THE_SET),
    (frozenset({"caption"}), "a file of captions", OF_THE_SET),
    (frozenset({"bboxes", "video_id"}), "a file of objects in videos (YouTube-VIS)", EXPORT),
)


def other_kind(content: Any) -> tuple[str, str] | None:
    """Returns what a parsed file is and the remedy; None for a COCO instances file, and for what is
    not recognised.
    """
    if isinstance(content, Mapping):
        annotations = content.get("annotations")
        found = _known(OBJECTS, content) if "images" not in content else None
        first = annotations[0] if isinstance(annotations, Sequence) and len(annotations) else None
        # A file with boxes is one of instances, whatever else its annotations have.
        return found or (None if _has(first, "bbox") else _known(ANNOTATIONS, first))
    return _known(LISTS, content[0]) if isinstance(content, list) and content else None


def _known(table: Sequence[tuple[frozenset[str], str, str]], record: Any) -> tuple[str, str] | None:
    if not isinstance(record, Mapping):
        return None
    return next(((what, remedy) for keys, what, remedy in table if keys <= record.keys()), None)


def _has(record: Any, key: str) -> bool:
    return isinstance(record, Mapping) and key in record
