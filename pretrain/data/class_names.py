"""Readable names of the classes of a folder data set, from its `class_names.txt`.

Collections such as ImageNet name their class folders by identifiers. A file `class_names.txt`
next to or inside the split's folder gives each a name for readers: one line for each class, the
folder's name, then a tab or spaces, then one or more names separated by commas, of which the first
is used. The identifiers stay what classes are compared by.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pretrain.common.regular_file import MEGABYTE, read_regular

FILE_NAME = "class_names.txt"
MOST_BYTES = 4 * MEGABYTE

logger = logging.getLogger(__name__)


def readable_class_names(image: str, its_class: str, classes: Sequence[str]) -> dict[str, str]:
    """Returns {class: name} for the classes that the file names; {} if there is no such file.

    `image` is the path of any image of the data set, below the folder of its class. A name that is
    not such a path (of data sets without class folders) gives {}.

    If two classes have one name (the bird and the machine "crane"), both get their identifier
    behind it. A file that cannot be read is a warning: no number depends on it.
    """
    path = _file_of(image, its_class)
    if path is None:
        return {}
    try:
        lines = read_regular(path, MOST_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        logger.warning("%s is not read (%s): classes keep their folders' names", path, error)
        return {}
    known, found = set(classes), {}
    for line in lines:
        identifier, _, names = line.strip().replace("\t", " ", 1).partition(" ")
        name = names.strip().partition(",")[0].strip()
        if identifier in known and name:
            found[identifier] = name
    counts = Counter(found.values())
    return {k: name if counts[name] == 1 else f"{name} ({k})" for k, name in found.items()}


def _file_of(image: str, its_class: str) -> Path | None:
    """Returns the file in the folder with the class folders, or next to that folder."""
    for parent in Path(image).parents:
        if parent.name == its_class:
            places = (parent.parent / FILE_NAME, parent.parent.parent / FILE_NAME)
            return next((path for path in places if path.is_file()), None)
    return None
