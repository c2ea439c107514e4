"""Which files of a folder are its images: hidden names, levels, empty classes, suffixes, links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from pretrain.common.errors import InputError
from pretrain.data.datasets import open_images
from pretrain.data.folders import scan_folder

HIDDEN_FOLDERS = (
    ".thumbnails .ipynb_checkpoints __MACOSX @eaDir #recycle $RECYCLE.BIN lost+found @Recycle"
).split() + ["System Volume Information", "~snapshot", "PaxHeader"]
HIDDEN_FILES = "._a.jpg .a.jpg Thumbs.db .DS_Store desktop.ini".split()
HIDDEN_FILES += ["a.jpg:Zone.Identifier", "Thumbs.db:encryptable", "a.jpg:AFP_AfpInfo"]


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def found(folder: Path) -> dict[str, list[str]]:
    """Paths below the folder by class ("" without classes)."""
    scan = scan_folder(folder)
    result: dict[str, list[str]] = {name: [] for name in scan.classes or [""]}
    for path, label in zip(scan.paths, scan.labels):
        result[scan.classes[label] if scan.classes else ""].append(
            Path(path).relative_to(folder).as_posix()
        )
    return result


@pytest.mark.parametrize("name", HIDDEN_FOLDERS)
def test_system_folders_are_passed_over_at_every_depth(tmp_path: Path, name: str) -> None:
    flat = touch(tmp_path / "flat", "a.jpg", "b.jpg", f"{name}/t.jpg", f"{name}/deep/t.jpg")
    assert found(flat) == {"": ["a.jpg", "b.jpg"]}
    classes = touch(tmp_path / "cls", "cat/a.jpg", "dog/b.jpg", f"{name}/t.jpg")
    touch(classes, f"cat/{name}/t.jpg", f"cat/sub/{name}/x/t.jpg", "cat/sub/c.jpg")
    assert found(classes) == {"cat": ["cat/a.jpg", "cat/sub/c.jpg"], "dog": ["dog/b.jpg"]}


@pytest.mark.parametrize("name", HIDDEN_FILES)
def test_system_files_are_passed_over(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "cat/a.jpg", "dog/b.jpg", f"cat/{name}", name)
    assert found(tmp_path) == {"cat": ["cat/a.jpg"], "dog": ["dog/b.jpg"]}
    assert scan_folder(tmp_path).left_out == {"hidden or system files": 2}


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg", "dog/b.jpg")
    os.mkfifo(tmp_path / "cat" / "c.jpg")
    (tmp_path / "cat" / "d.jpg").symlink_to("gone.jpg")  # the reader names it as missing
    assert found(tmp_path) == {"cat": ["cat/a.jpg", "cat/d.jpg"], "dog": ["dog/b.jpg"]}
    assert scan_folder(tmp_path).left_out == {"neither a file nor a folder": 1}


def test_images_on_two_levels_are_refused_with_both_counts(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg", "c.jpg", "rejected/d.jpg", "rejected/e.jpg")
    with pytest.raises(
        InputError, match=r"contains 3 images directly and 2 images in 1 subfolders"
    ):
        scan_folder(tmp_path)


def test_a_flat_folder_may_have_subfolders_without_images(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "labels/a.txt")
    (tmp_path / "empty").mkdir()
    assert found(tmp_path) == {"": ["a.jpg"]}


def test_empty_classes_are_refused_by_name(tmp_path: Path) -> None:
    """As in torchvision's ImageFolder."""
    touch(tmp_path, "cat/a.jpg", "dog/b.jpg", "fish/a.heic", "fish/b.heic", "owl/.hidden.jpg")
    (tmp_path / "bird").mkdir()
    with pytest.raises(InputError) as caught:
        scan_folder(tmp_path)
    wanted = "(3: bird (empty), fish (2 .heic), owl (1 hidden or system files))"
    assert wanted in str(caught.value) and "cat" not in str(caught.value).partition("(3")[2]


def test_a_folder_without_images_says_what_it_holds(tmp_path: Path) -> None:
    touch(tmp_path, "n01.tar", "n02.tar", "read.txt")
    with pytest.raises(InputError, match="contains no images; .*left out: 2 .tar, 1 .txt"):
        scan_folder(tmp_path)


SUFFIXES = "jpg JPEG jfif PNG bmp webp ppm pgm tif TIFF gif avif jp2 mpo tga".split()


def test_suffixes_that_pillow_reads_are_read_and_others_counted(tmp_path: Path) -> None:
    images = [f"{i}.{suffix}" for i, suffix in enumerate(SUFFIXES)]
    touch(tmp_path, *images, "a.heic", "b.HEIC", "notes.txt", "README")
    scan = scan_folder(tmp_path)
    assert sorted(Path(path).name for path in scan.paths) == sorted(images)
    assert scan.left_out == {".heic": 2, ".txt": 1, "without a suffix": 1}
    text = open_images(f"folder:{tmp_path}").describe("folder:x")
    assert text == ("folder:x: 15 images; left out: 2 .heic, 1 .txt, 1 without a suffix")


@pytest.mark.parametrize("suffix", ["jfif", "jp2", "gif", "tga", "avif"])
def test_a_listed_suffix_is_decoded(tmp_path: Path, suffix: str) -> None:
    colour = (200, 40, 60)
    image = Image.new("RGB", (16, 16), colour)
    image.save(tmp_path / f"a.{suffix}", format="JPEG" if suffix == "jfif" else None)
    pixel = open_images(f"folder:{tmp_path}").read(0).getpixel((8, 8))
    assert max(abs(a - b) for a, b in zip(pixel, colour)) <= 4


