"""Lists of the image files that make up a part of a training set, and the part that they name.

The official ImageNet splits of 1 % and 10 % (google-research/simclr imagenet_subsets/) hold one
bare file name per line, such as n01440764_10026.JPEG.
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
# A short name for the official list -> its file there
OFFICIAL = {"simclr_1pct": "1percent.txt", "simclr_10pct": "10percent.txt"}


def read_list(source: str, lines: int = 0) -> list[str]:
    """Returns the file names in a list.

    Args:
        source: a file, a URL (downloaded once), or a name of OFFICIAL.
        lines: how many names there must be; 0: any number.

    Raises:
        InputError: the list is missing, empty or not text, cannot be downloaded, has a different
            number of names, or has a name twice.
    """
    source = OFFICIAL_URL + OFFICIAL[source] if source in OFFICIAL else source
    try:
        text = _local(source).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not a text file of image names ({error})") from error
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise InputError(f"{source} lists no images")
    if lines and len(names) != lines:
        raise InputError(
            f"{source} lists {len(names)} images, where TRAIN.SPLIT_LINES says {lines}: not the "
            "split that is meant, or not whole"
        )
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise InputError(f"{source} lists {name} {count} times; an image belongs there once")
    return names


def list_sha256(names: Sequence[str]) -> str:
    """Returns a list's identity: the sha256 of its names, in whichever order and file they are."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()


def part_of(split: Split, names: Sequence[str], source: str) -> Split:
    """Returns the images of `split` that a list names, in the split's order.

    Args:
        names: bare file names, or paths that end in CLASS/FILE.
        source: of the list, for the message.

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
            f"{source} names {len(missing)} of {len(names)} images that {split.name} lacks, "
            f"such as {missing[0]}"
        )
    unclear = [name for name in names if len(places[name]) > 1]
    if unclear:
        raise InputError(f"{source}: {split.name} has several images of the name {unclear[0]}")
    return split.subset(sorted(places[name][0] for name in names))


def _local(source: str) -> Path:
    if not is_remote(source):
        if not Path(source).is_file():
            known = ", ".join(OFFICIAL)
            raise InputError(f"no list of images at {source}; give a file, a URL, or {known}")
        return Path(source)
    from transfer.checkpoints.remote import download

    return download(source)
