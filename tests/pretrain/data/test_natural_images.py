"""The natural-image sets from a few generated images in their official layouts.

Each image has one grey value, which identifies it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from pretrain.common.errors import InputError
from pretrain.data.datasets import ImageDataset, open_images
from pretrain.data.official_lists import part_of_whole
from tests.pretrain.data.conftest import write_grey
from tests.pretrain.data.official_layouts import accept, write_flowers


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def food(root: Path) -> None:
    folder = root / "food-101"
    for grey, name in enumerate(("ramen/1", "ramen/2", "apple_pie/3", "apple_pie/4")):
        write_grey(folder / f"images/{name}.jpg", 10 * grey)
    for split, numbers in (("train", (1, 3)), ("test", (2, 4))):
        listed = {"ramen": [f"ramen/{numbers[0]}"], "apple_pie": [f"apple_pie/{numbers[1]}"]}
        text(folder / f"meta/{split}.json", json.dumps(listed))


def sun(root: Path) -> None:
    names = ("/a/abbey/sun_a.jpg", "/a/apse/indoor/sun_b.jpg", "/a/abbey/sun_c.jpg")
    for grey, name in enumerate((*names, "/a/apse/indoor/sun_d.jpg")):
        write_grey(root / f"SUN397{name}", 10 * grey)
    text(root / "SUN397/Partitions/Training_01.txt", *names[:2])
    text(root / "SUN397/Partitions/Testing_01.txt", "/a/apse/indoor/sun_d.jpg", names[2])


def annotations(*rows: tuple[int, str]) -> dict[str, np.ndarray]:
    return {"annotations": np.array(list(rows), dtype=[("class", "O"), ("fname", "O")])}


def cars(root: Path) -> None:
    folder = root / "stanford_cars"
    for part in ("train", "test"):
        for number in (1, 2):
            write_grey(
                folder / f"cars_{part}/{number:05d}.jpg", 10 * number + 100 * (part == "test")
            )
    (folder / "devkit").mkdir()
    savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array(["A", "B"], dtype=object)})
    savemat(folder / "devkit/cars_train_annos.mat", annotations((2, "00001.jpg"), (1, "00002.jpg")))
    savemat(
        folder / "cars_test_annos_withlabels.mat", annotations((1, "00001.jpg"), (2, "00002.jpg"))
    )


def aircraft(root: Path) -> None:
    folder = root / "fgvc-aircraft-2013b/data"
    text(folder / "variants.txt", "707-320", "F-16A/B")
    for number, split in enumerate(("train", "val", "test")):
        for label, name in enumerate(("707-320", "F-16A/B")):
            write_grey(folder / f"images/{number}{label}.jpg", 20 * number + 10 * label)
        lines = (f"{number}1 F-16A/B", f"{number}0 707-320")
        text(folder / f"images_variant_{split}.txt", *lines)


def dtd(root: Path) -> None:
    folder = root / "dtd/dtd"
    for number, split in enumerate(("train", "val", "test")):
        names = [f"{kind}/{kind}_{number}.jpg" for kind in ("woven", "banded")]
        for label, name in enumerate(names):
            write_grey(folder / "images" / name, 20 * number + 10 * label)
        text(folder / f"labels/{split}1.txt", *names)


def pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    for split, number in (("trainval", 1), ("test", 2)):
        names = [f"Abyssinian_{number}", f"great_pyrenees_{number}"]
        for label, name in enumerate(names):
            write_grey(folder / f"images/{name}.jpg", 20 * number + 10 * label)
        rows = [f"{name} {label + 1} {label + 1} 1" for label, name in enumerate(names)]
        text(folder / f"annotations/{split}.txt", *rows)


def flowers(root: Path) -> dict[str, str]:
    """Returns the checksums of the two .mat files."""
    pictures = [np.full((5, 6, 3), 10 * number, np.uint8) for number in range(1, 7)]
    splits = {"train": [2, 1], "val": [4, 3], "test": [5, 6]}
    return write_flowers(root, pictures, [1, 0, 1, 0, 1, 0], splits)


def caltech(root: Path) -> None:
    for label, name in enumerate(("BACKGROUND_Google", "accordion", "yin_yang")):
        for number in range(32):
            folder = root / "caltech101/101_ObjectCategories" / name
            write_grey(folder / f"image_{number:04d}.jpg", 80 * label + number)


def seen(data: ImageDataset) -> list[tuple[int, str]]:
    """(grey, class) of each image."""
    greys = [data.read(row).getpixel((0, 0))[0] for row in range(len(data))]
    return [(grey, data.classes[label]) for grey, label in zip(greys, data.labels.tolist())]


CASES: list[tuple[Callable[[Path], None], str, list[tuple[int, str]]]] = [
    (food, "food101:train", [(0, "ramen"), (20, "apple_pie")]),
    (food, "food101:test", [(10, "ramen"), (30, "apple_pie")]),
    (sun, "sun397:train", [(0, "abbey"), (10, "apse/indoor")]),
    (sun, "sun397:test", [(30, "apse/indoor"), (20, "abbey")]),
    (cars, "cars:train", [(10, "B"), (20, "A")]),
    (cars, "cars:test", [(110, "A"), (120, "B")]),
    (aircraft, "aircraft:val", [(30, "F-16A/B"), (20, "707-320")]),
    (
        aircraft,
        "aircraft:trainval",
        [(10, "F-16A/B"), (0, "707-320"), (30, "F-16A/B"), (20, "707-320")],
    ),
    (dtd, "dtd:test", [(40, "woven"), (50, "banded")]),
    (dtd, "dtd:trainval", [(0, "woven"), (10, "banded"), (20, "woven"), (30, "banded")]),
    (pets, "pets:trainval", [(20, "Abyssinian"), (30, "Great Pyrenees")]),
    (pets, "pets:test", [(40, "Abyssinian"), (50, "Great Pyrenees")]),
]


@pytest.mark.parametrize("write, name, wanted", CASES, ids=[case[1] for case in CASES])
def test_lists_of_the_official_layout(
    write: Callable[[Path], None], name: str, wanted: list[tuple[int, str]], root: Path
) -> None:
    write(root)
    data = open_images(name)
    assert seen(data) == wanted
    assert "the whole set has" in part_of_whole(name, len(data), len(data.classes)) or (
        ":val" in name
    )


def test_flowers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision compares the checksums of its two .mat files; generated ones have others."""
    sums = flowers(root)
    with pytest.raises(InputError, match="not the official ones .*: imagelabels.mat, setid.mat;"):
        open_images("flowers102:train")
    accept(monkeypatch, "Flowers102", sums)
    from torchvision.datasets import Flowers102

    first, second = Flowers102.classes[:2]
    assert seen(open_images("flowers102:train")) == [(20, first), (10, second)]
    assert seen(open_images("flowers102:test")) == [(50, second), (60, first)]
    both = seen(open_images("flowers102:trainval"))
    assert both == [(20, first), (10, second), (40, first), (30, second)]
    (root / "flowers-102/setid.mat").unlink()
    assert "flowers-102/setid.mat is missing" in refused("flowers102:train")


