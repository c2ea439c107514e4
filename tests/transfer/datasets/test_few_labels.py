"""Parts of a data set: how many images, which ones, and how they are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.common.digits import make_digits
from pretrain.common.errors import InputError
from transfer.datasets.few_labels import few_labels, split_percent
from transfer.datasets.registry import locate, open_sets
from transfer.datasets.samples import Instance, Sample


def images(count: int, empty: int = 0) -> list[Sample]:
    things = (Instance((0.0, 0.0, 1.0, 1.0), 0),)
    found = [Sample(f"{i}.jpg", i, 4, 4, things) for i in range(count)]
    return found + [Sample(f"e{i}.jpg", -1 - i, 4, 4, ()) for i in range(empty)]


def ids(samples: tuple[Sample, ...]) -> list[int]:
    return [sample.image_id for sample in samples]


def test_the_same_images_everywhere() -> None:
    """By coreutils: seq 0 999, the sha256sum of each number, sorted; the numbers of the first 10."""
    assert ids(few_labels(images(1000), 1)) == [178, 245, 286, 342, 374, 610, 636, 671, 719, 886]


def test_parts_are_nested_ordered_and_count_trainable_images() -> None:
    one, five, ten = (few_labels(images(400, empty=50), percent) for percent in (1, 5, 10))
    assert [len(part) for part in (one, five, ten)] == [4, 20, 40]
    assert set(ids(one)) < set(ids(five)) < set(ids(ten))
    assert ids(ten) == sorted(ids(ten)) and min(ids(ten)) >= 0
    assert len(few_labels(images(30), 0.1)) == 1, "never none"
    assert few_labels(images(3, empty=1), None) == tuple(images(3, empty=1))
    assert few_labels(images(3, empty=1), 100.0) == tuple(images(3))


def test_names() -> None:
    assert split_percent("coco_2017_train@1%") == ("coco_2017_train", 1.0)
    assert split_percent("voc:a@b:train@0.5%") == ("voc:a@b:train", 0.5)
    assert split_percent("voc:a@b:train") == ("voc:a@b:train", None)
    place = locate("coco_2017_train@10%")
    assert place.percent == 10.0 and place.num_classes == 80 and place.split == "train2017"


@pytest.mark.parametrize("part", ["0%", "101%", "1.2.3%", ".%"])
def test_no_part(part: str) -> None:
    with pytest.raises(InputError, match=f"coco_2017_train@{part}': {part} is no part"):
        locate(f"coco_2017_train@{part}")
    with pytest.raises(InputError, match="names two parts"):
        locate("coco_2017_train@5%@1%")


def test_sets_of_both_layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_digits(tmp_path / "d", classification=(0, 0, 0), scenes=(12, 0, 3))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "d"))
    for kind in ("voc", "coco"):
        name = f"{kind}:digits_{kind}:train"
        whole, part = open_sets([name]), open_sets([f"{name}@25%"])
        assert len(part) == 3 and set(ids(part.samples)) < set(ids(whole.samples))
        assert part.classes == whole.classes and part.name == f"{name}@25%"
        both = open_sets([f"{name}@25%", f"{kind}:digits_{kind}:test"])
        assert len(both) == 6, "each name has its own part"
