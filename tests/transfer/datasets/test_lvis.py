"""The LVIS reader: files, categories, the official layout, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pretrain.common.errors import InputError
from tests.transfer.annotated import coco_content, write_coco
from tests.transfer.lvis_files import lvis_content, write_lvis
from transfer.datasets import coco_cache
from transfer.datasets.lvis import NEGATIVE, NOT_EXHAUSTIVE
from transfer.datasets.registry import locate, open_sets


def test_the_official_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for split in ("train", "val"):
        write_lvis(tmp_path, split, lvis_content(split, 7))
        place = locate(f"lvis_v1_{split}")
        assert place.annotation_file == tmp_path / f"lvis/lvis_v1_{split}.json"
        assert place.images == tmp_path / "coco" and place.num_classes == 1203
    val = open_sets(["lvis_v1_val"], scored=("bbox", "segm"))
    assert val.layout == "lvis" and val.classes == tuple(f"class_{i}" for i in range(1, 7))
    content = lvis_content("val", 7)
    assert [s.image_id for s in val.samples] == [entry["id"] for entry in content["images"]]
    folders = [Path(sample.file_name).parent.name for sample in val.samples]
    assert folders == ["val2017", "val2017", "train2017"] * 2 + ["val2017"]
    # category id - 1, and no object is a crowd region
    found = [i.category for sample in val.samples for i in sample.instances]
    assert found == [record["category_id"] - 1 for record in content["annotations"]]
    assert not any(i.crowd for sample in val.samples for i in sample.instances)
    assert all(sample.instances[0].polygons for sample in val.samples)


def test_a_part_and_two_sets(tmp_path: Path) -> None:
    train = write_lvis(tmp_path, "train", lvis_content("train", 8))
    val = write_lvis(tmp_path, "val", lvis_content("val", 5, seed=1))
    assert len(open_sets([f"{train}@25%"])) == 2
    both = open_sets([train, val])
    assert len(both) == 13 and both.layout == "lvis" and both.annotation_file is None


def test_a_kept_file_is_read_as_the_json_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = write_lvis(tmp_path, "val", lvis_content("val", 6))
    plain = open_sets([name])
    monkeypatch.setenv("MSCN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(coco_cache, "SMALLEST", 0)
    for _ in range(2):
        kept = open_sets([name])
        assert kept.fingerprint == plain.fingerprint
        assert list(kept.samples) == list(plain.samples)


def test_nothing_is_said_of_flags_that_lvis_does_not_have(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_sets([write_lvis(tmp_path, "val", lvis_content("val", 4))], scored=("bbox", "segm"))
    assert not caplog.records


def damaged(change: Callable[[dict[str, Any]], object], tmp_path: Path) -> str:
    content = lvis_content("val", 4)
    name = write_lvis(tmp_path, "val", content)
    change(content)
    (tmp_path / "lvis/lvis_v1_val.json").write_text(json.dumps(content))
    return name


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "one negative list": (
        lambda c: c["images"][1].pop(NEGATIVE),
        r"images have no list 'neg_category_ids', without which .* \(1: images\[id 20\] \(null\)\)",
    ),
    "all negative lists": (
        lambda c: [entry.pop(NEGATIVE) for entry in c["images"]],
        "is not an LVIS file: none of its 4 images has 'neg_category_ids'",
    ),
    "null": (
        lambda c: c["images"][0].update({NOT_EXHAUSTIVE: None}),
        r"no list 'not_exhaustive_category_ids'.*images\[id 10\]",
    ),
    "an unknown class": (
        lambda c: c["images"][0][NEGATIVE].append(77),
        r"a class in 'neg_category_ids' that 'categories' does not \(1: images\[id 10\] \(77\)\)",
    ),
    "a list as a class": (lambda c: c["images"][0][NEGATIVE].append([1]), "that 'categories'"),
    "a number": (lambda c: c["images"][0].update({NEGATIVE: 3}), "no list 'neg_category_ids'"),
    "no frequency": (
        lambda c: c["categories"][2].pop("frequency"),
        r"categories have no 'frequency' r, c or f \(1: categories\[id 3\] \(null\)\)",
    ),
    "an unknown frequency": (
        lambda c: c["categories"][0].update(frequency=["r"]),
        "no 'frequency' r, c or f",
    ),
    "no url": (
        lambda c: c["images"][0].pop("coco_url"),
        r"images\[id 10\] has no 'file_name'",
    ),
    "no image": (
        lambda c: c["images"][3].update(coco_url="http://images.cocodataset.org/val2017/x.jpg"),
        r"val2017/x.jpg is missing \(1 of 4",
    ),
    "an outside image": (
        lambda c: c["images"][3].update(coco_url="http://a/../../lvis/../lvis_v1_val.json"),
        "is missing|leads out",
    ),
    "no annotations": (lambda c: c.pop("annotations"), "has no list 'annotations'"),
    "no id of a category": (lambda c: c["categories"][0].pop("id"), "has no 'id'"),
    "a text as image": (lambda c: c["images"].append("x"), "entries are not records"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_refused_in_one_line(case: str, tmp_path: Path) -> None:
    change, message = CHANGES[case]
    with pytest.raises(InputError, match=message) as caught:
        open_sets([damaged(change, tmp_path)])
    assert "\n" not in str(caught.value)


def test_a_coco_file_as_lvis_and_a_missing_one(tmp_path: Path) -> None:
    path = write_coco(tmp_path, "val", coco_content())
    with pytest.raises(InputError, match="is not an LVIS file.*; name a COCO file as coco:FILE"):
        open_sets([f"lvis:{path}:{tmp_path / 'val'}"])
    with pytest.raises(InputError, match="x.json is missing; expected the file of lvis:"):
        open_sets([f"lvis:{tmp_path}/x.json:{tmp_path / 'val'}"])
    with pytest.raises(InputError, match="needs the form lvis:FILE.json:IMAGES"):
        open_sets(["lvis:folder:val"])


def test_a_missing_official_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    expected = f"lvis_v1_val.json with COCO's images, {tmp_path}/coco/"
    with pytest.raises(InputError, match=f"is missing; expected .*{expected}.*lvis:FILE.json"):
        open_sets(["lvis_v1_val"])


def test_layouts_do_not_mix(tmp_path: Path) -> None:
    lvis = write_lvis(tmp_path, "val", lvis_content("val", 3))
    path = write_coco(tmp_path, "val", coco_content())
    with pytest.raises(InputError, match="mix LVIS and COCO layouts"):
        open_sets([lvis, f"coco:{path}:{tmp_path / 'val'}"])
