"""A folder's images in class folders, or flat: a path in, paths, labels and classes out."""

from __future__ import annotations

import os
from pathlib import Path

from pretrain.common.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


def scan_folder(folder: Path) -> tuple[list[str], list[int], list[str]]:
    """List a folder's images: (paths, labels, classes), sorted by class and path.

    Subfolders that hold images are classes; without any, the folder's own images have label -1.
    Raises `InputError` for a missing folder, and for one without images.
    """
    layout = f"expected {folder}/CLASS/IMAGE.jpg (class folders) or {folder}/IMAGE.jpg (flat)"
    if not folder.is_dir():
        raise InputError(f"image folder {folder} does not exist; {layout}")
    with os.scandir(folder) as entries:
        subfolders = sorted(entry.name for entry in entries if entry.is_dir())
    found = [(name, _images_below(folder / name)) for name in subfolders]
    found = [(name, paths) for name, paths in found if paths]
    if found:
        paths = [path for _, files in found for path in files]
        labels = [label for label, (_, files) in enumerate(found) for _ in files]
        return paths, labels, [name for name, _ in found]
    with os.scandir(folder) as entries:
        flat = sorted(e.path for e in entries if e.name.lower().endswith(IMAGE_SUFFIXES))
    if not flat:
        raise InputError(f"image folder {folder} holds no images; {layout}")
    return flat, [-1] * len(flat), []


def _images_below(folder: Path) -> list[str]:
    return sorted(
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(IMAGE_SUFFIXES)
    )
