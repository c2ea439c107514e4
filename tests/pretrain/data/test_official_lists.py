"""Places205 and iNaturalist 2018 in their official formats; a clear line for each mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pretrain.common.errors import InputError
from pretrain.data.datasets import ImageDataset, open_images
from pretrain.data.inat2018 import read_inat2018
from pretrain.data.official_lists import part_of_whole

RELEASED = "data/vision/torralba/deeplearning/images256"
PLACES = {
    "train": [
        ("b/bar/gsun_01.jpg", 19),
        ("a/abbey/gsun_02.jpg", 0),
        ("a/apartment_building/outdoor/gsun_03.jpg", 7),
        ("a/abbey/gsun_04.jpg", 0),
    ],
    "val": [("a/abbey/gsun_05.jpg", 0), ("b/bar/gsun_06.jpg", 19), ("c/cave/gsun_07.jpg", 33)],
}
SPECIES = [
    {"id": 2, "name": "Ficus variegata", "supercategory": "Mollusca"},
    {"id": 0, "name": "Felis catus", "supercategory": "Mammalia"},
    {"id": 1, "name": "Ficus variegata", "supercategory": "Plantae"},
]
NAMES = ["Felis catus", "Ficus variegata (1)", "Ficus variegata (2)"]


def write_image(path: Path, red: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (red, 0, 0)).save(path, quality=100)


def red(data: ImageDataset, index: int) -> int:
    return data.read(index).getpixel((0, 0))[0]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


@pytest.fixture
def places(root: Path) -> Path:
    """ROOT/places205 as released; the image of line i of its list has 40 i of red."""
    folder = root / "places205"
    for split, lines in PLACES.items():
        path = folder / "trainvalsplit_places205" / f"{split}_places205.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name} {label}\n" for name, label in lines))
        for number, (name, _) in enumerate(lines):
            write_image(folder / RELEASED / name, 40 * number)
    return folder


@pytest.fixture
def inat(root: Path) -> Path:
    """ROOT/inat2018 as released; images 10 to 13 of train and 20, 21 of val, ids as their red."""
    labels = {"train": {12: 2, 10: 0, 13: 1, 11: 0}, "val": {20: 1, 21: 2}}
    for split, categories in labels.items():
        files = {i: f"train_val2018/Plantae/{c}/{i}.jpg" for i, c in categories.items()}
        content = {
            "images": [{"id": i, "file_name": name} for i, name in files.items()],
            "annotations": [
                {"id": i, "image_id": i, "category_id": c} for i, c in sorted(categories.items())
            ],
            "categories": SPECIES,
        }
        for image, name in files.items():
            write_image(root / "inat2018" / name, image)
        (root / "inat2018" / f"{split}2018.json").write_text(json.dumps(content))
    return root / "inat2018"


def test_places_in_the_lists_order(places: Path) -> None:
    train, val = open_images("places205:train"), open_images("places205:val")
    assert train.labels.tolist() == [19, 0, 7, 0] and val.labels.tolist() == [0, 19, 33]
    assert [red(train, i) for i in range(4)] == pytest.approx([0, 40, 80, 120], abs=3)
    assert train.name(2) == str(places / RELEASED / PLACES["train"][2][0])
    assert len(train.classes) == 205 and train.classes == val.classes
    assert [train.classes[i] for i in (0, 7, 19)] == ["abbey", "apartment_building/outdoor", "bar"]
    assert train.classes[33] == "class 33"  # the training list has none
    first = open_images("places205:train", limit_per_class=1)
    assert first.labels.tolist() == [19, 0, 7] and first.name(1) == train.name(1)


def test_places_elsewhere(places: Path) -> None:
    expected = open_images("places205:val").labels.tolist()
    (places / "data").rename(places / "old")
    (places / "imagesPlaces205_resize").mkdir()
    (places / "old").rename(places / "imagesPlaces205_resize" / "data")
    for path in (places / "trainvalsplit_places205").iterdir():
        path.rename(places / path.name)
    data = open_images("places205:val")
    assert data.labels.tolist() == expected and red(data, 1) == pytest.approx(40, abs=3)


@pytest.mark.parametrize(
    "line, message",
    [
        ("a/abbey/x.jpg 205", "line 5: label 205 is out of range, 0 to 204"),
        ("a/abbey/x.jpg -1", "label -1 is out of range"),
        ("a/abbey/x.jpg", "'a/abbey/x.jpg' is not a path and a label"),
        ("a/abbey/x.jpg abbey", "is not a path and a label, such as 'a/abbey/x.jpg 0'"),
        ("a/abbey/x.jpg 0", "5 images; 1 of them do not exist, such as .*/a/abbey/x.jpg; expected"),
        ("z/zoo/y.jpg 3", "1 of them do not exist, such as .*/z/zoo/y.jpg"),
    ],
)
def test_bad_places_lines(places: Path, line: str, message: str) -> None:
    path = places / "trainvalsplit_places205" / "train_places205.csv"
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(InputError, match=f"train_places205.csv.*{message}") as caught:
        open_images("places205:train")
    assert "\n" not in str(caught.value)


def test_bad_places_folders(places: Path) -> None:
    tree = r"trainvalsplit_places205/\{train,val\}_places205.csv, .*images256/a/abbey/\*.jpg"
    path = places / "trainvalsplit_places205" / "train_places205.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="train_places205.csv is not text"):
        open_images("places205:train")
    path.write_text("\n")
    with pytest.raises(InputError, match="does not name any images"):
        open_images("places205:train")
    path.unlink()
    with pytest.raises(InputError, match=f"train_places205.csv is missing.*expected.*{tree}"):
        open_images("places205:train")
    (places / "data").rename(places / "photos")
    with pytest.raises(InputError, match=f"images256 is missing.*expected.*{tree}.*folder:"):
        open_images("places205:val")
    with pytest.raises(InputError, match="places205 has no split 'test'; write places205:train"):
        open_images("places205:test")


def test_inat_labels_are_category_ids(inat: Path) -> None:
    train, val = open_images("inat2018:train"), open_images("inat2018:val")
    assert train.labels.tolist() == [2, 0, 1, 0] and val.labels.tolist() == [1, 2]
    assert [red(train, i) for i in range(4)] == pytest.approx([12, 10, 13, 11], abs=3)
    assert train.classes == val.classes == NAMES  # two species share a name
    assert train.name(0) == str(inat / "train_val2018" / "Plantae" / "2" / "12.jpg")
    (inat / "annotations").mkdir()
    (inat / "val2018.json").rename(inat / "annotations" / "val2018.json")
    assert open_images("inat2018:val").labels.tolist() == [1, 2]


def edit(inat: Path, part: str, entry: dict[str, Any] | None, index: int = 0) -> None:
    """Replaces an entry of a part of train2018.json, or takes the part out."""
    path = inat / "train2018.json"
    content = json.loads(path.read_text())
    if entry is None:
        del content[part]
    else:
        content[part][index] = entry
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "part, entry, message",
    [
        ("annotations", {"image_id": 10, "category_id": 3}, "image 10 has the category 3, out of"),
        ("annotations", {"image_id": 13, "category_id": 0}, "image 13 has two categories"),
        ("annotations", {"image_id": 99, "category_id": 0}, "1 images have no .*Plantae/0/10.jpg"),
        ("annotations", {"image_id": 10}, "not in the format of iNaturalist 2018.*category_id"),
        ("annotations", None, "not in the format of iNaturalist 2018.*annotations"),
        ("images", {"id": 12, "file_name": "train_val2018/a/2/x.jpg"}, "4 images; 1 .*a/2/x.jpg"),
        ("images", {"id": 12}, "not in the format of iNaturalist 2018.*file_name"),
        ("categories", {"id": 7, "name": "x"}, "category 2, out of range: .*3 ids from 0 to 7"),
    ],
)
def test_bad_inat_entries(inat: Path, part: str, entry: dict | None, message: str) -> None:
    edit(inat, part, entry)
    with pytest.raises(InputError, match=f"train2018.json.*{message}") as caught:
        open_images("inat2018:train")
    assert "\n" not in str(caught.value)


def test_bad_inat_folders(inat: Path) -> None:
    tree = r"\{train2018.json, val2018.json, train_val2018/SUPERCATEGORY/ID/\*.jpg\}"
    path = inat / "train2018.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(InputError, match="train2018.json is not valid JSON"):
        open_images("inat2018:train")
    path.write_text("[]")
    with pytest.raises(InputError, match="not in the format"):
        open_images("inat2018:train")
    path.unlink()
    with pytest.raises(InputError, match=f"train2018.json is missing.*expected .*{tree}"):
        open_images("inat2018:train")
    (inat / "train_val2018").rename(inat / "images")
    with pytest.raises(InputError, match=f"train_val2018 is missing.*expected .*{tree}"):
        open_images("inat2018:val")


def test_ids_with_gaps_keep_their_order(inat: Path) -> None:
    """A part of the set that has different categories."""
    path = inat / "train2018.json"
    content = json.loads(path.read_text())
    for category in content["categories"]:
        category["id"] *= 100
    for annotation in content["annotations"]:
        annotation["category_id"] *= 100
    path.write_text(json.dumps(content))
    assert read_inat2018(inat, "train").labels.tolist() == [2, 0, 1, 0]


def test_a_part_of_an_official_set_is_named() -> None:
    assert part_of_whole("inat2018:train", 437_513, 8142) == ""
    assert part_of_whole("inat2018:val", 24_000, 8142) == "the whole set has 24426 images"
    assert part_of_whole("inat2018:val", 24_426, 3) == "the whole set has 8142 classes"
    assert part_of_whole("places205:val", 7, 205) == "the whole set has 20500 images"
    assert part_of_whole("folder:x:val", 7, 2) == ""
