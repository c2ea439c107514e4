"""Lists of training images: read, counted, matched, and identified by their content."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.common.errors import InputError
from transfer.checkpoints import remote
from transfer.classification.splits import Split, open_split
from transfer.classification.training import image_list as splits
from transfer.classification.training.image_list import list_sha256, part_of, read_list

from .conftest import make_folder


@pytest.fixture
def train(tmp_path: Path) -> Split:
    return open_split(f"folder:{make_folder(tmp_path)}/images:train")


def write(path: Path, *names: str) -> str:
    path.write_text("".join(f"{name}\n" for name in names))
    return str(path)


def test_the_listed_part(tmp_path: Path, train: Split) -> None:
    names = ["train_red_3.png", "train_bright_0.png", "train_dark_9.png"]
    source = write(tmp_path / "list.txt", *names)
    assert read_list(source, 3) == names
    part = part_of(train, names, source)
    assert part.labels.tolist() == [0, 1, 2] and part.classes == train.classes
    assert [Path(part.images.name(i)).name for i in range(3)] == [names[1], names[2], names[0]]
    with_class = part_of(train, ["red/train_red_3.png"], source)
    assert with_class.labels.tolist() == [2]
    assert list_sha256(names) == list_sha256(names[::-1]) != list_sha256(names[:2])


@pytest.mark.parametrize(
    "names, lines, message",
    [
        ((), 0, "does not list any image"),
        (("a.png", "b.png"), 3, "lists 2 images, but TRAIN.SPLIT_LINES expects 3"),
        (("a.png", "b.png", "a.png"), 3, "lists a.png 2 times"),
    ],
)
def test_bad_lists(tmp_path: Path, names: tuple[str, ...], lines: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_list(write(tmp_path / "list.txt", *names), lines)


def test_names_that_the_set_lacks_or_has_twice(tmp_path: Path, train: Split) -> None:
    with pytest.raises(
        InputError, match="2 of the 3 images in .*list are not in .*, such as x.png"
    ):
        part_of(train, ["train_red_3.png", "x.png", "y.png"], "list")
    copy = tmp_path / "images/train/dark/train_red_3.png"
    copy.write_bytes((tmp_path / "images/train/red/train_red_3.png").read_bytes())
    doubled = open_split(f"folder:{tmp_path}/images:train")
    with pytest.raises(InputError, match="several images with the name train_red_3.png"):
        part_of(doubled, ["train_red_3.png"], "list")
    assert len(part_of(doubled, ["red/train_red_3.png"], "list")) == 1


def test_official_names_are_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(url: str) -> Path:
        asked.append(url)
        return Path(
            write(tmp_path / "1percent.txt", *(f"n01440764_{i}.JPEG" for i in range(12811)))
        )

    monkeypatch.setattr(remote, "download", download)
    assert len(read_list("simclr_1pct", 12811)) == 12811
    assert asked == [splits.OFFICIAL_URL + "1percent.txt"]
    with pytest.raises(InputError, match="1percent.txt lists 12811 images, .* expects 128116"):
        read_list("simclr_1pct", 128116)
    with pytest.raises(
        InputError, match="1pct.txt does not exist; give a list.s file, its URL, or sim"
    ):
        read_list("1pct.txt")
