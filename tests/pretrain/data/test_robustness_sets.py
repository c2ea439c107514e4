"""ImageNet-V2, -R, -A, -Sketch and -C from a few generated images in their authors' layouts.

Each image is of one grey value, which says which image it is.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pretrain.common.errors import InputError
from pretrain.data.datasets import ImageDataset, open_images
from pretrain.data.official_lists import part_of_whole
from pretrain.data.robustness_sets import CORRUPTIONS, EXTRA, SEVERITIES, corruption_of
from tests.pretrain.data.conftest import write_grey


def content(data: ImageDataset) -> list[tuple[str, int]]:
    """(class, grey value) of each image."""
    names = [data.classes[label] for label in data.labels]
    return [(name, int(np.asarray(data.read(i)).mean())) for i, name in enumerate(names)]


@pytest.mark.parametrize("place", ["imagenetv2-{}-format-val", "imagenetv2-{}"])
@pytest.mark.parametrize("variant", ["matched-frequency", "threshold0.7", "top-images"])
def test_v2s_numbers_are_sorted_as_numbers(root: Path, place: str, variant: str) -> None:
    """As texts, 10 and 11 come before 2: twelve classes notice it."""
    for number in range(12):
        write_grey(root / place.format(variant) / str(number) / "a.jpeg", 20 * number)
    data = open_images(f"imagenet_v2:{variant}")
    assert data.classes == [str(number) for number in range(12)]
    assert sorted(zip(data.labels.tolist(), content(data))) == [
        (number, (str(number), 20 * number)) for number in range(12)
    ]
    assert part_of_whole(f"imagenet_v2:{variant}", 10_000, 1000) == ""
    assert "1000 classes" in part_of_whole(f"imagenet_v2:{variant}", len(data), 12)


@pytest.mark.parametrize(
    "name, folder",
    [
        ("imagenet_r", "imagenet-r"),
        ("imagenet_a", "imagenet-a"),
        ("imagenet_sketch", "imagenet-sketch"),
        ("imagenet_sketch", "sketch"),
    ],
)
def test_class_folders(root: Path, name: str, folder: str) -> None:
    write_grey(root / folder / "n02" / "art_0.jpg", 40)
    write_grey(root / folder / "n01" / "cartoon_0.jpg", 80)
    assert content(open_images(f"{name}:test")) == [("n01", 80), ("n02", 40)]


def corrupt(folder: Path, name: str, severities: tuple[str, ...] = SEVERITIES) -> None:
    for severity in severities:
        for number, kind in enumerate(("n01", "n02")):
            write_grey(
                folder / name / severity / kind / "0.JPEG", 10 * int(severity) + 100 * number
            )


@pytest.mark.parametrize("below", [False, True])
def test_imagenet_c(root: Path, below: bool) -> None:
    for name in (*CORRUPTIONS, *EXTRA):
        archive = CORRUPTIONS[name][0] if name in CORRUPTIONS else "extra"
        corrupt(root / "imagenet-c" / (archive if below else ""), name)
    data = open_images("imagenet_c:test")
    assert len(data) == 15 * 5 * 2 and data.classes == ["n01", "n02"]
    names = [corruption_of(data.name(index))[0] for index in range(len(data))]
    assert list(dict.fromkeys(names)) == list(CORRUPTIONS)
    of_fog = [pair for name, pair in zip(names, content(data)) if name == "fog"]
    assert of_fog == [
        pair for s in range(1, 6) for pair in (("n01", 10 * s), ("n02", 10 * s + 100))
    ]
    assert len(open_images("imagenet_c:extra")) == 4 * 5 * 2


def test_own_folder_in_that_layout(root: Path) -> None:
    for name in ("rain", "dust"):
        corrupt(root / "mine", name, ("2", "10"))
    (root / "mine/.git").mkdir()
    data = open_images("corrupted:mine")
    found = [corruption_of(data.name(i)) for i in range(8)]
    assert found == [(name, number) for name in ("dust", "rain") for number in "2 2 10 10".split()]
    assert [grey for _, grey in content(data)][:4] == [20, 120, 100, 200]
    assert len(open_images(f"corrupted:{root}/mine")) == 8


def test_bad_input_ends_in_a_line(root: Path) -> None:
    for number in ("0", "2"):
        write_grey(root / "imagenetv2-top-images" / number / "a.jpeg", 0)
    for folder in ("0", "01", "n01"):
        write_grey(root / "imagenetv2-threshold0.7" / folder / "a.jpeg", 0)
    for name in CORRUPTIONS:
        corrupt(root / "imagenet-c", name)
    shutil.rmtree(root / "imagenet-c/fog/3")
    corrupt(root / "uneven", "rain")
    corrupt(root / "uneven", "dust", ("1", "2"))
    corrupt(root / "classes", "rain", ("1", "2"))
    shutil.rmtree(root / "classes/rain/2/n01")
    corrupt(root / "deep", "rain", ("1",))
    write_grey(root / "deep/rain/1/n01/more/1.jpg", 0)
    (root / "empty").mkdir()
    for name, words in {
        "imagenet_v2:top-images": "are the numbers 0 to 999; missing: 1;",
        "imagenet_v2:threshold0.7": "0 to 999; these folders are not: 01, n01;",
        "imagenet_v2:top": "unknown split of imagenet_v2 'top'; known: matched-frequency",
        "imagenet_v2:matched-frequency": "imagenetv2-matched-frequency-format-val is missing",
        "imagenet_r:val": "unknown split of imagenet_r 'val'; known: test",
        "imagenet_a:test": "imagenet-a is missing",
        "imagenet_c:test": "fog/3 is missing",
        "imagenet_c:extra": "speckle_noise is missing",
        "corrupted:uneven": "rain has the severities 1, 2, 3, 4, 5, but dust has 1, 2",
        "corrupted:classes": "class folders than the severities before it (n01); unpack",
        "corrupted:deep": "is in a folder below its class folder",
        "corrupted:empty": "has no folders; expected",
        "corrupted:absent": "absent is missing; expected",
        "corrupted:": "does not name a folder",
    }.items():
        with pytest.raises(InputError) as error:
            open_images(name)
        assert words in str(error.value), name
        assert "\n" not in str(error.value)
