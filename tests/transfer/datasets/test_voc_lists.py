"""Lists of images as people and tools write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings
from transfer.datasets.voc_lists import FLAGGED, FileIndex, read_list


def read(folder: Path, text: str | bytes, *files: str) -> tuple[list[str], list[str], Findings]:
    """The names and missing lines of a list with this text, next to these files."""
    for name in files:
        (folder / "xml" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "xml" / f"{name}.xml").write_text("")
    listing = folder / "list.txt"
    listing.write_bytes(text if isinstance(text, bytes) else text.encode())
    findings = Findings("list")
    index = FileIndex(folder / "xml", [".xml"])
    return *read_list(listing, index.find, findings), findings


@pytest.mark.parametrize(
    "line, name",
    [
        ("my photo 1", "my photo 1"),
        ('"my photo 1"', "my photo 1"),
        ("'my photo 1'", "my photo 1"),
        ("  a  ", "a"),
        ("a.jpg", "a"),
        ("a.JPEG", "a"),
        ("a.xml", "a"),
        ('"a.png"', "a"),
        ("a.b", "a.b"),
        ("a.b.jpg", "a.b"),
        ("x.jpg", "x.jpg"),
        ("\ufeffa", "a"),
        ("sub/c", "sub/c"),
        ("sub\\c", "sub/c"),
        ("sub\\c.jpg", "sub/c"),
        ("c", "sub/c"),
        ("./a", "a"),
        ("JPEGImages/a.jpg", "a"),
        ("/home/me/VOC/JPEGImages/sub/c.jpg", "sub/c"),
        ("C:\\data\\a.jpg", "a"),
        ("/home/me/my data/JPEGImages/a.jpg", "a"),
        ("/home/me/my data/a.jpg", "a"),
    ],
)
@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\n\n"])
def test_forms_of_a_line(tmp_path: Path, line: str, name: str, ending: str) -> None:
    files = ("my photo 1", "a", "a.b", "x.jpg", "sub/c")
    names, missing, _ = read(tmp_path, line + ending, *files)
    assert (names, missing) == ([name], [])


@pytest.mark.parametrize("flag", ["1", "-1", " 1", " 0", "+1"])
def test_the_flag_of_a_class_list_is_not_used_and_said(
    tmp_path: Path, flag: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = f"a {flag}\nmy photo {flag}\nb.jpg {flag}\n"
    names, missing, findings = read(tmp_path, text, "a", "my photo", "b")
    assert (names, missing) == (["a", "my photo", "b"], [])
    findings.report()
    assert f"{FLAGGED} (3: " in caplog.text


def test_a_number_that_belongs_to_the_name_is_no_flag(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names, _, findings = read(tmp_path, "photo 1\nphoto 2\n", "photo", "photo 1", "photo 2")
    findings.report()
    assert names == ["photo 1", "photo 2"] and not caplog.records


def test_comments(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Detectron2 (numpy's loadtxt) leaves them out, too; a file's name may begin with # here."""
    names, missing, findings = read(tmp_path, "# by hand\na\n#2\n#b\n", "a", "#2")
    assert (names, missing) == (["a", "#2"], [])
    findings.report()
    assert "taken as comments (2: # by hand, #b)" in caplog.text


def test_more_words_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    line = "/JPEGImages/a.jpg /SegmentationClassAug/b.png\n"
    names, _, findings = read(tmp_path, line, "a", "b")
    findings.report()
    assert names == ["a"] and "more words after the name, which are not used (1:" in caplog.text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    """PowerShell writes UTF-16 with a mark."""
    text = "\ufeff" * (encoding == "utf-16-le") + "a\r\nbild ü\r\n"
    assert read(tmp_path, text.encode(encoding), "a", "bild ü")[:2] == (["a", "bild ü"], [])


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    name = b"b\xe4r".decode(errors="surrogateescape")
    assert read(tmp_path, b"b\xe4r\n", name)[0] == [name]


def test_missing_and_repeated_names(tmp_path: Path) -> None:
    names, missing, findings = read(tmp_path, "a\nb.jpg\na.jpg\nc c\n", "a")
    assert (names, missing) == (["a"], ["b", "c c"])
    with pytest.raises(InputError, match=r"listed more than once \(1: a\)"):
        findings.report()
    with pytest.raises(InputError, match="list.txt does not list any image"):
        read(tmp_path, "\ufeff\n\n")


def test_a_name_in_two_subfolders_is_not_guessed(tmp_path: Path) -> None:
    assert read(tmp_path, "a\n", "one/a", "two/a")[:2] == ([], ["a"])
    assert read(tmp_path, "two/a\n", "one/a", "two/a")[0] == ["two/a"]


def test_links_do_not_lead_round(tmp_path: Path) -> None:
    (tmp_path / "xml").mkdir()
    (tmp_path / "xml" / "loop").symlink_to(".")
    assert list(FileIndex(tmp_path / "xml", [".xml"])) == []
    read(tmp_path, "a", "a")
    assert list(FileIndex(tmp_path / "xml", [".xml"])) == ["a"]


def test_of_several_suffixes_the_first_is_taken(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "a.txt", "b.PNG"):
        (tmp_path / name).write_text("")
    index = FileIndex(tmp_path, [".jpg", ".png"])
    assert index.path("a") == tmp_path / "a.jpg" and index.path("b") == tmp_path / "b.PNG"
    assert index.path("c") is None
