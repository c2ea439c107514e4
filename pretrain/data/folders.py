"""A folder's images in class folders, or flat: a path in, the list of its files out.

Names that begin with a dot, and folders and files that operating systems create (`__MACOSX`,
`@eaDir`, `Thumbs.db`), are skipped at every depth. Files that do not have the suffix of an image
are left out and counted.
"""

from __future__ import annotations

import errno
import functools
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings, first_names
from pretrain.data.file_list import FileList
from pretrain.data.root import missing

# If several files have the same name, the earlier suffix is chosen (VOC's lists have no suffix)
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".jfif", ".jpe", ".mpo", ".tif", ".tiff", ".bmp", ".dib", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".gif", ".apng", ".tga", ".pcx", ".sgi", ".qoi"),
    *(".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
)
# Files and folders that Windows, macOS, NAS systems (Synology, QNAP) and Linux create in folders of
# pictures. Names that begin with a dot need no entry.
SYSTEM_NAMES = {
    *("__macosx", "network trash folder", "temporary items", "icon\r"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler", "recycled"),
    *("system volume information", "found.000", "msocache"),
    *("@eadir", "#recycle", "#snapshot", "@tmp", "@sharesnap", "@sharebin"),
    *("@recycle", "@recently-snapshot", "@__thumb", "@upload_cache", "lost+found", "__pycache__"),
    *("~snapshot", "paxheader", "paxheaders"),
}
# What Windows and macOS note about a file, which WSL and Linux shares show as a second file
STREAMS = (":zone.identifier", ":encryptable", ":afp_afpinfo", ":afp_resource")
HIDDEN = "hidden or system files"
NO_FILE = "neither a file nor a folder"
NO_SUFFIX = "without a suffix"
# Files that people keep next to their pictures: no image is lost if they are left out
COMPANIONS = {".txt", ".json", ".xml", ".csv", ".md", ".yaml", ".yml", ".html", HIDDEN}
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}
LINKED = "links were not followed, because the folders they point to are read elsewhere"
# A class that is still packed is missing in the list of classes
ARCHIVES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".7z", ".rar")
WORDNET_ID = re.compile(r"n\d{8}")  # ImageNet's classes, each of which comes as an archive