def test_caltech_draws_25_and_5_of_each_class_and_keeps_the_rest_for_testing(root: Path) -> None:
    caltech(root)
    parts = {
        split: {grey for grey, _ in seen(open_images(f"caltech101:{split}"))}
        for split in ("train", "val", "trainval", "test")
    }
    assert [len(parts[name]) for name in ("train", "val", "trainval", "test")] == [75, 15, 90, 6]
    assert parts["train"] | parts["val"] == parts["trainval"]
    assert not parts["trainval"] & parts["test"] and len(parts["trainval"] | parts["test"]) == 96
    data = open_images("caltech101:train")
    assert np.bincount(data.labels).tolist() == [25, 25, 25]
    assert data.classes == ["BACKGROUND_Google", "accordion", "yin_yang"]
    numbers = [grey % 80 for grey in sorted(parts["val"])]
    assert numbers[:5] != numbers[5:10], "each class has its own draw"
    again = {grey for grey, _ in seen(open_images("caltech101:val"))}
    assert again == parts["val"], "the draw is fixed"
    for number in (30, 31):
        (root / f"caltech101/101_ObjectCategories/yin_yang/image_{number:04d}.jpg").unlink()
    with pytest.raises(InputError, match="yin_yang has 30 images; more than 30 are needed"):
        open_images("caltech101:train")


def birdsnap(root: Path) -> None:
    """Four images of two species; the link of the second one is dead."""
    folder = root / "birdsnap"
    names = ["Wren/1.jpg", "Wren/2.jpg", "Barn_Owl/3.jpg", "Barn_Owl/4.jpg"]
    for number in (0, 2, 3):
        write_grey(folder / "download/images" / names[number], 10 * number)
    write_grey(folder / "download/images/Wren/unlisted.jpg", 200)
    rows = [f"http://a/{name}\t0f\t{name}\t{n}\t1" for n, name in enumerate(names)]
    text(folder / "images.txt", "url\tmd5\tpath\tspecies_id\tbb_x1", *rows)
    text(folder / "test_images.txt", "path", names[3], names[0])


def test_birdsnap_has_the_images_of_its_lists_that_are_there(root: Path) -> None:
    birdsnap(root)
    data = open_images("birdsnap:test")
    assert seen(data) == [(0, "Wren"), (30, "Barn_Owl")] and not data.left_out
    data = open_images("birdsnap:train")
    assert seen(data) == [(20, "Barn_Owl")] and data.classes == ["Barn_Owl", "Wren"]
    assert data.describe("birds").endswith("left out: 1 images of the list that are not there")
    assert part_of_whole("birdsnap:train", 1, 500) == "the whole set has 47386 images"
    for name in ("download/images/Wren/1.jpg", "download/images/Barn_Owl/4.jpg"):
        (root / "birdsnap" / name).unlink()
    assert "has none of the 2 images that" in refused("birdsnap:test")
    text(root / "birdsnap/test_images.txt", "path", "Crow/9.jpg")
    assert "1 images are not in" in refused("birdsnap:test")
    text(root / "birdsnap/images.txt", "url path", "http://a Wren/1.jpg")
    assert "images.txt is not a list with tabs that has the column 'path'" in refused(
        "birdsnap:test"
    )
    (root / "birdsnap/test_images.txt").unlink()
    assert "test_images.txt is missing" in refused("birdsnap:train")


