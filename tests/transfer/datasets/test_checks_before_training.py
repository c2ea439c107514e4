"""What is reported about a data set, and the sets that would make a run useless."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from pretrain.common.errors import InputError
from pretrain.common.findings import warn_once
from transfer.datasets.checks_before_training import (
    check_masks,
    check_scorable,
    check_trainable,
    count,
    describe,
    note_misfits,
    note_repeats,
)
from transfer.datasets.coco_masks import mask_box
from transfer.datasets.samples import DetectionSet, Instance, Sample
from transfer.detection.evaluation.predictions import Predictions
from transfer.detection.evaluation.voc import evaluate_voc

BOX = (1.0, 1.0, 5.0, 5.0)
CAT, DOG = Instance(BOX, 0), Instance(BOX, 1)
CROWD, HARD = Instance(BOX, 0, crowd=True), Instance(BOX, 1, difficult=True)


def dataset(
    *images: tuple[Instance, ...], classes: tuple[str, ...] = ("cat", "dog", "eel")
) -> DetectionSet:
    samples = tuple(Sample(f"/x/{i}.jpg", i, 9, 9, objects) for i, objects in enumerate(images))
    ids = tuple(range(1, len(classes) + 1))
    return DetectionSet("voc:x:train", "voc", samples, classes, ids)


def test_counts() -> None:
    data = dataset((CAT, CAT, CROWD), (DOG, HARD), (), (CROWD,), (CROWD, CROWD))
    found = count(data)
    assert (found.images, found.objects, found.crowd, found.difficult) == (5, 8, 4, 1)
    assert found.per_class == (("cat", 2), ("dog", 2), ("eel", 0))
    assert (found.empty, found.only_crowd) == (1, 2)
    assert describe(data, "training") == (
        "training data voc:x:train: 5 images, 8 objects of 3 classes (4 crowd regions, 1 "
        "difficult); not trained on 3 images: 1 without an object, 2 with crowd regions only\n"
        "  cat 2 | dog 2\n"
        "no object of 1 class: eel"
    )
    assert "not trained on" not in describe(data, "test")
    assert found.classes() == "objects per class: cat 2, dog 2; no object of 1 class: eel"


def test_many_classes_are_few_lines() -> None:
    names = tuple(f"class {i}" for i in range(1203))
    objects = tuple(Instance(BOX, i) for i in range(1200) for _ in range(1 + (i < 20) * (20 - i)))
    text = describe(dataset(objects, classes=names), "training")
    assert "1,410 objects of 1,203 classes" in text
    assert "class 0  21" in text and "class 11 10" in text and "class 12 " not in text
    assert "1,188 other classes have 1 to 9 objects" in text
    assert "no object of 3 classes: class 1200, class 1201, class 1202" in text
    assert len(text.splitlines()) < 8 and max(map(len, text.splitlines())) <= 110
    line = count(dataset(objects, classes=names)).classes()
    assert line.startswith("objects per class: class 0 21, class 1 20,") and len(line) < 300


def test_a_table_has_every_class_of_coco() -> None:
    names = tuple(f"name{i}" for i in range(80))
    text = describe(dataset(tuple(Instance(BOX, i) for i in range(80)), classes=names))
    assert all(f"{name} " in text for name in names) and len(text.splitlines()) < 15


def test_nothing_to_train_on() -> None:
    for images, why in (
        (((CROWD,), (CROWD,)), r": all objects are crowd regions, 'iscrowd' 1 \(2\)"),
        (((), ()), ": it has no objects"),
    ):
        with pytest.raises(InputError, match=f"no image of voc:x:train has an object to .*{why}"):
            check_trainable(dataset(*images))
    with pytest.raises(InputError, match="no object of voc:x:train has a box with an area"):
        check_trainable(dataset((Instance((1.0, 1.0, 1.0, 5.0), 0),)))
    check_trainable(dataset((HARD,)))  # trained on, as in Detectron2


def test_nothing_to_find() -> None:
    for images, why in (
        (((CROWD,),), r": all objects are crowd regions, 'iscrowd' 1 \(1\)"),
        (((), ()), ": it has no objects"),
        (((HARD,), (CROWD,)), r": all objects are difficult or crowd regions \(2\)"),
    ):
        with pytest.raises(InputError, match=f"test set voc:x:train has an object to find{why}"):
            check_scorable(dataset(*images), 100)


def test_more_objects_than_detections(caplog: pytest.LogCaptureFixture) -> None:
    data = dataset((CAT,) * 4, (CAT,) * 3 + (CROWD,) * 9, (DOG,) * 5)
    check_scorable(data, 5)
    assert not caplog.records
    check_scorable(data, 3)
    (record,) = caplog.records
    assert "more objects than TEST.DETECTIONS_PER_IMAGE 3, " in record.message
    assert "raise that key (2: 0.jpg with 4, 2.jpg with 5)" in record.message


def test_objects_without_masks() -> None:
    mask = Instance(BOX, 0, polygons=[[1.0, 1.0, 5.0, 1.0, 5.0, 5.0]])
    check_masks(dataset((mask, CROWD), ()), "set it False")
    with pytest.raises(
        InputError,
        match=r"voc:x:train: objects have no mask \(3, first: 0.jpg, 2.jpg\); set it False",
    ):
        check_masks(dataset((mask, CAT), (mask,), (DOG, DOG)), "set it False")
    with pytest.raises(InputError, match="no object of voc:x:train has a mask: it has no objects"):
        check_masks(dataset(()), "set it False")
    with pytest.raises(InputError, match="no object of voc:x:train has a mask; set it False"):
        check_masks(dataset((CAT, DOG), (CROWD,)), "set it False")


def test_objects_and_images_that_are_there_twice(caplog: pytest.LogCaptureFixture) -> None:
    low, high, minus = (Instance((x, 1.0, 5.0, 5.0), 0) for x in (0.0, 1e-9, -0.0))
    images = ((CAT, DOG, CROWD, CROWD), (CAT, HARD, DOG), (low, high, minus, low), ())
    note_repeats(dataset(*images))
    (record,) = caplog.records
    assert record.getMessage() == (
        "voc:x:train: objects have the image, class and box of an earlier one: each is trained on, "
        "but a detector can find only one of them (3: 1.jpg: 'dog' (1, 1, 5, 5), 2.jpg: 'cat' (-0, "
        "1, 5, 5), 2.jpg: 'cat' (0, 1, 5, 5))"
    )
    caplog.clear()
    first, second = (Sample("/x/a.jpg", number, 9, 9, (CAT,)) for number in (1, 2))
    other = Sample("/y/a.jpg", 3, 9, 9, (CAT,))
    data = replace(dataset(), samples=(first, other, second))
    note_repeats(data)
    assert caplog.messages == [
        "voc:x:train: images are listed more than once: the objects of one entry are background in "
        "the others (1: a.jpg)"
    ]
    caplog.clear()
    note_repeats(replace(data, samples=(first, other)))
    note_repeats(dataset())
    assert not caplog.records


def test_an_object_twice_lowers_the_score_of_a_perfect_detector() -> None:
    """Why it is said: the second one is missed, and the second detection is wrong."""
    data = dataset((CAT, CAT), classes=("cat",))
    boxes, labels = np.array([BOX, BOX]), np.zeros(2, int)
    found = [Predictions(0, boxes, np.array([0.9, 0.8]), labels, None)]
    metrics, _ = evaluate_voc(data, found, metric=2012)
    assert metrics["bbox/AP50"] == pytest.approx(100 / 2)


def test_boxes_that_do_not_fit_their_masks(caplog: pytest.LogCaptureFixture) -> None:
    """x1, y1, x2, y2 read as x, y, width, height: no box leaves an image of 99 pixels."""
    polygon = [[10.0, 12.0, 30.0, 12.0, 30.0, 40.0], [12.0, 20.0, 14.0, 20.0, 14.0, 30.0]]
    rle = {"size": [99, 99], "counts": [10 * 99 + 12, 28, 20 * 99 - 28, 28, 0]}
    rle["counts"][-1] = 99 * 99 - sum(rle["counts"])
    rle = mask_utils.frPyObjects(rle, 99, 99)
    for mask in ({"polygons": polygon}, {"rle": rle}):
        x1, y1, x2, y2 = mask_box(mask.get("polygons") or mask["rle"])
        right = Instance((x1, y1, x2, y2), 0, **mask)
        near = Instance((x1 - 3, y1, x2 + 2, y2), 0, **mask)
        wrong = Instance((x1, y1, x1 + x2, y1 + y2), 1, **mask)
        note_misfits(dataset((right, near, CAT), (replace(wrong, crowd=True),)))
        assert not caplog.records
        note_misfits(dataset((right,), (near, wrong), (), (wrong,)))
        (message,) = caplog.messages
        assert message.startswith("voc:x:train: of 4 boxes that were compared with the mask")
        assert f"(2: 1.jpg: (10, 12, {10 + x2:g}, {12 + y2:g}) and mask (10, 12, " in message
        warn_once.cache_clear()
        caplog.clear()
    dot = Instance((5.3, 5.3, 5.9, 5.8), 0, polygons=[[5.0, 5.0, 6.0, 5.0, 6.0, 6.0]])
    flat = Instance((5.0, 5.0, 5.0, 9.0), 0, polygons=polygon)
    empty = Instance(BOX, 0, rle=mask_utils.frPyObjects({"size": [9, 9], "counts": [81]}, 9, 9))
    note_misfits(dataset((dot, flat, empty)))
    assert not caplog.records
