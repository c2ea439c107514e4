"""Reads VOC's XML files into plain records, in whatever encoding they are.

A file gives the image's size and its objects as they are written, or what makes it unreadable. Each
version of a file is parsed once in a process: for the classes, for the question
whether a set counts from 0 or from 1, and for the samples.
"""

from __future__ import annotations

import functools
import os
import re
import stat
import xml.etree.ElementTree as ElementTree
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transfer.datasets.annotation_values import as_number

KEPT_FILES = 200_000  # parsed files that are kept
COORDINATES = ("xmin", "ymin", "xmax", "ymax")
# What programs mean by these names is more than Python's codec of the name reads.
WIDER = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "cp950",
}
ROOT = "annotation"
MARK = "\ufeff"  # byte order mark
DECLARATION = re.compile(rb"""^<\?xml[^>]*?encoding\s*=\s*["']([^"']+)["'][^>]*\?>""")
TEXT_DECLARATION = re.compile(r"^<\?xml[^>]*\?>")
NOT_XML = "annotation files are not valid XML"
FOREIGN = "annotation files are XML, but not of Pascal VOC's format"
FOREIGN_REMEDY = "export them as Pascal VOC, or remove them"
UNREADABLE = "annotation files cannot be read"
UNREADABLE_REMEDY = "restore them, or remove what is at these paths"
WRONG_ENCODING = "annotation files are not in the encoding that they declare"


@dataclass(frozen=True)
class VocObject:
    """Is one <object> as it is written; None: the file does not say it.

    `box` holds the texts of xmin, ymin, xmax and ymax, each None if it is missing. `rotation` is
    the attribute of that name, as CVAT writes it next to the upright box.
    """

    name: str | None
    box: tuple[str | None, ...] | None
    difficult: str | None
    rotation: str | None = None


@dataclass(frozen=True)
class VocFile:
    """Is one XML file; `size` is (width, height), None if a number is missing or not above 0.

    `fault`: None, or (kind, detail, remedy) of what makes the file unreadable.
    """

    size: tuple[int, int] | None
    objects: tuple[VocObject, ...]
    fault: tuple[str, str, str] | None = None


def read_xml(path: Path) -> VocFile:
    """Returns the file's record; its fault tells of a link to nothing, a pipe or a lack of
    permission.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):  # reading a pipe would never end
            return VocFile(None, (), (UNREADABLE, "not a file", UNREADABLE_REMEDY))
        return _read(path, found.st_mtime_ns, found.st_size)
    except OSError as error:
        detail = str(error.strerror or error)
        return VocFile(None, (), (UNREADABLE, detail, UNREADABLE_REMEDY))


@functools.lru_cache(maxsize=KEPT_FILES)
def _read(path: Path, mtime_ns: int, size: int) -> VocFile:
    content = path.read_bytes()
    try:
        root = _parse(content)
    except UnicodeDecodeError as error:
        detail = f"declares {_declared(content)}, but byte {error.start} is not"
        return VocFile(None, (), (WRONG_ENCODING, detail, "save them as UTF-8, and declare that"))
    except LookupError:
        detail = f"declares {_declared(content)}, which is unknown"
        return VocFile(None, (), (WRONG_ENCODING, detail, "save them as UTF-8, and declare that"))
    except (ElementTree.ParseError, ValueError) as error:
        return VocFile(None, (), _damaged(content, error))
    objects = tuple(map(_object, _objects(root)))
    if root.tag != ROOT and not objects:  # it would be an image without objects
        return VocFile(None, (), (FOREIGN, f"its root is <{root.tag}>", FOREIGN_REMEDY))
    return VocFile(_size(root.find("size")), objects)


def _parse(content: bytes) -> ElementTree.Element:
    content = content.lstrip(b" \t\r\n")  # XML allows nothing before its declaration
    try:
        return _plain(ElementTree.fromstring(content))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        # The parser knows UTF-8, UTF-16 and encodings of one byte; Python knows the others.
        name = "" if content.startswith(BOM_UTF8) else _declared(content)
        text = _decode(content, name) if name else None
        if content.startswith(BOM_UTF8):  # which outweighs the declaration
            text = content.decode("utf-8").removeprefix(MARK)
        if text is None:
            raise error
    return _plain(ElementTree.fromstring(TEXT_DECLARATION.sub("", text, count=1)))


def _plain(root: ElementTree.Element) -> ElementTree.Element:
    """Returns the tree with its tags' names alone, in lower case and without their namespaces."""
    for node in root.iter():
        if isinstance(node.tag, str):
            node.tag = node.tag.rpartition("}")[2].lower()
    return root


def _objects(node: ElementTree.Element) -> Iterator[ElementTree.Element]:
    """Yields the objects below a node, without those that are parts of another object."""
    for child in node:
        if child.tag == "object":
            yield child
        else:
            yield from _objects(child)


def _decode(content: bytes, name: str) -> str | None:
    """Returns the text in the declared encoding; None if the parser was right to refuse it.

    Raises LookupError for an unknown encoding, UnicodeDecodeError for bytes that are not of it.
    """
    if "utf" in name.lower():
        # Some programs declare the encoding of their text in memory, and write UTF-8. The parser
        # knows UTF-8 by this name alone: not as utf8, UTF-8-SIG or utf8mb4.
        return None if name.lower() == "utf-8" else content.decode("utf-8")
    wide = WIDER.get(name.lower().replace("-", "_"))
    try:
        return content.decode(name)
    except UnicodeDecodeError:
        if wide is None:
            raise
    return content.decode(wide)


def _declared(content: bytes) -> str:
    """Returns the encoding that the file declares; "" for none."""
    found = DECLARATION.match(content)
    return found[1].decode("ascii", errors="replace") if found else ""


def _damaged(content: bytes, error: Exception) -> tuple[str, str, str]:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as wrong:
        name = _declared(content) or "no encoding"
        if not content.startswith((b"\xff\xfe", b"\xfe\xff")):
            detail = f"declares {name}, but byte {wrong.start} is not UTF-8"
            return WRONG_ENCODING, detail, "declare their encoding, or save them as UTF-8"
    return NOT_XML, str(error), "restore them: they are truncated or damaged"


def _object(node: ElementTree.Element) -> VocObject:
    bounds = node.find("bndbox")
    box = None if bounds is None else tuple(_text(bounds, key) for key in COORDINATES)
    named = (found for found in node.iter("attribute") if _text(found, "name") == "rotation")
    rotation = next((_text(found, "value") for found in named), None)
    return VocObject(_text(node, "name"), box, _text(node, "difficult"), rotation)


def _text(node: ElementTree.Element, key: str) -> str | None:
    return (node.findtext(key) or "").strip() or None


def _size(node: ElementTree.Element | None) -> tuple[int, int] | None:
    if node is None:
        return None
    width, height = (int(as_number(node.findtext(key)) or 0.0) for key in ("width", "height"))
    return (width, height) if width > 0 and height > 0 else None