@pytest.mark.parametrize(
    "name, said",
    [
        ("food101:train", "food-101/.*download it yourself: torchvision.datasets.Food101"),
        ("cars:train", "stanford_cars/.*torchvision cannot download it any more"),
        ("sun397:test", "SUN397/Partitions/Training_01.txt is missing.*SUN397.tar.gz from"),
        ("aircraft:val", "fgvc-aircraft-2013b/data/.*download it yourself"),
        ("dtd:val", "dtd/dtd/.*download it yourself"),
        ("pets:test", "oxford-iiit-pet/.*download it yourself"),
        ("caltech101:test", "101_ObjectCategories is missing; unpack"),
        ("dtd:validation", "unknown split of dtd 'validation'; known: test, train, trainval, val"),
        ("caltech101:all", "unknown split of caltech101 'all'"),
    ],
)
def test_missing_data_is_one_line_with_the_remedy(name: str, said: str, root: Path) -> None:
    """Nothing is downloaded."""
    with pytest.raises(InputError, match=said) as found:
        open_images(name)
    assert "\n" not in str(found.value) and not list(root.iterdir())


def test_parts_of_a_set_that_are_missing_are_named(root: Path) -> None:
    """torchvision says "Dataset not found" of most of them, and tells the user to download it."""
    cases: list[tuple[Callable[[Path], object], dict[str, str]]] = [
        (food, {"food-101/images": "food101:train", "meta/test.json": "food101:test"}),
        (cars, {"devkit/cars_meta.mat": "cars:train", "stanford_cars/cars_test": "cars:test"}),
        (aircraft, {"images_variant_val.txt": "aircraft:trainval"}),
        (dtd, {"labels/val1.txt": "dtd:val"}),
        (pets, {"annotations/test.txt": "pets:test"}),
        (flowers, {"flowers-102/jpg": "flowers102:val"}),
    ]
    for write, parts in cases:
        write(root)
        for part, name in parts.items():
            place = next(path for path in root.rglob("*") if str(path).endswith(f"/{part}"))
            away = place.rename(place.with_name("away"))
            assert f"{place} is missing" in refused(name)
            away.rename(place)


def test_a_missing_image_is_named(root: Path) -> None:
    food(root)
    (root / "food-101/images/ramen/1.jpg").unlink()
    assert "names 2 images; 1 of them do not exist, such as " in refused("food101:train")
    write_grey(root / "food-101/images/ramen/1.JPG", 0)
    assert "ramen/1.jpg (there is 1.JPG: rename it)" in refused("food101:train")


def refused(name: str) -> str:
    with pytest.raises(InputError) as error:
        open_images(name)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_damaged_list_is_one_line(root: Path) -> None:
    for write in (aircraft, food, cars, sun):
        write(root)
    text(root / "fgvc-aircraft-2013b/data/images_variant_val.txt", "30 Concorde")
    text(root / "food-101/meta/train.json", '["ramen/1"]')
    (root / "stanford_cars/devkit/cars_train_annos.mat").write_bytes(b"MATLAB 7.3" + bytes(600))
    (root / "SUN397/Partitions/Testing_01.txt").write_bytes(b"PK\x03\x04\xff\xfe")
    for name in ("aircraft:val", "food101:train", "cars:train"):
        assert f"{name} is damaged, or not complete (" in refused(name)
    assert "Testing_01.txt cannot be read as a list of images" in refused("sun397:test")


def test_class_numbers_of_a_part_of_the_lists(root: Path) -> None:
    """Lists without one of the classes between: their numbers would point to other classes."""
    pets(root)
    lines = ("Abyssinian_1 1 1 1", "great_pyrenees_1 16 2 1")
    text(root / "oxford-iiit-pet/annotations/trainval.txt", *lines)
    assert (
        "great_pyrenees_1.jpg has the class number 15, but the lists name 2 classes, 0 to 1"
        in refused("pets:trainval")
    )


def test_the_lists_of_trainval_have_the_same_classes(root: Path) -> None:
    """torchvision numbers the classes of each list of DTD by itself."""
    dtd(root)
    text(root / "dtd/dtd/labels/val1.txt", "woven/woven_1.jpg")
    assert "the lists of train and val have different classes (banded)" in refused("dtd:trainval")


def test_a_set_at_a_wrong_level_is_found(root: Path) -> None:
    dtd(root / "archives")
    said = refused("dtd:train")
    assert (
        f"dtd/dtd is missing (but there is {root}/archives/dtd: is it at the wrong level?)" in said
    )
    (root / "101_ObjectCategories").mkdir()
    assert f"(but there is {root}/101_ObjectCategories: is it at" in refused("caltech101:test")
    (root / "caltech-101").mkdir()
    assert "(did you mean 'caltech-101'?)" in refused("caltech101:test")
    (root / "dtd/images").mkdir(parents=True)
    assert f"(but {root}/dtd itself has this name: is the folder above" in refused("dtd:train")
