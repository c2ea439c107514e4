"""XML files in the encodings that programs write, and those that cannot be read."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from transfer.datasets.voc_xml import (
    FOREIGN,
    FOREIGN_REMEDY,
    NOT_XML,
    UNREADABLE,
    WRONG_ENCODING,
    VocFile,
    VocObject,
    read_xml,
)

XML = (
    "<annotation><size><width>64</width><height>48</height></size><object><name>{name}</name>"
    "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></object>"
    "</annotation>"
)


def read(folder: Path, name: str, declared: str | None, coding: str, before: str = "") -> VocFile:
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    path = folder / "a.xml"
    path.write_bytes((before + head + XML.format(name=name)).encode(coding))
    return read_xml(path)


@pytest.mark.parametrize(
    "name, declared, coding",
    [
        ("猫", "Shift_JIS", "shift_jis"),
        ("①猫", "Shift_JIS", "cp932"),  # Windows' wider set under the same name
        ("猫", "euc-jp", "euc_jp"),
        ("猫", "GB2312", "gb2312"),
        ("猫鎔", "gb2312", "gbk"),
        ("猫", "GBK", "gbk"),
        ("猫", "gb18030", "gb18030"),
        ("貓", "Big5", "big5"),
        ("고양이", "euc-kr", "euc_kr"),
        ("고양이", "ks_c_5601-1987", "euc_kr"),
        ("кот", "windows-1251", "cp1251"),
        ("кот", "koi8-r", "koi8-r"),
        ("größe", "ISO-8859-1", "latin-1"),
        ("größe", None, "utf-8"),
        ("größe", None, "utf-8-sig"),
        ("猫", "UTF-8", "utf-8-sig"),
        ("猫", "utf-16", "utf-16"),
        ("猫", "utf8", "utf-8"),  # not the name that the parser knows
        ("猫", "UTF-8-SIG", "utf-8-sig"),
        ("猫", "utf-16", "utf-8"),  # .NET declares the encoding of its text in memory
    ],
)
def test_encodings(tmp_path: Path, name: str, declared: str | None, coding: str) -> None:
    file = read(tmp_path, name, declared, coding)
    assert file.fault is None and file.size == (64, 48)
    (found,) = file.objects
    assert (found.name, found.box, found.difficult) == (name, ("1", "2", "3", "4"), None)


def test_a_line_before_the_declaration(tmp_path: Path) -> None:
    assert read(tmp_path, "cat", "utf-8", "utf-8", before="\n ").objects[0].name == "cat"


@pytest.mark.parametrize(
    "name, declared, coding, detail",
    [
        ("猫", "klingon-8", "utf-8", "declares klingon-8, which is unknown"),
        ("\x81 x", "shift_jis", "latin-1", "declares shift_jis, but byte"),
        ("猫", None, "shift_jis", "declares no encoding, but byte"),
        ("中", "utf-8", "gbk", "declares utf-8, but byte"),
    ],
)
def test_wrong_encodings_are_named(
    tmp_path: Path, name: str, declared: str | None, coding: str, detail: str
) -> None:
    fault = read(tmp_path, name, declared, coding).fault
    assert fault is not None and fault[0] == WRONG_ENCODING
    assert detail in fault[1] and "save them as UTF-8" in fault[2]


def test_a_namespace_changes_nothing(tmp_path: Path) -> None:
    text = XML.format(name="cat").replace("<annotation>", '<annotation xmlns="http://a.org/voc">')
    (tmp_path / "a.xml").write_text(text)
    file = read_xml(tmp_path / "a.xml")
    assert file.size == (64, 48) and [found.name for found in file.objects] == ["cat"]


def test_the_case_of_tags_changes_nothing(tmp_path: Path) -> None:
    text = re.sub(r"</?\w+>", lambda tag: tag[0].upper(), XML).format(name="Cat")
    (tmp_path / "a.xml").write_text(text)
    file = read_xml(tmp_path / "a.xml")
    assert file.size == (64, 48)
    assert file.objects == (VocObject("Cat", ("1", "2", "3", "4"), None),)


def test_objects_below_another_node_and_parts_of_objects(tmp_path: Path) -> None:
    """An object that is a part of another one is not counted, as in Detectron2."""
    text = XML.format(name="cat").replace("<object>", "<objects><object>")
    part = "<part><object><name>head</name></object></part></object></objects>"
    (tmp_path / "a.xml").write_text(text.replace("</object>", part))
    assert [found.name for found in read_xml(tmp_path / "a.xml").objects] == ["cat"]


@pytest.mark.parametrize(
    "content, tag",
    [
        ("<html><body>404</body></html>", "html"),
        ('<annotations><image name="a.jpg"><box label="cat" xtl="1"/></image></annotations>',
         "annotations"),
        ("<kml xmlns='k'><Document/></kml>", "kml"),
    ],
)  # fmt: skip
def test_xml_of_a_different_kind_is_not_an_image_without_objects(
    tmp_path: Path, content: str, tag: str
) -> None:
    (tmp_path / "a.xml").write_text(content)
    assert read_xml(tmp_path / "a.xml").fault == (FOREIGN, f"its root is <{tag}>", FOREIGN_REMEDY)
    (tmp_path / "a.xml").write_text("<Annotation></Annotation>")
    assert read_xml(tmp_path / "a.xml") == VocFile(None, ())


@pytest.mark.parametrize("content", [b"", b"<annotation><object>", b"plain text", b"\xff\xd8\xff"])
def test_what_is_not_xml(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.xml").write_bytes(content)
    fault = read_xml(tmp_path / "a.xml").fault
    assert fault is not None and fault[0] in (NOT_XML, WRONG_ENCODING) and fault[2]


def test_links_to_nothing_and_pipes(tmp_path: Path) -> None:
    (tmp_path / "a.xml").symlink_to("gone.xml")
    os.mkfifo(tmp_path / "b.xml")
    for name, detail in (("a", "No such file or directory"), ("b", "not a file")):
        fault = read_xml(tmp_path / f"{name}.xml").fault
        assert fault is not None and fault[:2] == (UNREADABLE, detail)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    assert read(tmp_path, "cat", None, "utf-8").objects[0].name == "cat"
    assert read(tmp_path, "horse", None, "utf-8").objects[0].name == "horse"


@pytest.mark.parametrize("width", ["0", "", "-3", "wide", "nan", "inf"])
def test_sizes_that_are_none(tmp_path: Path, width: str) -> None:
    (tmp_path / "a.xml").write_text(XML.format(name="cat").replace(">64<", f">{width}<"))
    assert read_xml(tmp_path / "a.xml").size is None
