"""The readers on real annotations, if they are available ($TRANSFER_TEST_DATA)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from transfer.datasets.checks_before_training import check_masks
from transfer.datasets.registry import open_sets


@pytest.fixture(autouse=True)
def root(real_data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("coco_mini", "voc20_coco", "groceries_voc"):
        monkeypatch.setenv("DETECTRON2_DATASETS", str(real_data(name)))


def test_coco_mini() -> None:
    train = open_sets(["coco:coco_mini:train"])
    val = open_sets(["coco:coco_mini:val"], like=train)
    assert (len(train), len(val), len(train.classes)) == (264, 128, 80)
    assert train.classes[0] == "person" and train.category_ids[-1] == 90
    assert sum(len(sample.instances) for sample in (*train.samples, *val.samples)) == 2284 + 987
    assert sum(not sample.instances for sample in train.samples) == 3
    crowds = [i for sample in train.samples for i in sample.instances if i.crowd]
    assert crowds and all(i.rle for i in crowds)
    check_masks(train, "")  # raises if an object has none
    assert all(sample.trainable() for sample in train.limited(4).samples)


def test_voc20_coco() -> None:
    splits = [f"voc:voc20_coco:{split}" for split in ("train", "val", "test")]
    whole = open_sets(splits)
    assert len(whole) == 206 + 100 + 95 and len(whole.classes) == 20
    assert sum(i.difficult for sample in whole.samples for i in sample.instances) == 259


def test_groceries() -> None:
    whole = open_sets([f"voc:groceries_voc:{split}" for split in ("train", "val", "test")])
    assert (len(whole), len(whole.classes)) == (1000, 25)
    assert sum(len(sample.instances) for sample in whole.samples) == 2336
