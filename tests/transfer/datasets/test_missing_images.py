"""Missing images: their number, and the changed name under which one exists."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pretrain.common.errors import InputError
from transfer.datasets.missing_images import check_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b b.jpg", "sub/c.jpg", "1a2b3c4d-d.jpg", "e.png", "f\u00f6.jpg"):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "train"


def test_names_that_are_there(folder: Path) -> None:
    check_files(folder, ["a.jpg", "b b.jpg", "sub/c.jpg", str(folder / "e.png")])


@pytest.mark.parametrize(
    ("name", "found", "why"),
    [
        ("images\\1\\a.jpg", "a.jpg", "backslashes; a prefix"),
        ("sub\\c.jpg", "sub/c.jpg", "backslashes"),
        ("b%20b.jpg", "b b.jpg", "URL encoding"),
        ("/data/local-files/b%20b.jpg?d=1", "b b.jpg", "URL encoding; a prefix"),
        ("/data/local-files/?d=my%5Cphotos/sub/c.jpg", "sub/c.jpg", "the query of a URL"),
        ("https://host/view?name=a.jpg&size=2", "a.jpg", "the query of a URL"),
        ("https://host/path/a.jpg", "a.jpg", "a prefix"),
        ("other/folder/sub/c.jpg", "sub/c.jpg", "a prefix"),
        ("c.jpg", "sub/c.jpg", "different folder"),
        ("A.JPG", "a.jpg", "letter case"),
        ("fo\u0308.jpg", "f\u00f6.jpg", "form of accents"),
        ("0f0f0f0f-a.jpg", "a.jpg", "a prefix of the labelling tool"),
        ("d.jpg", "1a2b3c4d-d.jpg", "different folder"),
        ("e.jpg", "e.png", "another suffix"),
        (" a.jpg", "a.jpg", "spaces around it"),
    ],
)
def test_hints(folder: Path, name: str, found: str, why: str) -> None:
    with pytest.raises(InputError) as caught:
        check_files(folder, ["a.jpg", name])
    text = str(caught.value)
    assert "is missing (1 of 2 images are)" in text
    assert f"holds {found}, and the annotation file names it {name!r} (" in text and why in text


def test_a_folder_below_that_has_all_images(folder: Path) -> None:
    names = ["train/a.jpg", "train/sub/c.jpg"]
    with pytest.raises(InputError, match=f"; {folder.parent} has them: the names begin"):
        check_files(folder, names)
    names = ["a.jpg", "sub/c.jpg"]
    with pytest.raises(InputError, match=f"2 of 2 .*; {folder} has them: give .*:{folder}$"):
        check_files(folder.parent, names)
    with pytest.raises(InputError, match="holds train/a.jpg, and the annotation file names it"):
        check_files(folder.parent, [*names, "g.jpg"])


def test_counts_and_first_places(folder: Path) -> None:
    names = ["a.jpg", *(f"{i}.jpg" for i in range(5))]
    with pytest.raises(InputError) as caught:
        check_files(folder, names)
    assert str(caught.value) == (
        f"image {folder}/0.jpg is missing (5 of 6 images are, then {folder}/1.jpg, "
        f"{folder}/2.jpg); "
        "check the folder and the names in the annotation file"
    )


def test_names_below_the_folder_above(folder: Path) -> None:
    with pytest.raises(InputError, match=rf"give coco:FILE.json:{folder.parent}$"):
        check_files(folder, ["train/a.jpg", "train/e.png"])


def test_names_may_not_lead_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "secret.png"
    outside.write_bytes(b"x")
    (folder / "link.png").symlink_to(outside)
    (folder / "out").symlink_to(tmp_path)
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    above = os.path.relpath(outside, folder)
    for place in (folder, linked):
        check_files(place, ["a.jpg", str(folder / "a.jpg"), f"../{folder.name}/a.jpg"])
        # What the user linked into his folder is his choice
        check_files(place, ["link.png", str(place / "link.png"), "out/secret.png"])
        through = f"out/../{tmp_path.name}/secret.png"  # `..` of where the link leads
        for name in (str(outside), above, "sub/../" + above, "../secret.png", through):
            with pytest.raises(InputError, match="leads out of .*1 of 2 images"):
                check_files(place, ["a.jpg", name])
    for name in ("a\0b", "x" * 5000, "\ud800"):
        with pytest.raises(InputError, match="missing") as raised:
            check_files(folder, [name])
        assert str(raised.value).isprintable()


def test_a_link_that_leads_nowhere_is_named(folder: Path) -> None:
    (folder / "gone.jpg").symlink_to("moved/away.jpg")
    with pytest.raises(InputError, match="gone.jpg is missing .*a link to 'moved/away.jpg', which"):
        check_files(folder, ["a.jpg", "gone.jpg"])
