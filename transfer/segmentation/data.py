"""Semantic segmentation data sets: images, each with a mask of class numbers.

DATASETS.TRAIN and DATASETS.TEST name a built-in set (below), `semseg:FOLDER:SPLIT` (FOLDER is
absolute or below the data sets' root; the last colon separates), or detection's
`coco:FOLDER:SPLIT`, whose objects' masks become class maps (`instances.py`), or
`cityscapes:FOLDER:SPLIT` in that set's own layout (`cityscapes.py`). A semseg folder holds
JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/SPLIT.txt, as VOC2012 does. A mask is a
PNG with one number per pixel, or with a palette: 0..K-1, including the background, and 255 for
pixels that are not used in training or scores. ADE20K is read as its archive unpacks
(`ade20k.py`).

VOC12aug: SBD's converted masks are in SegmentationClassAug/; train_aug.txt lists the 1,464 images
of train and the 9,118 that SBD adds. An image's mask is in SegmentationClass if it exists there,
else in SegmentationClassAug (as in open-mmlab/mmsegmentation, pascal_voc12_aug.py).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings
from pretrain.common.logs import progress
from pretrain.common.lookup import find
from pretrain.common.printable import shown
from pretrain.common.regular_file import MEGABYTE, read_regular
from pretrain.data.fingerprint import Fingerprint, encoded, fingerprint_of
from pretrain.data.folders import IMAGE_SUFFIXES
from pretrain.data.origins import Files, evenly
from pretrain.data.root import below_root, check_present, datasets_root
from transfer.datasets import registry
from transfer.datasets.checks_before_training import check_masks, describe
from transfer.datasets.cityscapes_labels import INSTANCES, LABELS, check_classes, read_files
from transfer.datasets.numbered_pixels import read_mask
from transfer.datasets.samples import Objects, Sample, object_labels_of
from transfer.datasets.voc import VOC_CLASSES
from transfer.datasets.voc_lists import FileIndex, read_list
from transfer.detection.weights.detector_file import shown_classes
from transfer.segmentation import ade20k, cityscapes
from transfer.segmentation.instances import IGNORE, class_map

logger = logging.getLogger(__name__)

PREFIX, OBJECTS, CITYSCAPES, ADE20K = "semseg", "coco", "cityscapes", "ade20k"
MASK_FOLDERS = ("SegmentationClass", "SegmentationClassAug")
CLASSES_FILE = "classes.txt"
BACKGROUND = "background"
READ_MASKS = 25_000  # most mask files whose content is compared; ADE20K has fewer
CLASSES = (BACKGROUND, *VOC_CLASSES)
WHOLE = 2**30  # bytes; every mask is smaller
# by name: folder below the root, split
BUILTIN = {
    "voc_2012_sem_seg_train_aug": ("VOC2012", "train_aug"),
    "voc_2012_sem_seg_train": ("VOC2012", "train"),
    "voc_2012_sem_seg_val": ("VOC2012", "val"),
    "voc_2012_sem_seg_trainval": ("VOC2012", "trainval"),
    "cityscapes_fine_sem_seg_train": ("cityscapes", "train"),
    "cityscapes_fine_sem_seg_val": ("cityscapes", "val"),
    "ade20k_sem_seg_train": ("ADEChallengeData2016", "training"),
    "ade20k_sem_seg_val": ("ADEChallengeData2016", "validation"),
}
_HINTS = {
    "train_aug": " (train_aug.txt lists 10,582 images: those of train.txt and SBD's 9,118, whose "
    "masks are in SegmentationClassAug)"
}


@dataclass(frozen=True)
class SemanticSample:
    """Is an image and its mask: a file, or objects from which the mask is drawn.

    Attributes:
        numbers: 256 bytes, the class of each number in the mask's file; None: they are equal.
        instance_name: a file of Cityscapes' instances; then the mask has Cityscapes' label ids.
    """

    file_name: str
    mask_name: str  # without a mask file: the name for error messages
    image_id: str
    objects: Sample | None = None
    numbers: bytes | None = None
    instance_name: str | None = None

    def mask(self) -> np.ndarray:
        """Returns class numbers, uint8 (H, W); InputError for a file that is not a mask."""
        if self.objects is not None:
            return class_map(self.objects)
        mask = read_mask(self.mask_name)
        if self.instance_name is not None:
            return cityscapes.class_numbers(mask, self.mask_name)
        return mask if self.numbers is None else np.frombuffer(self.numbers, np.uint8)[mask]


class MaskFiles:
    """Describes files of masks as `pretrain.data.fingerprint.Annotations`.

    If there are more than `READ_MASKS` files, only `READ_MASKS` of them are read, evenly spaced.

    Args:
        names: names of the classes, in the order of the numbers in the masks.
    """

    objects = None

    def __init__(self, masks: Files, names: Sequence[str]) -> None:
        self.classes, self._names = len(names), names
        self._sums = np.full(len(masks), -1, "<i8")
        read = np.array(evenly(len(masks), READ_MASKS), np.int64)
        self._sums[read] = masks.checksums(read, WHOLE)

    def keys(self) -> np.ndarray:
        """See `Annotations.keys`."""
        return self._sums.view(np.uint64)

    def parts(self, order: np.ndarray) -> dict[str, Sequence[bytes]]:
        """See `Annotations.parts`."""
        return {"labels": [encoded(self._names)], "masks": [self._sums[order].tobytes()]}


@dataclass(frozen=True)
class SemanticSet:
    """Is a split; `classes[i]` is the name of the class with number i."""

    name: str
    samples: tuple[SemanticSample, ...]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def origin(self) -> Files:
        """Returns the files of the images as an origin."""
        return Files([sample.file_name for sample in self.samples])

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Returns the fingerprint of the data; it reads the mask files."""
        objects = [sample.objects for sample in self.samples if sample.objects is not None]
        if not objects:
            masks = Files([sample.mask_name for sample in self.samples])
            return fingerprint_of(self.origin, MaskFiles(masks, self.classes))
        labels = object_labels_of(objects, Objects.of(objects), self.classes[1:])
        return fingerprint_of(self.origin, labels)

    def limited(self, count: int) -> SemanticSet:
        """Returns the first `count` images (0: all images)."""
        return self if count <= 0 else replace(self, samples=self.samples[:count])


