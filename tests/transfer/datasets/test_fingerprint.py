"""What changes the fingerprint of annotated objects, and what does not."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as masks_of_coco

from pretrain.data.fingerprint import Fingerprint, difference
from tests.transfer.annotated import coco_content, write_coco, write_voc
from transfer.datasets import fingerprint as module
from transfer.datasets.fingerprint import FACTOR, mask_checksums
from transfer.datasets.registry import open_sets
from transfer.datasets.samples import Instance, Sample, is_compact, mask_checksums_of

Change = Callable[[dict[str, Any]], object]


def of_coco(folder: Path, change: Change | None = None) -> Fingerprint:
    content = copy.deepcopy(coco_content())
    if change is not None:
        change(content)
    write_coco(folder, "train", content)
    return open_sets([f"coco:{folder}:train"]).fingerprint


def renumber(content: dict[str, Any]) -> None:
    for entry in content["annotations"]:
        entry["id"] += 100
        entry["image_id"] = 50 - entry["image_id"]
        entry["category_id"] = 9 - entry["category_id"]
    for image in content["images"]:
        image["id"] = 50 - image["id"]
    for category in content["categories"]:
        category["id"] = 9 - category["id"]


def reorder(content: dict[str, Any]) -> None:
    for key in ("images", "annotations", "categories"):
        content[key].reverse()


def as_run_lengths(content: dict[str, Any]) -> None:
    entry = content["annotations"][0]
    entry["segmentation"] = masks_of_coco.frPyObjects(entry["segmentation"], 64, 64)[0]
    entry["segmentation"]["counts"] = entry["segmentation"]["counts"].decode()


def as_plain_run_lengths(content: dict[str, Any]) -> None:
    as_run_lengths(content)
    mask = masks_of_coco.decode(content["annotations"][0]["segmentation"]).ravel(order="F")
    edges = np.flatnonzero(np.diff(mask)) + 1
    counts = np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()
    content["annotations"][0]["segmentation"]["counts"] = counts


@pytest.mark.parametrize("change", [renumber, reorder])
def test_ids_and_order_do_not_count(tmp_path: Path, change: Change) -> None:
    assert of_coco(tmp_path, change) == of_coco(tmp_path)


def test_the_root_does_not_count(tmp_path: Path) -> None:
    before = of_coco(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "deep/er/two")
    assert open_sets([f"coco:{tmp_path / 'deep/er/two'}:train"]).fingerprint == before
    assert (before.images, before.objects, before.classes) == (3, 6, 2)


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda c: c["annotations"][3]["bbox"].__setitem__(0, 43.5), "content: the boxes differ"),
        (lambda c: c["annotations"].pop(), "3 images with 6 objects then, 3 images with 5 objects"),
        (lambda c: c["annotations"][1].update(category_id=1), "content: the labels differ"),
        (lambda c: c["annotations"][1].update(iscrowd=1), "content: the labels differ"),
        (
            lambda c: c["annotations"][0]["segmentation"][0].__setitem__(0, 4.5),
            "content: the masks differ",
        ),
        (
            lambda c: c["annotations"][0]["segmentation"].append([1, 1, 9, 1, 9, 9]),
            "content: the masks differ",
        ),
        (as_run_lengths, "content: the masks differ"),
        (
            lambda c: c["annotations"][0].update(image_id=2),
            "content: the boxes differ",
        ),
        (lambda c: c["categories"][0].update(name="fox"), "content: the labels differ"),
    ],
)
def test_what_changes_the_annotations_changes_it(tmp_path: Path, change: Change, told: str) -> None:
    assert told in difference(of_coco(tmp_path), of_coco(tmp_path, change))


def test_both_forms_of_run_lengths_are_one_mask(tmp_path: Path) -> None:
    assert of_coco(tmp_path, as_run_lengths) == of_coco(tmp_path, as_plain_run_lengths)


def test_columns_and_plain_samples_are_one_data_set(tmp_path: Path) -> None:
    of_coco(tmp_path, as_run_lengths)
    data = open_sets([f"coco:{tmp_path}:train"])
    assert is_compact(data.samples)
    plain = type(data)(data.name, "coco", tuple(data.samples), data.classes, data.category_ids)
    assert plain.fingerprint == data.fingerprint
    part = data.part(np.array([2, 0]))
    assert part.fingerprint == plain.part(np.array([0, 2])).fingerprint != data.fingerprint


def test_voc(tmp_path: Path) -> None:
    def found(folder: Path) -> Fingerprint:
        return open_sets([f"voc:{folder}:train"]).fingerprint

    write_voc(tmp_path / "a", "train")
    before = found(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    listing = tmp_path / "b/ImageSets/Main/train.txt"
    listing.write_text("\n".join(reversed(listing.read_text().split())))
    assert found(tmp_path / "b") == before
    xml = tmp_path / "b/Annotations/1.xml"
    text = xml.read_text()
    xml.write_text(text.replace("<name>dog</name>", "<name>dog</name><difficult>1</difficult>"))
    assert "the labels differ" in difference(before, found(tmp_path / "b"))
    xml.write_text(text.replace("<xmax>42.25<", "<xmax>41<"))
    assert "the boxes differ" in difference(before, found(tmp_path / "b"))
    listing.write_text("0\n1\n")
    assert "3 images with 6 objects then, 2 images with 4" in difference(
        before, found(tmp_path / "b")
    )


def test_two_sets_below_one_root(tmp_path: Path) -> None:
    for name in ("root/a", "root/b", "other/a", "other/b"):
        write_voc(tmp_path / name, "train")
    one, two = (
        open_sets([f"voc:{tmp_path / root / part}:train" for part in "ab"]).fingerprint
        for root in ("root", "other")
    )
    assert one == two and one.images == 6


def by_hand(polygons: list[list[float]]) -> int:
    """The checksum in whole numbers of any size."""
    factor, modulus = int(FACTOR), 2**64
    numbers = [round(100 * number) for polygon in polygons for number in polygon]
    sums = [
        sum(value * pow(factor, i + 1, modulus) for i, value in enumerate(values)) % modulus
        for values in (numbers, [len(polygon) for polygon in polygons])
    ]
    found = sums[0] ^ sums[1] * factor % modulus
    return found - modulus if found >= modulus // 2 else found


@pytest.mark.parametrize("piece", [4, 50, 2**20])
def test_checksums_of_masks_against_whole_numbers(
    piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE", piece)
    rng = np.random.default_rng(0)
    objects = [
        [np.round(rng.uniform(-5, 90, 2 * rng.integers(3, 9)), 2).tolist() for _ in range(count)]
        for count in rng.integers(0, 4, 40)
    ]
    found = mask_checksums(objects, [None] * len(objects))
    assert found.tolist() == [by_hand(polygons) if polygons else 0 for polygons in objects]
    samples = [Sample("a", 1, 9, 9, (Instance((0, 0, 1, 1), 0, polygons=objects[1]),))]
    assert mask_checksums_of(samples).tolist() == found[1:2].tolist()


def test_a_large_file_of_one_json_is_read_back_equal(tmp_path: Path) -> None:
    """Whatever the packing of its coordinates: with a third decimal they are not hundredths."""
    before = of_coco(tmp_path)
    content = json.loads((tmp_path / "annotations/instances_train.json").read_text())
    content["annotations"][5]["segmentation"][0][0] += 0.001
    write_coco(tmp_path, "train", content)
    after = open_sets([f"coco:{tmp_path}:train"])
    first = mask_checksums_of(after.samples)[:5].tolist()
    assert first == mask_checksums_of(tuple(after.samples))[:5].tolist()
    assert before.parts["labels"] == after.fingerprint.parts["labels"]
