"""Which file of a set is missing, or is not the official one? torchvision compares the MD5 sums of
CIFAR's and Flowers' files, but says only that a set is "not found or corrupted".

CIFAR's files are pickles: one that differs from the official file is never opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.common.findings import first_names


def official_sums(reader: Any) -> dict[str, str]:
    """Returns {file below the set's folder: MD5 sum}, as a class of torchvision.datasets lists
    them; {} for a set whose files it does not compare.
    """
    listed = dict([*getattr(reader, "train_list", []), *getattr(reader, "test_list", [])])
    if listed:  # CIFAR-10 and -100
        return {**listed, reader.meta["filename"]: reader.meta["md5"]}
    files: Mapping[str, tuple[str, str]] = getattr(reader, "_file_dict", {})  # Flowers-102
    return dict(entry for key, entry in files.items() if key != "image")  # that is the archive


def faults_of(folder: Path, sums: Mapping[str, str]) -> str:
    """Returns which files of a folder are missing, or differ from their MD5 sums, in one phrase;
    "" if none does.
    """
    from torchvision.datasets.utils import check_integrity  # a slow import

    lost = [name for name in sums if not (folder / name).is_file()]
    there = {name: md5 for name, md5 in sums.items() if name not in lost}
    changed = [name for name, md5 in there.items() if not check_integrity(folder / name, md5)]
    said = []
    if lost:
        said.append(
            f"{len(lost)} of {len(sums)} files are missing in {folder}: {first_names(lost)}"
        )
    if changed:
        said.append(
            f"files in {folder} are not the official ones (their MD5 sums differ): "
            f"{first_names(changed)}; unpack the archive again, or write a changed copy as class "
            "folders, which are read as folder:FOLDER:SPLIT"
        )
    return "; ".join(said)