def open_sets(
    names: Sequence[str], classes: Sequence[str] = (), like: SemanticSet | None = None
) -> SemanticSet:
    """Returns one SemanticSet of all named splits, one after the other.

    `classes` lists the classes explicitly; with `like` (the training set) a test set has the same
    classes. Otherwise they are VOC's, or those in FOLDER/classes.txt (one per line), or the numbers
    in all masks. Raises InputError for a missing file; the message shows the expected tree.
    """
    if not names:
        raise InputError("no data set is named: set DATASETS.TRAIN and DATASETS.TEST")
    if any(name.startswith(f"{OBJECTS}:") for name in names):
        return _open_objects(names, tuple(classes) or (like.classes if like else ()))
    if any(map(_is_cityscapes, names)):
        return _open_cityscapes(names, tuple(classes) or (like.classes if like else ()))
    samples: list[SemanticSample] = []
    for name in names:
        samples += _read_ade20k(name) if _is_ade20k(name) else read_split(*locate(name))
    found = tuple(classes) or (like.classes if like else _classes(names, samples))
    if len(set(found)) != len(found):
        raise InputError(f"a class is listed twice: {', '.join(found)}; list it once")
    return SemanticSet("+".join(names), tuple(samples), found)


def _open_objects(names: Sequence[str], classes: tuple[str, ...]) -> SemanticSet:
    if not all(name.startswith(f"{OBJECTS}:") for name in names):
        raise InputError(f"data sets {', '.join(names)} mix masks and objects; use only one kind")
    if classes and classes[0] != BACKGROUND:
        raise InputError(f"TRANSFER.CLASSES must begin with {BACKGROUND!r}, got {classes[0]!r}")
    found = registry.open_sets(names, classes[1:])
    check_masks(found, "annotate or remove them")
    logger.info("%s", describe(found))
    samples = tuple(
        SemanticSample(s.file_name, f"of {s.file_name}", str(s.image_id), s) for s in found.samples
    )
    return SemanticSet(found.name, samples, (BACKGROUND, *found.classes))


def _is_ade20k(name: str) -> bool:
    return name.startswith(f"{ADE20K}_")


def _read_ade20k(name: str) -> list[SemanticSample]:
    return [
        SemanticSample(one.image, one.truth[0], one.image_id, numbers=ade20k.NUMBERS)
        for one in ade20k.read_files(*locate(name))
    ]


def _is_cityscapes(name: str) -> bool:
    return name.startswith((f"{CITYSCAPES}:", f"{CITYSCAPES}_"))


def _open_cityscapes(names: Sequence[str], classes: tuple[str, ...]) -> SemanticSet:
    if not all(map(_is_cityscapes, names)):
        raise InputError(f"data sets {', '.join(names)} mix layouts; use only one layout")
    check_classes(names[0], classes, cityscapes.CLASSES)
    samples = tuple(
        SemanticSample(one.image, one.truth[0], one.image_id, instance_name=one.truth[1])
        for name in names
        for one in read_files(*locate(name), (LABELS, INSTANCES))
    )
    return SemanticSet("+".join(names), samples, cityscapes.CLASSES)


def locate(name: str) -> tuple[Path, str]:
    """Returns folder and split of a name. Raises InputError for an unknown or malformed name."""
    kind, _, rest = name.partition(":")
    if kind in (PREFIX, CITYSCAPES) and ":" in name:
        text, _, split = rest.rpartition(":")
        if not text or not split:
            raise InputError(f"data set '{name}' needs the form {kind}:FOLDER:SPLIT")
        return below_root(text), split
    folder_name, split = find(name, BUILTIN, "semantic segmentation data set")
    return datasets_root() / folder_name, split


