"""Parts of a data set: how many images, which images, and their names."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pretrain.common.errors import InputError
from pretrain.digits.dataset import make_digits
from transfer.datasets.few_labels import Part, few_labels, is_drawn, split_part
from transfer.datasets.registry import locate, open_sets
from transfer.datasets.samples import Instance, Sample


def images(count: int, empty: int = 0) -> list[Sample]:
    things = (Instance((0.0, 0.0, 1.0, 1.0), 0),)
    found = [Sample(f"{i}.jpg", i, 4, 4, things) for i in range(count)]
    return found + [Sample(f"e{i}.jpg", -1 - i, 4, 4, ()) for i in range(empty)]


def percent(samples: list[Sample], amount: float) -> tuple[Sample, ...]:
    return few_labels(samples, Part(amount, "%"), ["thing"])


CLASSES = ["cat", "dog", "cow"]
CAT = Instance((0.0, 0.0, 1.0, 1.0), 0)


def crowded(seed: int, count: int = 40) -> list[Sample]:
    """Images of 0 to 5 objects, with crowds and boxes without area among them."""
    rng = random.Random(seed)
    samples = []
    for i in range(count):
        things = [
            Instance((1.0, 1.0, rng.choice([1.0, 4.0, 5.0, 6.0]), 3.0 + j), rng.randrange(3),
                     crowd=rng.random() < 0.1, difficult=rng.random() < 0.2)
            for j in range(rng.randrange(6))
        ]  # fmt: skip
        samples.append(Sample(f"{i}.jpg", f"im{i}", 9, 9, tuple(things)))
    return samples


def shots(samples: list[Sample], count: int, draw: int = 0) -> tuple[Sample, ...]:
    return few_labels(samples, Part(count, "shot"), CLASSES, draw)


def slow_shots(samples: list[Sample], count: int, draw: int) -> dict[str, list[Instance]]:
    """The rule in words: each class goes through its images in the order of their hashes."""
    left: dict[str, list[Instance]] = {sample.image_id: [] for sample in samples}
    for number, name in enumerate(CLASSES):
        order = {}
        for sample in samples:
            text = f"{draw} {name} {sample.image_id}"
            order[hashlib.sha256(text.encode()).hexdigest()] = sample
        found = 0
        for key in sorted(order):
            for thing in order[key].instances:
                sound = not thing.crowd and thing.box[2] > thing.box[0]
                if thing.category == number and sound and found < count:
                    left[order[key].image_id].append(thing)
                    found += 1
    return {key: things for key, things in left.items() if things}


@pytest.mark.parametrize("draw", range(4))
@pytest.mark.parametrize("count", [1, 3, 7])
def test_shots_are_those_of_the_rule(count: int, draw: int) -> None:
    samples = crowded(draw)
    found = shots(samples, count, draw)
    expected = slow_shots(samples, count, draw)
    assert [sample.image_id for sample in found] == [
        sample.image_id for sample in samples if sample.image_id in expected
    ]
    whole = {sample.image_id: sample for sample in samples}
    for sample in found:
        key = [(thing.category, thing.box) for thing in expected[sample.image_id]]
        assert sorted((thing.category, thing.box) for thing in sample.instances) == sorted(key)
        order = [whole[sample.image_id].instances.index(thing) for thing in sample.instances]
        assert order == sorted(order), "objects stay in the file's order"
    counts = Counter(thing.category for sample in found for thing in sample.instances)
    assert counts == {0: count, 1: count, 2: count}


def test_shots_are_nested_and_draws_differ() -> None:
    samples = crowded(9)

    def labels(count: int, draw: int = 0) -> set[tuple]:
        found = shots(samples, count, draw)
        return {(s.image_id, thing.category, thing.box) for s in found for thing in s.instances}

    assert labels(2) < labels(5) < labels(8)
    assert labels(5) == labels(5) and len({frozenset(labels(5, draw)) for draw in range(5)}) == 5
    # By coreutils: the sha256sum of "0 cat im0" to "0 cat im39", sorted; the first two.
    cats = [replace(sample, instances=(CAT,)) for sample in samples]
    assert ids(few_labels(cats, Part(2, "shot"), ["cat"], 0)) == ["im2", "im15"]
    with pytest.raises(InputError, match="class 'dog' has 0 objects, fewer than the 2 of @2shot"):
        shots(cats, 2)


def ids(samples: tuple[Sample, ...]) -> list[int]:
    return [sample.image_id for sample in samples]


def test_the_same_images_everywhere() -> None:
    """By coreutils: seq 0 999, the sha256sum of each number, sorted; the first 10 numbers."""
    assert ids(percent(images(1000), 1)) == [178, 245, 286, 342, 374, 610, 636, 671, 719, 886]


def test_parts_are_nested_ordered_and_count_trainable_images() -> None:
    one, five, ten = (percent(images(400, empty=50), amount) for amount in (1, 5, 10))
    assert [len(part) for part in (one, five, ten)] == [4, 20, 40]
    assert set(ids(one)) < set(ids(five)) < set(ids(ten))
    assert ids(ten) == sorted(ids(ten)) and min(ids(ten)) >= 0
    assert len(percent(images(30), 0.1)) == 1, "never none"
    assert few_labels(images(3, empty=1), None, ["thing"]) == tuple(images(3, empty=1))
    assert percent(images(3, empty=1), 100.0) == tuple(images(3))


def test_names() -> None:
    assert split_part("coco_2017_train@1%") == ("coco_2017_train", Part(1.0, "%"))
    assert split_part("voc:a@b:train@0.5%") == ("voc:a@b:train", Part(0.5, "%"))
    assert split_part("voc:a@b:train") == ("voc:a@b:train", None)
    assert split_part("voc:a@b:train@10shot") == ("voc:a@b:train", Part(10, "shot"))
    assert is_drawn(["a@1%", "a@3shot"]) and not is_drawn(["a@1%", "a"])
    place = locate("coco_2017_train@10%")
    assert place.part == Part(10.0, "%") and place.num_classes == 80 and place.split == "train2017"


@pytest.mark.parametrize("part", ["0%", "101%", "1.2.3%", ".%", "0shot", "1.5shot", "..shot"])
def test_no_part(part: str) -> None:
    with pytest.raises(InputError, match=f"coco_2017_train@{part}': {part} is not a valid part"):
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
        drawn = [open_sets([f"{name}@1shot"], draw=draw) for draw in (0, 0, 1)]
        assert drawn[0] == drawn[1] and drawn[0].samples != drawn[2].samples
        assert sum(len(sample.instances) for sample in drawn[2].samples) == 10
        with pytest.raises(InputError, match="only for the training set of a detector"):
            open_sets([f"{name}@1shot"])
        both = open_sets([f"{name}@25%", f"{kind}:digits_{kind}:test"])
        assert len(both) == 6, "each name has its own part"