def scan_folder(folder: Path) -> FileList:
    """Lists a folder's images, sorted by class and path. Subfolders that contain images are
    classes. If there are none, the folder's own images have no label. `left_out` counts, by suffix,
    the files that are not read, and the hidden ones as HIDDEN.

    If a link points to a folder, that folder is read once. A folder inside the scanned folder is
    read at its own place, and a folder above it is not read; a warning counts such links. A link
    that leads nowhere, or only to other links, is an image that cannot be read.

    Raises InputError for a folder that is missing, that contains no images, or that contains images
    both directly and in subfolders. Also raises it if some class folders have images and others
    have none, or if a class of ImageNet is still an archive next to the class folders.
    """
    layout = f"expected {folder}/CLASS/IMAGE.jpg (class folders) or {folder}/IMAGE.jpg (flat)"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"image folder {folder} is a file, not a folder; {layout}")
    if not folder.is_dir():
        remedy = f"{layout}; folder:FOLDER:SPLIT means FOLDER/SPLIT, and folder:FOLDER means the "
        raise missing(folder, remedy + "folder itself", "image folder ")
    walk = _Walk(folder)
    flat, by_class = walk.read()
    full = {name: part for name, part in by_class.items() if part.images}
    left_out = sum((part.left_out for part in by_class.values()), walk.own.left_out)
    if flat and full:
        _refuse_two_levels(folder, flat, full)
    if full and len(full) < len(by_class):
        _refuse_empty(folder, {n: part for n, part in by_class.items() if n not in full})
    if not flat and not full:
        more = f"; left out: {describe_left_out(left_out)}" if left_out else ""
        raise InputError(f"image folder {folder} contains no images; {layout}{more}")
    _report(folder, walk, full)
    if not full:
        return FileList.pack(flat, [-1] * len(flat), [], left_out)
    paths = (path for part in full.values() for path in part.images)
    labels = [label for label, part in enumerate(full.values()) for _ in part.images]
    return FileList.pack(paths, labels, list(map(_class_name, full)), left_out)


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder of this name belongs to the operating system, not to the
    user.
    """
    low = name.lower()
    return low.startswith(".") or low in SYSTEM_NAMES or low.endswith(STREAMS)


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """Returns the counts in one phrase: "14 .heic, 3 .txt, 2 hidden or system files"."""
    ordered = sorted(left_out.items(), key=lambda item: (item[0] == HIDDEN, -item[1], item[0]))
    return ", ".join(f"{count} {suffix}" for suffix, count in ordered)


def loses_images(left_out: Mapping[str, int]) -> bool:
    """Returns whether some of the files that were left out may be pictures."""
    return bool(left_out.keys() - COMPANIONS)


@functools.cache
def readable_suffixes() -> tuple[str, ...]:
    """Returns the IMAGE_SUFFIXES that this installation of Pillow can open."""
    known = Image.registered_extensions()
    return tuple(suffix for suffix in IMAGE_SUFFIXES if suffix in known)


@dataclass
class _Part:
    """The content of one class folder at any depth, or the files directly in the scanned folder."""

    images: list[str] = field(default_factory=list)
    archives: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    links: int = 0  # number of links that were not followed


class _Walk:
    """Reads a folder and everything below it, each real folder once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.own = folder, _Part()
        self.links: list[str] = []  # links that were not followed
        self._by_class: dict[str, _Part] = {}
        self._suffixes = readable_suffixes()
        real = folder.resolve()
        self._seen = {_identity(str(path)) for path in (real, *real.parents)}
        self._linked: list[tuple[str, _Part]] = []  # linked folders, read after the real ones

    def read(self) -> tuple[list[str], dict[str, _Part]]:
        """Returns the folder's own images, and the content of each of its subfolders by sorted
        name.
        """
        for path in sorted(self._list(str(self.folder), self.own)):
            self._below(path, self._class(path))
        while self._linked:
            linked, self._linked = sorted(self._linked, key=lambda item: item[0]), []
            for path, part in linked:
                self._below(path, self._class(path) if part is self.own else part)
        for part in self._by_class.values():
            part.images.sort()
        return sorted(self.own.images), dict(sorted(self._by_class.items()))

    def _class(self, path: str) -> _Part:
        return self._by_class.setdefault(os.path.basename(path), _Part())

    def _below(self, folder: str, part: _Part) -> None:
        waiting = [folder]
        while waiting:
            path = waiting.pop()
            identity = _identity(path)
            if identity in self._seen:
                self.links.append(path)
                part.links += 1
                continue
            self._seen.add(identity)
            waiting += self._list(path, part)

    def _list(self, folder: str, part: _Part) -> list[str]:
        """Adds a folder's own files to the part; returns its real subfolders."""
        subfolders, images, suffixes = [], part.images, self._suffixes
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name.lower()
                    if name[0] == "." or name in SYSTEM_NAMES or name.endswith(STREAMS):
                        part.left_out[HIDDEN] += 1
                    elif _is_folder(entry):
                        if entry.is_symlink():
                            self._linked.append((entry.path, part))
                        else:
                            subfolders.append(entry.path)
                    elif not entry.is_symlink() and not entry.is_file():
                        part.left_out[NO_FILE] += 1  # reading a pipe would never end
                    elif name.endswith(suffixes):
                        images.append(entry.path)
                    else:
                        part.left_out[os.path.splitext(name)[1] or NO_SUFFIX] += 1
                        if name.endswith(ARCHIVES):
                            part.archives.append(entry.name)
        except OSError as error:
            raise InputError(
                f"folder {folder} cannot be listed ({error.strerror}); check its permissions"
            ) from error
        return subfolders


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one; a link that only leads to links is not."""
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise


def _class_name(folder: str) -> str:
    """The name of a class as valid text: records, configs and reports could not store any other.

    Bytes of a folder's name that are not UTF-8 are written as escapes.
    """
    return os.fsencode(folder).decode("utf-8", "backslashreplace")


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _refuse_two_levels(folder: Path, flat: list[str], full: Mapping[str, _Part]) -> None:
    below = sum(len(part.images) for part in full.values())
    raise InputError(
        f"image folder {folder} contains {len(flat)} images directly and {below} images in "
        f"{len(full)} subfolders ({first_names(list(full))}); put all images into class folders, "
        "or move the subfolders elsewhere to use the folder's own images"
    )


def _refuse_empty(folder: Path, empty: Mapping[str, _Part]) -> None:
    findings = Findings(f"image folder {folder}")
    for name, part in empty.items():
        held = describe_left_out(part.left_out)
        if part.links:
            held = "a link to a folder that is read elsewhere, or that contains this folder"
        remedy = "add images with a suffix that is read, or remove the folder"
        findings.refuse("class folders without images", f"{name} ({held or 'empty'})", remedy)
    findings.report()


def _report(folder: Path, walk: _Walk, full: Mapping[str, _Part]) -> None:
    findings = Findings(f"image folder {folder}")
    for path in walk.links:
        findings.note(LINKED, path)
    classes = {name.lower() for name in full}
    for archive in sorted(walk.own.archives) if full else ():
        stem = archive.lower().partition(".")[0]
        if stem in classes:
            continue  # it was unpacked
        if WORDNET_ID.fullmatch(stem):
            findings.refuse("classes are still archives", archive, "unpack each into its folder")
        else:
            findings.note("archives next to the class folders are not read", archive)
    if len(full) > 1 and all(name.lower() in SPLITS for name in full):
        kind = "class folders are named like splits; write folder:FOLDER:SPLIT to read one split"
        findings.note(kind, ", ".join(full))
    findings.report()
