"""Cityscapes' labels, and where the files of an image are in its official layout.

Names, ids, categories and mean sizes are those of mcordts/cityscapesScripts 2.3.0
(helpers/labels.py and evaluation/evalPixelLevelSemanticLabeling.py). 19 of the labels are classes
of the semantic segmentation, and 8 of these have objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pretrain.common.errors import InputError
from pretrain.data.root import check_present
from transfer.datasets.truth_files import Files, pair_files

IMAGE, LABELS, INSTANCES = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_instanceIds.png"
POLYGONS = "_gtFine_polygons.json"
MOST_ID = 33  # the largest id of a label; 255 means -1, a license plate


class Label(NamedTuple):
    """Describes a class: its name, its id in the files, its category, and the mean size of its
    objects in pixels (0: it has no objects), from the official script.
    """

    name: str
    id: int
    category: str
    size: float = 0.0


LABELS_OF_CLASSES = (
    Label("road", 7, "flat"),
    Label("sidewalk", 8, "flat"),
    Label("building", 11, "construction"),
    Label("wall", 12, "construction"),
    Label("fence", 13, "construction"),
    Label("pole", 17, "object"),
    Label("traffic light", 19, "object"),
    Label("traffic sign", 20, "object"),
    Label("vegetation", 21, "nature"),
    Label("terrain", 22, "nature"),
    Label("sky", 23, "sky"),
    Label("person", 24, "human", 3462.4756337644),
    Label("rider", 25, "human", 3930.4788056518),
    Label("car", 26, "vehicle", 12794.0202738185),
    Label("truck", 27, "vehicle", 27855.1264367816),
    Label("bus", 28, "vehicle", 35732.1511111111),
    Label("train", 31, "vehicle", 67583.7075812274),
    Label("motorcycle", 32, "vehicle", 6298.7200839748),
    Label("bicycle", 33, "vehicle", 4672.3249222261),
)
# Labels that are neither trained on nor scored. `license plate` has the id -1.
VOID = {
    **{"unlabeled": 0, "ego vehicle": 1, "rectification border": 2, "out of roi": 3, "static": 4},
    **{"dynamic": 5, "ground": 6, "parking": 9, "rail track": 10, "guard rail": 14, "bridge": 15},
    **{"tunnel": 16, "polegroup": 18, "caravan": 29, "trailer": 30, "license plate": -1},
}
THINGS = tuple(label for label in LABELS_OF_CLASSES if label.size)


def read_files(folder: Path, split: str, endings: Sequence[str]) -> list[Files]:
    """Returns the files of a split, by name: images CITY_SEQUENCE_FRAME, with truth of these
    endings.

    Raises InputError if any is missing, with the expected tree.
    """
    images, truth = folder / "leftImg8bit" / split, folder / "gtFine" / split
    tree = (
        f"{folder}/{{leftImg8bit/{split}/CITY/*{IMAGE}, gtFine/{split}/CITY/*"
        f"{{{','.join(endings)}}}}}; unpack leftImg8bit_trainvaltest.zip and "
        "gtFine_trainvaltest.zip there"
    )
    check_present((images, truth), lambda: tree)
    found = []
    for path in sorted(images.glob(f"*/*{IMAGE}")):
        stem = path.name.removesuffix(IMAGE)
        found.append((stem, path, [truth / path.parent.name / f"{stem}{end}" for end in endings]))
    return pair_files(found, images, truth, tree)


def truth_of(image: str, ending: str) -> Path:
    """Returns the file of annotations that belongs to an image's file."""
    path = Path(image)
    city, split = path.parent, path.parent.parent
    stem = path.name.removesuffix(IMAGE)
    return split.parent.parent / "gtFine" / split.name / city.name / f"{stem}{ending}"


def check_classes(name: str, classes: Sequence[str], own: Sequence[str]) -> None:
    """Raises InputError if classes are named that are not Cityscapes' own, in their order."""
    if classes and tuple(classes) != tuple(own):
        raise InputError(
            f"{name} has the classes {', '.join(own)}, not {', '.join(classes)}; leave "
            "TRANSFER.CLASSES empty, or give data of these classes"
        )
