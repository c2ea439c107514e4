"""The identity of a split's data: images and their annotations in, a sha256 out.

Two splits have the same fingerprint if they have the same images by name, size and annotation. The
fingerprint does not depend on the order of files, lists and annotations. It does not depend on the
place of the data either: names are relative to the deepest folder that contains all images. It is
the sha256 of several parts, and each part is a sha256 over all images in the order of their names:

- names, relative;
- sizes of the files in bytes (for pixels in memory: their CRC-32);
- content: a hash of `READ` files, evenly spaced, because files of some formats are equally long;
- labels, and for detection sets boxes and masks: see `Annotations`.

Asking for the sizes of 1.28 million files takes 3 seconds on a local disk whose entries are in
memory, and minutes on a network file system. If there are more than `ALL_SIZES` images, only the
sizes of `SOME_SIZES` evenly spaced ones are used; names and labels are always used for all images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pretrain.common.errors import InputError
from pretrain.common.findings import warn_once
from pretrain.data.origins import Origin, evenly

FORMAT = 1  # version of the hashed content: fingerprints of two versions cannot be compared
ALL_SIZES, SOME_SIZES, READ = 200_000, 50_000, 128
ORDERING = ("names", "boxes")
WORDS = {
    "names": "the names of the files",
    "sizes": "the sizes of the files",
    "content": "the content of the files",
    "labels": "the labels",
    "boxes": "the boxes",
    "masks": "the masks",
}


@dataclass(frozen=True)
class Fingerprint:
    """Is the identity of a split's content.

    Attributes:
        objects: the number of annotated objects; None if the images have only labels.
        sha256: 64 hexadecimal digits.
        parts: the first 16 digits of the sha256 of each part; {} if they are not known.
    """

    images: int
    objects: int | None
    classes: int
    sha256: str
    parts: Mapping[str, str] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Returns the fields about the split in a record."""
        return {
            "images": self.images,
            "objects": self.objects,
            "classes": self.classes,
            "fingerprint": self.sha256,
        }

    def to_dict(self) -> dict[str, Any]:
        """Returns builtins for checkpoints and folders; `read_fingerprint` reads them."""
        return {**self.facts(), "parts": dict(self.parts), "format": FORMAT}

    def counts(self) -> str:
        """Returns the counts as text such as "1203 images with 4210 objects"."""
        text = f"{self.images} images"
        return text if self.objects is None else f"{text} with {self.objects} objects"


class Annotations(Protocol):
    """Describes the annotations of N images.

    Attributes:
        objects: the number of annotated objects; None if the images have only labels.
        classes: the number of classes.
    """

    @property
    def objects(self) -> int | None: ...

    @property
    def classes(self) -> int: ...

    def keys(self) -> np.ndarray:
        """Returns uint64 (N,): equal for images with equal annotations; they order images of equal
        name.
        """
        ...

    def parts(self, order: np.ndarray) -> dict[str, Sequence[bytes]]:
        """Returns the bytes to hash, by the name of the part, with the images in this order."""
        ...


class ClassLabels:
    """Describes labels of complete images; see `Annotations`.

    Args:
        labels: (N,) class numbers, -1 for none. For images with several labels: (N, C), one integer
            for each class.
        names: the class names. Only those that occur count, and their order does not.
    """

    objects = None

    def __init__(self, labels: np.ndarray, names: Sequence[str]) -> None:
        self.classes = len(names)
        if labels.ndim == 2:
            columns = sorted(range(len(names)), key=lambda column: names[column])
            self._names = [names[column] for column in columns]
            self._labels = np.ascontiguousarray(labels[:, columns], dtype="<i8")
            return
        self._names, self._labels = by_name(labels, names)

    def keys(self) -> np.ndarray:
        """See `Annotations.keys`."""
        return mixed(self._labels.reshape(len(self._labels), -1))

    def parts(self, order: np.ndarray) -> dict[str, Sequence[bytes]]:
        """See `Annotations.parts`."""
        return {"labels": [encoded(self._names), self._labels[order].tobytes()]}


def fingerprint_of(origin: Origin, annotations: Annotations) -> Fingerprint:
    """Returns the fingerprint of N images and their annotations."""
    names = relative(origin.names())
    count = len(names)
    order = np.array(sorted(range(count), key=names.__getitem__), np.int64)
    sized = order[evenly(count, count if count <= ALL_SIZES else SOME_SIZES)]
    sizes = np.full(count, -1, np.int64)
    sizes[sized] = origin.stamps(sized)[:, 0]
    order = _ordered(order, names, sizes, annotations)
    read = order[evenly(count, READ)]
    hashed: dict[str, Sequence[bytes]] = {
        "names": [encoded([names[row] for row in order.tolist()])],
        "sizes": [sizes[order].astype("<i8").tobytes()],
        "content": [origin.checksums(read).astype("<i8").tobytes()],
        **annotations.parts(order),
    }
    whole = {name: _sha256(pieces) for name, pieces in hashed.items()}
    text = json.dumps([FORMAT, count, annotations.objects, whole], sort_keys=True)
    return Fingerprint(
        images=count,
        objects=annotations.objects,
        classes=annotations.classes,
        sha256=_sha256([text.encode()]),
        parts={name: digest[:16] for name, digest in whole.items()},
    )


