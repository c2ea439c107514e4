"""Lists of image files that select a part of a training set.

The official ImageNet splits of 1 % and 10 % (google-research/simclr imagenet_subsets/) have one
file name without a folder per line, such as n01440764_10026.JPEG.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pretrain.common.errors import InputError
from transfer.checkpoints.files import is_remote
from transfer.classification.splits import Split

OFFICIAL_URL = "https://raw.githubusercontent.com/google-research/simclr/master/imagenet_subsets/"
# Files of the official lists, by a short name
OFFICIAL = {"simclr_1pct": "1percent.txt", "simclr_10pct": "10percent.txt"}


def read_list(source: str, lines: int = 0) -> list[str]:
    """Returns the file names in a list.

    Args:
        source: a file, a URL (downloaded once), or a name in OFFICIAL.
        lines: required number of names; 0: any number.

    Raises:
        InputError: the list is missing, empty or not text, cannot be downloaded, has the wrong
            number of names, or has a name twice.
    """
    source = OFFICIAL_URL + OFFICIAL[source] if source in OFFICIAL else source
    try:
        text = _local(source).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not a text file of image names ({error})") from error
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise InputError(
            f"{source} does not list any image; TRAIN.SPLIT_LIST needs one file name per line"
        )
    if lines and len(names) != lines:
        raise InputError(
            f"{source} lists {len(names)} images, but TRAIN.SPLIT_LINES expects {lines}; the list "
            "is incomplete or a different one: download it again, or set TRAIN.SPLIT_LINES 0"
        )
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise InputError(f"{source} lists {name} {count} times; keep each image once")
    return names


def list_sha256(names: Sequence[str]) -> str:
    """Returns a list's identity: the sha256 of its sorted names, independent of the file's path."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def part_of(split: Split, names: Sequence[str], source: str) -> Split:
    """Returns the images of `split` that a list names, in the split's order.

    Args:
        names: file names without folders, or paths that end in CLASS/FILE.
        source: path or name of the list, for the message.

    Raises:
        InputError: the split lacks some of the names, or several of its images have one of them.
    """
    depth = max(name.count("/") for name in names) + 1
    places: dict[str, list[int]] = {}
    for index in range(len(split)):
        parts = split.images.name(index).split("/")
        places.setdefault("/".join(parts[-depth:]), []).append(index)
    missing = [name for name in names if name not in places]
    if missing:
        raise InputError(
            f"{len(missing)} of the {len(names)} images in {source} are not in {split.name}, such "
            f"as {missing[0]}; check that the list and DATASETS.TRAIN belong together"
        )
    unclear = [name for name in names if len(places[name]) > 1]
    if unclear:
        raise InputError(
            f"{source}: {split.name} has several images with the name {unclear[0]}; list paths "
            "that end in CLASS/FILE"
        )
    return split.subset(sorted(places[name][0] for name in names))


def _local(source: str) -> Path:
    if not is_remote(source):
        if not Path(source).is_file():
            known = ", ".join(OFFICIAL)
            raise InputError(f"{source} does not exist; give a list's file, its URL, or {known}")
        return Path(source)
    from transfer.checkpoints.remote import download

    return download(source)
