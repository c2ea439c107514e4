"""The files of truth (masks, polygons, instances) of a split's images in an official layout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings


class Files(NamedTuple):
    """Holds an image and its files of truth in the order that was asked for."""

    image_id: str
    image: str
    truth: tuple[str, ...]


def pair_files(
    found: Iterable[tuple[str, Path, Sequence[Path]]], images: Path, truth: Path, tree: str
) -> list[Files]:
    """Returns the files of all images.

    Args:
        found: id, file and expected files of truth of each image.
        images, truth: the folders that have them.
        tree: the expected files, for the messages.

    Raises:
        InputError: the split has no image, or an image lacks a file of truth.
    """
    findings, files = Findings(str(truth)), []
    for image_id, image, expected in found:
        for missing in (str(one) for one in expected if not one.is_file()):
            findings.refuse("files of labels are missing", missing, f"expected {tree}")
        files.append(Files(image_id, str(image), tuple(map(str, expected))))
    findings.report()
    if not files:
        raise InputError(f"{images} has no image; expected {tree}")
    return files