def test_links_into_the_folder_or_above_are_not_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "set/cat/a.jpg", "set/dog/b.jpg", "other/c.jpg", "other/deep/d.jpg")
    root = tmp_path / "set"
    (root / "cat" / "loop").symlink_to("..")
    (root / "cat" / "above").symlink_to(tmp_path)
    (root / "cat" / "dogs").symlink_to("../dog")
    (root / "cat" / "elsewhere").symlink_to(tmp_path / "other")
    (root / "dog" / "again").symlink_to(tmp_path / "other")
    wanted = ["cat/a.jpg", "cat/elsewhere/c.jpg", "cat/elsewhere/deep/d.jpg"]
    assert found(root) == {"cat": wanted, "dog": ["dog/b.jpg"]}
    (record,) = caplog.records
    assert (
        "links were not followed, because the folders they point to are read elsewhere"
        in record.message
    )
    assert "(4, first: " in record.message and "cat/above" in record.message


def test_class_folders_may_be_links(tmp_path: Path) -> None:
    touch(tmp_path, "set/dog/b.jpg", "real_cat/a.jpg", "real_cat/sub/c.jpg")
    (tmp_path / "set" / "cat").symlink_to("../real_cat")
    (tmp_path / "set" / "dog" / "gone.jpg").symlink_to("/nowhere/x.jpg")
    assert found(tmp_path / "set") == {
        "cat": ["cat/a.jpg", "cat/sub/c.jpg"],
        "dog": ["dog/b.jpg", "dog/gone.jpg"],
    }
    (tmp_path / "set" / "kitten").symlink_to("cat")
    with pytest.raises(InputError, match=r"1: kitten \(a link to a folder that is read elsewhere"):
        scan_folder(tmp_path / "set")


def test_a_link_to_a_folder_around_the_set_does_not_read_the_set_twice(tmp_path: Path) -> None:
    touch(tmp_path, "a/b/set/cat/x.jpg", "a/b/y.jpg")
    (tmp_path / "a/b/set/cat/up").symlink_to(tmp_path / "a/b")
    assert found(tmp_path / "a/b/set") == {"cat": ["cat/x.jpg"]}


def test_a_folder_of_splits_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "train/cat/a.jpg", "val/cat/b.jpg")
    assert set(found(tmp_path)) == {"train", "val"}
    assert "are named like splits; write folder:FOLDER:SPLIT" in caplog.text


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "cat/a.jpg", "dog/b.jpg")

    def scandir(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("pretrain.data.folders.os.scandir", scandir)
    with pytest.raises(InputError, match=r"cannot be listed \(Permission denied\)"):
        scan_folder(tmp_path)


def test_what_was_loaded_is_said(classes_folder: Path) -> None:
    touch(classes_folder / "train" / "cat", "a.heic", ".hidden")
    name = f"folder:{classes_folder}:train"
    assert open_images(name).describe("pets") == (
        "pets: 24 images, 2 classes (11 to 13 images a class); left out: 1 .heic, 1 hidden or "
        "system files"
    )
    assert (
        open_images(name, 5)
        .describe("pets")
        .startswith("pets: 10 images, 2 classes (5 images a class)")
    )


def test_links_that_lead_only_to_links_do_not_stop_the_folder(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.jpg", "dog/b.jpg")
    for name, target in (("c.jpg", "d.jpg"), ("d.jpg", "c.jpg"), ("self", "self")):
        (tmp_path / "cat" / name).symlink_to(target)
    wanted = ["cat/a.jpg", "cat/c.jpg", "cat/d.jpg"]
    assert found(tmp_path) == {"cat": wanted, "dog": ["dog/b.jpg"]}
    assert scan_folder(tmp_path).left_out == {"without a suffix": 1}
    with pytest.raises(OSError, match="cat/c.jpg cannot be read .*symbolic links"):
        open_images(f"folder:{tmp_path}").read(1)


def test_a_class_that_is_still_an_archive(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "n01440764/a.JPEG", "n01443537/a.JPEG", "n01440764.tar", "all.tar.gz", "a.csv")
    assert list(found(tmp_path)) == ["n01440764", "n01443537"]
    (record,) = caplog.records
    assert "archives next to the class folders are not read (1: all.tar.gz)" in record.message
    touch(tmp_path, "n01484850.tar", "n01491361.tar")
    wanted = r"archives \(2: n01484850.tar, n01491361.tar\); unpack each into its folder"
    with pytest.raises(InputError, match=wanted):
        scan_folder(tmp_path)


def test_a_class_whose_name_is_not_utf_8_has_a_name_that_can_be_stored(tmp_path: Path) -> None:
    touch(tmp_path, "dog/b.jpg", os.fsdecode(b"ch\xe2t/a.jpg"), "chât/c.jpg")
    scan = scan_folder(tmp_path)
    names = {Path(path).name: scan.classes[label] for path, label in zip(scan.paths, scan.labels)}
    assert names == {"a.jpg": r"ch\xe2t", "b.jpg": "dog", "c.jpg": "chât"}


def test_a_file_in_place_of_a_folder_is_not_called_missing(tmp_path: Path) -> None:
    touch(tmp_path, "photos.zip")
    with pytest.raises(InputError, match="photos.zip is a file, not a folder; expected"):
        open_images(f"folder:{tmp_path / 'photos.zip'}")
