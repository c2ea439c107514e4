"""Reads a data set in Pascal VOC's layout.

In: a folder with JPEGImages/, Annotations/ and ImageSets/Main/SPLIT.txt. Out: Samples. VOC counts
pixels from 1 and its boxes are inclusive: (xmin, ymin, xmax, ymax) becomes (xmin - 1, ymin - 1,
xmax, ymax), continuous and half-open. This is the only place where that is done; the inverse is
in `detection/evaluation/voc.py`. Objects marked difficult are kept with their flag: they are
trained on, and ignored when scoring (as Detectron2 does, data/datasets/pascal_voc.py). Boxes
without area (xmax = xmin - 1) are counted in one warning; training filters them, as there.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings
from pretrain.common.lookup import near_matches
from transfer.datasets.samples import AREALESS, Instance, Sample

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG")
VOC_CLASSES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor".split()
)


def check_layout(folder: Path, split: str) -> Path:
    """The split's list file. Raises InputError, showing the expected tree, where a part lacks."""
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    for needed in (folder, folder / "JPEGImages", folder / "Annotations", listing):
        if not needed.exists():
            raise InputError(
                f"{needed} is missing; expected {folder}/{{JPEGImages/*.jpg, Annotations/*.xml, "
                f"ImageSets/Main/{split}.txt}}{_merged(folder)}"
            )
    return listing


def _merged(folder: Path) -> str:
    """The remedy where only one of VOC2007's archives was unpacked, or each by itself."""
    if folder.name != "VOC2007":
        return ""
    return " (VOC2007 must hold trainval and test, merged)"


def read_classes(folder: Path) -> tuple[str, ...]:
    """Sorted class names over all XML files of the folder (every split, so that all agree)."""
    files = sorted((folder / "Annotations").glob("*.xml"))
    if not files:
        raise InputError(f"{folder / 'Annotations'} holds no .xml file")
    names = {_text(node, "name", path) for path in files for node in _parse(path).iter("object")}
    if not names:
        raise InputError(f"no object is annotated in {folder / 'Annotations'}")
    return tuple(sorted(names))


def read_voc(folder: Path, split: str, classes: Sequence[str]) -> tuple[Sample, ...]:
    """All images of a split, in the order of its list file.

    Raises InputError, with the file, for a missing image, an image listed twice, an unreadable XML
    file, a class that is not in `classes`, and a box that leaves its image.
    """
    listing = check_layout(folder, split)
    stems = [line.split()[0] for line in listing.read_text().splitlines() if line.strip()]
    if not stems:
        raise InputError(f"{listing} lists no image")
    twice = [stem for stem, count in Counter(stems).items() if count > 1]
    if twice:
        raise InputError(f"{listing} lists the image '{twice[0]}' twice ({len(twice)} such images)")
    index = {name: i for i, name in enumerate(classes)}
    findings = Findings(str(listing))
    samples = tuple(_read_sample(folder, stem, index, findings) for stem in stems)
    findings.report()
    return samples


def _read_sample(folder: Path, stem: str, index: dict[str, int], findings: Findings) -> Sample:
    path = folder / "Annotations" / f"{stem}.xml"
    if not path.is_file():
        raise InputError(f"annotation {path} is missing{_merged(folder)}")
    root = _parse(path)
    size = root.find("size")
    if size is None:
        raise InputError(f"{path} has no <size>")
    width, height = int(_number(size, "width", path)), int(_number(size, "height", path))
    instances = tuple(
        _read_object(node, path, index, width, height) for node in root.iter("object")
    )
    for x1, y1, x2, y2 in (instance.box for instance in instances):
        if x1 == x2 or y1 == y2:
            findings.note(AREALESS, path.name)
    return Sample(str(_image_file(folder, stem)), stem, height, width, instances)


def _read_object(
    node: ElementTree.Element, path: Path, index: dict[str, int], width: int, height: int
) -> Instance:
    name = _text(node, "name", path)
    if name not in index:
        raise InputError(
            f"{path} has an object of class '{name}', which is none of the {len(index)} classes"
            f"{near_matches(name, index)}"
        )
    bounds = node.find("bndbox")
    if bounds is None:
        raise InputError(f"{path} has an object '{name}' without <bndbox>")
    xmin, ymin, xmax, ymax = (
        _number(bounds, key, path) for key in ("xmin", "ymin", "xmax", "ymax")
    )
    # A box may be empty (xmax = xmin - 1), but not turned round.
    if not (1 <= xmin <= xmax + 1 <= width + 1 and 1 <= ymin <= ymax + 1 <= height + 1):
        raise InputError(
            f"{path}: box of '{name}' ({xmin:g}, {ymin:g}, {xmax:g}, {ymax:g}) is not inside its "
            f"image of {width} x {height} pixels (VOC counts from 1)"
        )
    difficult = node.findtext("difficult", "0").strip() == "1"
    return Instance((xmin - 1.0, ymin - 1.0, xmax, ymax), index[name], difficult=difficult)


def _image_file(folder: Path, stem: str) -> Path:
    for suffix in IMAGE_SUFFIXES:
        path = folder / "JPEGImages" / f"{stem}{suffix}"
        if path.is_file():
            return path
    raise InputError(f"image {folder / 'JPEGImages' / stem}.jpg is missing{_merged(folder)}")


def _parse(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid XML ({error}): truncated or damaged") from None


def _text(node: ElementTree.Element, key: str, path: Path) -> str:
    text = node.findtext(key)
    if text is None or not text.strip():
        raise InputError(f"{path} has a <{node.tag}> without <{key}>")
    return text.strip()


def _number(node: ElementTree.Element, key: str, path: Path) -> float:
    text = _text(node, key, path)
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{path}: <{key}> is '{text}', not a number") from None
