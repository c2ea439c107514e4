"""Reads a data set in Pascal VOC's layout.

Such a folder has JPEGImages/, Annotations/ and ImageSets/Main/SPLIT.txt. Boxes are converted in
`voc_boxes.py`: VOC counts pixels from 1, many tools from 0. If any coordinate of a set is below
1, it is read as counted from 0. All files in Annotations/ decide this, so every split of a folder
is read in the same way.

Objects marked difficult are kept with their flag: they are trained on, and ignored when scoring (as
Detectron2 does, data/datasets/pascal_voc.py). Which boxes are taken: `box_checks.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings
from pretrain.common.lookup import near_matches
from pretrain.data.decode import pixel_limit, too_large_image
from pretrain.data.folders import IMAGE_SUFFIXES
from pretrain.data.root import check_present
from transfer.datasets.annotation_values import as_number
from transfer.datasets.box_checks import ROTATED, BoxCheck
from transfer.datasets.image_sizes import header_size
from transfer.datasets.samples import Instance, Sample, note_like_names
from transfer.datasets.voc_boxes import CORRECT, convert_box, is_zero_based
from transfer.datasets.voc_lists import XML_SUFFIX, FileIndex, read_list
from transfer.datasets.voc_xml import VocFile, VocObject, read_xml

VOC_CLASSES = tuple(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor".split()
)
NO_SIZE = "sizes are missing or 0; they were read from the images"
DIFFICULT = {"0": False, "0.0": False, "false": False, "no": False, "1": True, "1.0": True}
TRUE = ("true", "yes")
WORDS = "<difficult> is not 0 or 1: True and yes were read as 1, everything else as 0"


def check_layout(folder: Path, split: str) -> Path:
    """Returns the split's list file. Raises InputError with the expected tree if a part is
    missing.
    """
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    tree = (
        f"{folder}/{{JPEGImages/*.jpg, Annotations/*.xml, ImageSets/Main/{split}.txt}}"
        f"{_merged(folder)}"
    )
    check_present((folder, folder / "JPEGImages", folder / "Annotations", listing), lambda: tree)
    return listing


def _merged(folder: Path) -> str:
    """Returns the remedy if only one of VOC2007's archives was unpacked, or each in a separate
    folder.
    """
    if folder.name != "VOC2007":
        return ""
    return " (VOC2007 must hold trainval and test, merged)"


def read_classes(folder: Path) -> tuple[str, ...]:
    """Returns sorted class names over all XML files of the folder (every split, so that all agree).

    Raises InputError for XML files that cannot be read, and if there is no object.
    """
    findings = Findings(str(folder / "Annotations"))
    files, names = _all_files(folder), set()
    if not files:
        raise InputError(f"{folder / 'Annotations'} has no .xml file; check the folder")
    for name, file in files:
        if file.fault:
            _refuse_fault(findings, name, file.fault)
        names |= {found.name for found in file.objects if found.name}
    findings.report()
    if not names:
        raise InputError(
            f"no object is annotated in {folder / 'Annotations'}; annotate some, or check it"
        )
    note_like_names(sorted(names), findings)
    findings.report()
    return tuple(sorted(names))


def counts_from_zero(folder: Path) -> bool:
    """Returns whether any coordinate in the folder's XML files is below 1; a warning counts the
    boxes.
    """
    findings = Findings(str(folder / "Annotations"))
    objects = (
        (f"{name}{XML_SUFFIX}", found)
        for name, file in _all_files(folder)
        for found in file.objects
    )
    found = is_zero_based(objects, findings)
    findings.report()
    return found


def read_voc(
    folder: Path, split: str, classes: Sequence[str], zero_based: bool | None = None
) -> tuple[Sample, ...]:
    """Returns all images of a split, in the order of its list file.

    Args:
        zero_based: whether boxes are counted from 0; None: as `counts_from_zero` finds.

    Raises InputError, with the number of each kind and the first three files, for missing images
    and annotations, images that are listed twice, unreadable XML files, classes that are not in
    `classes`, and boxes that `box_checks.py` refuses.
    """
    listing = check_layout(folder, split)
    annotations = FileIndex(folder / "Annotations", [XML_SUFFIX])
    images = FileIndex(folder / "JPEGImages", IMAGE_SUFFIXES)
    findings = Findings(str(listing))
    names, missing = read_list(listing, annotations.find, findings)
    remedy = f"add them, or remove their lines{_merged(folder)}"
    for name in missing:
        like = annotations.like(name)
        where = str(folder / "Annotations" / f"{name}{XML_SUFFIX}")
        where += f" (there is {like}{XML_SUFFIX})" if like else ""
        findings.refuse("annotation files are missing", where, remedy)
    zero_based = counts_from_zero(folder) if zero_based is None else zero_based
    reader = _Reader({name: i for i, name in enumerate(classes)}, findings, zero_based)
    samples = []
    for name in names:
        path = annotations.path(name)
        image = images.path(name) or images.path(name.rpartition("/")[2])
        if image is None:
            where = str(folder / "JPEGImages" / f"{name}{IMAGE_SUFFIXES[0]}")
            findings.refuse("images are missing", where, remedy)
        elif path is not None and (sample := reader.sample(name, path, image)):
            samples.append(sample)
    reader.finish()
    findings.report()
    return tuple(samples)


def _all_files(folder: Path) -> list[tuple[str, VocFile]]:
    """Returns the name and record of every XML file of the folder."""
    index = FileIndex(folder / "Annotations", [XML_SUFFIX])
    paths = [(name, index.path(name)) for name in index]
    return [(name, read_xml(path)) for name, path in paths if path is not None]


def _refuse_fault(findings: Findings, name: str, fault: tuple[str, str, str]) -> None:
    kind, detail, remedy = fault
    findings.refuse(kind, f"{name}{XML_SUFFIX} ({detail})", remedy)


@dataclass
class _Reader:
    """Turns XML files into Samples; what is wrong with them goes to the findings."""

    index: dict[str, int]
    findings: Findings
    zero_based: bool

    def __post_init__(self) -> None:
        self._boxes = BoxCheck(self.findings)
        self._unknown: Counter[str] = Counter()
        self._first: dict[str, str] = {}  # file of each unknown class

    def sample(self, name: str, path: Path, image: Path) -> Sample | None:
        """Returns the image with its objects; None if the XML file cannot be read."""
        file = read_xml(path)
        if file.fault:
            _refuse_fault(self.findings, name, file.fault)
            return None
        size = file.size or self._size_of(path, image)
        if size is None:
            return None
        if size[0] * size[1] > pixel_limit():
            kind, remedy = too_large_image()
            self.findings.refuse(kind, f"{path.name} ({size[0]} x {size[1]})", remedy)
            return None
        read = [self._instance(found, path.name, size) for found in file.objects]
        instances = tuple(instance for instance in read if instance is not None)
        return Sample(str(image), name, size[1], size[0], instances)

    def finish(self) -> None:
        """To be called after the last file, before the findings report."""
        kind = f"objects have a class that is not one of the {len(self.index)} classes"
        for name, count in self._unknown.items():
            where = f"'{name}' in {self._first[name]}{near_matches(name, self.index)}"
            self.findings.refuse(
                kind, where, "correct the names, or list them in TRANSFER.CLASSES", count
            )
        self._boxes.finish()

    def _size_of(self, path: Path, image: Path) -> tuple[int, int] | None:
        try:
            size = header_size(str(image))
        except OSError as error:
            self.findings.refuse("images cannot be read", str(error), "restore or remove them")
            return None
        self.findings.note(NO_SIZE, path.name)
        return size

    def _instance(self, found: VocObject, where: str, size: tuple[int, int]) -> Instance | None:
        if found.name is None:
            self.findings.refuse("objects have no <name>", where, CORRECT)
            return None
        place = f"{where}: '{found.name}'"
        box = convert_box(found, self.zero_based, self.findings, place)
        taken = box is not None and self._boxes.add(place, box, *size)
        if taken and as_number(found.rotation):
            self.findings.note(ROTATED, f"{place} (rotation {found.rotation})")
        if found.name not in self.index:
            self._unknown[found.name] += 1
            self._first.setdefault(found.name, where)
            return None
        if box is None or not taken:
            return None
        return Instance(box, self.index[found.name], difficult=self._difficult(found, place))

    def _difficult(self, found: VocObject, place: str) -> bool:
        text = (found.difficult or "0").lower()
        if text not in DIFFICULT:
            self.findings.note(WORDS, f"{place} ({found.difficult})")
        return DIFFICULT.get(text, text in TRUE)
