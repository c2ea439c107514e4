"""Names of data sets: where they lie, whose classes they have, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.common.errors import InputError
from pretrain.digits.dataset import make_digits
from transfer.datasets.registry import locate, open_sets


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets") / "digits"
    make_digits(root, classification=(0, 0, 0), scenes=(12, 0, 3))
    return root


@pytest.fixture(autouse=True)
def _environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))


def test_both_layouts_agree(root: Path) -> None:
    voc = open_sets(["voc:digits_voc:train"])
    coco = open_sets([f"coco:{root}/digits_coco:train"])
    assert voc.layout == "voc" and coco.layout == "coco"
    assert coco.classes == tuple("0123456789") and set(voc.classes) <= set(coco.classes)
    assert coco.has_masks() and not voc.has_masks()
    for left, right in zip(voc.samples, coco.samples):
        named = [(voc.classes[i.category]) for i in left.instances]
        assert named == [coco.classes[i.category] for i in right.instances]


def test_several_splits_and_limit() -> None:
    both = open_sets(["voc:digits_voc:train", "voc:digits_voc:test"])
    assert len(both) == 15 and both.name == "voc:digits_voc:train+voc:digits_voc:test"
    assert len(both.limited(4)) == 4 and both.limited(0) is both


def test_test_set_takes_the_training_classes() -> None:
    train = open_sets(["coco:digits_coco:train"])
    assert open_sets(["coco:digits_coco:test"], like=train).classes == train.classes
    with pytest.raises(InputError, match="none of the 1 classes"):
        open_sets(["coco:digits_coco:test"], ("0",))


def test_builtin_names() -> None:
    place = locate("voc_2012_trainval")
    assert place.folder.name == "VOC2012" and place.num_classes == 20
    place = locate("coco_2017_val")
    assert str(place.annotation_file).endswith("coco/annotations/instances_val2017.json")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["voc_2007_tset"], "unknown detection data set.*voc_2007_test"),
        (["voc:digits_voc"], "needs the form voc:FOLDER:SPLIT"),
        (["voc_2007_test"], "is missing; expected .*VOC2007.*trainval and test"),
        (["coco_2017_val"], "instances_val2017.json is missing"),
        (["voc:digits_voc:train", "coco:digits_coco:train"], "mix VOC and COCO"),
        ([], "no data set is named"),
    ],
)
def test_refused(names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_sets(names)