def read_split(folder: Path, split: str) -> list[SemanticSample]:
    """Returns all images of a split, in the order of its list file; every file must exist."""
    listing = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
    tree = _tree(folder, split)
    check_present((folder, folder / "JPEGImages", listing), lambda: tree)
    images = FileIndex(folder / "JPEGImages", IMAGE_SUFFIXES)
    masks = [FileIndex(folder / place, [".png"]) for place in MASK_FOLDERS]
    findings = Findings(str(listing))
    names, missing = read_list(listing, images.find, findings)
    remedy = f"add them, or remove their lines; expected {tree}"
    for name in missing:
        where = str(folder / "JPEGImages" / f"{name}{IMAGE_SUFFIXES[0]}")
        findings.refuse("images are missing", where, remedy)
    samples = []
    for name in names:
        found = [path for index in masks if (path := index.path(name))]
        if found:
            samples.append(SemanticSample(str(images.path(name)), str(found[0]), name))
        else:
            places = " nor in ".join(str(folder / place) for place in MASK_FOLDERS)
            findings.refuse(f"masks are neither in {places}", f"{name}.png", remedy)
    findings.report()
    return samples


def wrong_numbers(mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the numbers in a uint8 mask that are neither a class nor 255, in increasing order."""
    counts = np.bincount(mask.reshape(-1), minlength=256)
    counts[:num_classes] = counts[IGNORE] = 0
    return np.flatnonzero(counts)


def check_values(mask: np.ndarray, num_classes: int, path: str) -> None:
    """Raises InputError for a number that is not a class and not 255."""
    wrong = wrong_numbers(mask, num_classes)
    if wrong.size:
        raise InputError(
            f"mask {path} has the number {wrong[0]}, but there are {num_classes} classes "
            f"(0 to {num_classes - 1}; {IGNORE} is ignored); correct the mask or the classes"
        )


def _tree(folder: Path, split: str) -> str:
    masks = "SegmentationClass/*.png, " + (
        "SegmentationClassAug/*.png, " if split in _HINTS else ""
    )
    return f"{folder}/{{JPEGImages/*.jpg, {masks}ImageSets/Segmentation/{split}.txt}}" + _HINTS.get(
        split, ""
    )


def _classes(names: Sequence[str], samples: Sequence[SemanticSample]) -> tuple[str, ...]:
    if len(set(map(_is_ade20k, names))) > 1:
        raise InputError(f"data sets {', '.join(names)} have different classes; use only one kind")
    if _is_ade20k(names[0]):
        return ade20k.read_classes(locate(names[0])[0])
    if all(name in BUILTIN for name in names):
        return CLASSES
    listed = {locate(name)[0] / CLASSES_FILE for name in names}
    files = sorted(path for path in listed if path.is_file())
    if files:
        texts = [_read_classes(file) for file in files]
        if any(text != texts[0] for text in texts):
            raise InputError(
                f"{files[0]} and {files[1]} list different classes; they must be the same"
            )
        return texts[0]
    highest = 0
    for sample in progress(samples, desc="read classes", leave=False):
        mask = read_mask(sample.mask_name)
        highest = max(highest, int(mask.max(initial=0, where=mask != IGNORE)))
    return tuple(map(str, range(highest + 1)))


def check_listed_classes(names: Sequence[str], classes: Sequence[str], owner: str) -> None:
    """Raises InputError if a folder's classes.txt gives the numbers of its masks another meaning.

    Args:
        names: names of the test sets.
        classes: that it is scored with, by number; bare numbers, of data without names, mean any.
        owner: what has these classes, for the message.
    """
    if tuple(classes) == tuple(map(str, range(len(classes)))):
        return
    own = [name for name in names if name.startswith(f"{PREFIX}:")]
    for file in sorted({locate(name)[0] / CLASSES_FILE for name in own}):
        listed = _read_classes(file) if file.is_file() else tuple(classes)
        if listed != tuple(classes):
            raise InputError(
                f"{file} lists the classes {shown_classes(listed)}, but {owner} has "
                f"{shown_classes(classes)}: a number in a mask must mean the same class in both; "
                "correct the file and the masks, or name the classes of all masks with "
                "TRANSFER.CLASSES"
            )


def _read_classes(file: Path) -> tuple[str, ...]:
    """Returns the names of a list of classes, one a line."""
    try:
        text = read_regular(file, MEGABYTE).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} is not a list of classes in UTF-8 ({error}); save it in that encoding"
        ) from None
    names = tuple(filter(None, map(str.strip, text.splitlines())))
    for name in names:
        if not name.isprintable():
            raise InputError(
                f"{file} has the class name {shown(name)}, which cannot be printed; rename it"
            )
    if not names:
        raise InputError(
            f"{file} does not list any class; write one name on each line, or remove the file"
        )
    return names