def read_fingerprint(content: Any) -> Fingerprint | None:
    """Reads the output of `Fingerprint.to_dict` or `facts`. Returns None for anything else, and for
    another format."""
    if not isinstance(content, Mapping) or content.get("format", FORMAT) != FORMAT:
        return None
    parts = content.get("parts", {})
    known = isinstance(content.get("images"), int) and isinstance(parts, Mapping)
    if not known or not isinstance(content.get("fingerprint"), str):
        return None
    objects, classes = content.get("objects"), content.get("classes")
    return Fingerprint(
        content["images"],
        objects if isinstance(objects, int) else None,
        classes if isinstance(classes, int) else 0,
        content["fingerprint"],
        {str(name): str(digest) for name, digest in parts.items()},
    )


def difference(
    then: Fingerprint, now: Fingerprint, sides: tuple[str, str] = ("then", "now")
) -> str:
    """Returns how two fingerprints differ, in a phrase with both counts; "" if they are equal.

    Args:
        sides: the names of the two in the phrase.
    """
    if then.sha256 == now.sha256:
        return ""
    if then.counts() != now.counts():
        return f"{then.counts()} {sides[0]}, {now.counts()} {sides[1]}"
    known = [name for name in then.parts if name in now.parts]
    changed = [name for name in known if then.parts[name] != now.parts[name]]
    for name in ORDERING:  # if these differ, the parts after them are ordered differently
        if name in changed:
            changed = [name]
            break
    words = " and ".join(WORDS.get(name, name) for name in changed)
    what = f": {words} differ" if changed else ""
    return f"{then.counts()} {sides[0]} and {sides[1]}, but different content{what}"


def check_training_data(path: Path, kept: Any, now: Fingerprint) -> None:
    """Raises InputError if a training checkpoint was made with different data than this run has.

    Args:
        path: the checkpoint's file.
        kept: what the file says about its data; files of older versions say nothing.
    """
    then = read_fingerprint(kept)
    if then is None:
        warn_once(
            f"{path} does not say which data it was trained on (an older version wrote it): the "
            "run continues without comparing the training data"
        )
    elif differ := difference(then, now):
        raise InputError(
            f"{path} was trained on different training data ({differ}); restore that data, or "
            "start again with another --output"
        )


def relative(names: Sequence[bytes]) -> list[bytes]:
    """Returns the names without the deepest folder that contains all of them."""
    if not names:
        return []
    first, last = min(names), max(names)  # all names between them share their common prefix
    shared = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), len(first))
    begin = first.rfind(b"/", 0, shared) + 1
    return [name[begin:] for name in names]


def by_name(labels: np.ndarray, names: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Returns the names that occur, sorted, and each label as its place among them ("<i8"); -1
    stays -1.
    """
    used = sorted({int(label) for label in np.unique(labels) if label >= 0}, key=names.__getitem__)
    places = np.full(len(names) + 1, -1, "<i8")  # the last one is that of -1
    places[used] = np.arange(len(used))
    return [names[label] for label in used], places[labels]


def encoded(texts: Sequence[str] | Sequence[bytes]) -> bytes:
    """Texts as bytes. Different lists give different bytes, because no text contains a NUL."""
    parts = [t if isinstance(t, bytes) else t.encode("utf-8", "surrogatepass") for t in texts]
    return b"\0".join(parts)


def mixed(columns: np.ndarray) -> np.ndarray:
    """Returns uint64 (n,): a number that depends on all values of each row (n, k) of 64 bits
    each.
    """
    found = np.full(len(columns), 0x9E3779B97F4A7C15, np.uint64)
    for column in np.ascontiguousarray(columns.T).view(np.uint64):
        found = (found ^ column) * np.uint64(0xBF58476D1CE4E5B9)
        found ^= found >> np.uint64(29)
    return found


def _ordered(
    order: np.ndarray, names: Sequence[bytes], sizes: np.ndarray, annotations: Annotations
) -> np.ndarray:
    """Returns the order by name. Images of equal names are ordered by their sizes and
    annotations.
    """
    ordered = [names[row] for row in order.tolist()]
    new = np.array([one != other for one, other in zip(ordered, ordered[1:])], bool)
    if new.all():
        return order
    place = np.empty_like(order)
    place[order] = np.concatenate([[0], np.cumsum(new)])
    return np.lexsort((annotations.keys(), sizes, place))


def _sha256(pieces: Sequence[bytes]) -> str:
    found = hashlib.sha256()
    for piece in pieces:
        found.update(len(piece).to_bytes(8, "little"))
        found.update(piece)
    return found.hexdigest()
