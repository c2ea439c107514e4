"""The digits: the same bytes for a seed, disjoint splits, boxes and masks by pycocotools."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from pretrain.common.errors import InputError
from pretrain.digits.dataset import draw_crop, make_digits
from pretrain.digits.official_layouts import TAIL
from pretrain.digits.render import (
    _REGIONS,
    SPLITS,
    digit_pool,
    draw_background,
    luma,
    photo_regions,
    tight_box,
)
from pretrain.digits.scenes import (
    coco_annotations,
    draw_scene,
    mask_ends,
    mask_polygons,
    outline,
    voc_annotation,
)

SMALL = {"classification": (20, 10, 10), "scenes": (4, 2, 2)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("digits") / "set"
    assert make_digits(output, seed=3, **SMALL)
    return output


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_two_runs_give_the_same_bytes(made: Path, tmp_path: Path) -> None:
    make_digits(tmp_path / "again", seed=3, **SMALL)
    assert _hashes(tmp_path / "again") == _hashes(made)
    make_digits(tmp_path / "other", seed=4, **SMALL)
    other, first = _hashes(tmp_path / "other"), _hashes(made)
    assert other.keys() == first.keys()
    assert all(other[name] != first[name] for name in first if name.endswith((".png", ".jpg")))


def test_an_image_does_not_depend_on_the_counts(made: Path, tmp_path: Path) -> None:
    make_digits(tmp_path / "fewer", seed=3, classification=(11, 0, 0), scenes=(1, 0, 0))
    fewer, all_of_them = _hashes(tmp_path / "fewer"), _hashes(made)
    names = [name for name in fewer if name.endswith((".png", ".jpg", ".xml"))]
    assert len(names) == 11 + 3
    assert all(fewer[name] == all_of_them[name] for name in names)


def test_layout(made: Path) -> None:
    assert sorted(p.name for p in made.iterdir()) == [
        "digits.json",
        "digits_cls",
        "digits_coco",
        "digits_voc",
    ]
    for split, crops, scenes in zip(SPLITS, SMALL["classification"], SMALL["scenes"]):
        folder = made / "digits_cls" / split
        assert sorted(p.name for p in folder.iterdir()) == [str(digit) for digit in range(10)]
        images = list(folder.rglob("*.png"))
        assert len(images) == crops
        assert Image.open(images[0]).size == (32, 32)
        names = (made / f"digits_voc/ImageSets/Main/{split}.txt").read_text().split()
        assert len(names) == scenes
        for name in names:
            jpeg = (made / f"digits_voc/JPEGImages/{name}.jpg").read_bytes()
            assert jpeg == (made / f"digits_coco/{split}/{name}.jpg").read_bytes()


def test_splits_share_no_digit_and_no_scenery() -> None:
    inks = {
        split: {ink.tobytes() for pool in digit_pool(split) for ink in pool} for split in SPLITS
    }
    counts = [sum(len(pool) for pool in digit_pool(split)) for split in SPLITS]
    assert counts == [1100, 200, 497]
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not inks[a] & inks[b]
        (left_a, top_a, right_a, bottom_a), (left_b, top_b, right_b, bottom_b) = (
            _REGIONS[a],
            _REGIONS[b],
        )
        apart = min(right_a, right_b) <= max(left_a, left_b) or (
            min(bottom_a, bottom_b) <= max(top_a, top_b)
        )
        assert apart
        assert min(region.size[1] for region in photo_regions(a)) >= 128  # a scene fits


def test_background_is_a_crop_of_the_region() -> None:
    """With zoom 1 a background is found, pixel for pixel or mirrored, in the split's photos."""
    side = 40
    pixels = draw_background("test", side, (1, 1), np.random.default_rng(5))
    windows = [
        np.lib.stride_tricks.sliding_window_view(np.asarray(photo), (side, side, 3))[:, :, 0]
        for photo in photo_regions("test")
    ]
    corners = [pixels[0, 0], pixels[0, -1]]
    found = False
    for mirrored, corner in zip((pixels, pixels[:, ::-1]), corners):
        for view in windows:
            hits = np.argwhere((view[:, :, 0, 0] == corner).all(-1))
            found |= any((view[y, x] == mirrored).all() for y, x in hits)
    assert found


def test_crops_show_a_digit() -> None:
    crop = draw_crop("train", 8, np.random.default_rng(0))
    assert crop.shape == (32, 32, 3) and crop.dtype == np.uint8
    assert luma(np.full((2, 2, 3), 255, np.uint8)) == pytest.approx(1)


def test_polygons_fill_to_the_mask() -> None:
    """Also with a hole, two holes, diagonal neighbours and several parts."""
    coco = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    ring = np.zeros((9, 12), bool)
    ring[1:8, 1:11] = True
    ring[3:5, 3:5] = ring[5:7, 6:9] = False
    ring[0, 0] = True
    for mask in [ring, *(rng.random((20, 8, 11)) < 0.6)]:
        rles = coco.frPyObjects(mask_polygons(mask), *mask.shape)
        assert np.array_equal(coco.decode(coco.merge(rles)).astype(bool), mask)


def test_coco_annotations_agree_with_pycocotools(made: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    path = made / "digits_coco/annotations/instances_train.json"
    document = json.loads(path.read_text())
    assert [c["id"] for c in document["categories"]] == list(range(1, 11))
    ids = [a["id"] for a in document["annotations"]]
    assert ids == list(range(1, len(ids) + 1))
    api = coco.COCO(str(path))
    for annotation in document["annotations"]:
        mask = api.annToMask(annotation).astype(bool)
        top, left, bottom, right = tight_box(mask)
        assert annotation["bbox"] == [left, top, right - left, bottom - top]
        assert annotation["area"] == mask.sum() > 0


def test_keypoints_are_the_ends_of_the_boxes(made: Path) -> None:
    folder = made / "digits_coco/annotations"
    document = json.loads((folder / "person_keypoints_train.json").read_text())
    assert [c["keypoints"] for c in document["categories"]] == [["top", "bottom", "left", "right"]]
    others = json.loads((folder / "instances_train.json").read_text())["annotations"]
    for annotation, same in zip(document["annotations"], others, strict=True):
        assert annotation["bbox"] == same["bbox"] and annotation["num_keypoints"] == 4
        x, y, width, height = annotation["bbox"]
        (_, top, _), (_, low, _), (left, _, _), (right, _, _) = np.reshape(
            annotation["keypoints"], (4, 3)
        ).tolist()
        assert [left, top, right, low] == [x, y, x + width - 1, y + height - 1]
    mask = np.array([[0, 1, 1], [1, 1, 0], [0, 1, 0]], bool)
    assert mask_ends(mask) == [(2, 0), (1, 2), (0, 1), (2, 0)]


def test_voc_boxes_are_one_based_and_inclusive(made: Path) -> None:
    scene = draw_scene("train", np.random.default_rng([3, 1, 0, 0]))
    written = (made / "digits_voc/Annotations/000001.xml").read_text()
    assert written == voc_annotation(scene, "000001.jpg")
    objects = ElementTree.fromstring(written).findall("object")
    boxes = [a["bbox"] for a in coco_annotations(scene, 1, 1)]
    assert len(objects) == len(boxes)
    for item, (x, y, width, height), digit in zip(objects, boxes, scene.classes):
        corners = [int(item.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax")]
        assert corners == [x + 1, y + 1, x + width, y + height]
        assert min(corners[:2]) >= 1 and max(corners[2:]) <= 128
        assert item.findtext("name") == str(digit)
        assert item.findtext("difficult") == item.findtext("truncated") == "0"


def test_scenes_hold_visible_digits_that_hardly_overlap() -> None:
    counts = set()
    for i in range(40):
        scene = draw_scene("val", np.random.default_rng(i))
        counts.add(len(scene.classes))
        assert scene.masks.shape == (len(scene.classes), 128, 128)
        assert scene.masks.sum(0).max() <= 1  # a pixel shows one digit
        assert scene.masks.sum((1, 2)).min() > 40
    assert counts == {1, 2, 3, 4}


def test_the_same_set_is_recognised_and_another_refused(made: Path, tmp_path: Path) -> None:
    before = _hashes(made)
    assert make_digits(made, seed=3, **SMALL) is False
    with pytest.raises(InputError, match=r"different digits: seed 3 \(requested: 5\)"):
        make_digits(made, seed=5, **SMALL)
    assert _hashes(made) == before
    (tmp_path / "foreign.txt").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        make_digits(tmp_path, **SMALL)
    with pytest.raises(InputError, match="is a file"):
        make_digits(tmp_path / "foreign.txt", **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["foreign.txt"]


@pytest.mark.parametrize(
    "arguments", [{"seed": -1}, {"seed": 1.5}, {"scenes": (1, 2)}, {"classification": (1, -2, 3)}]
)
def test_bad_numbers(tmp_path: Path, arguments: dict) -> None:
    with pytest.raises(InputError):
        make_digits(tmp_path / "x", **arguments)
    assert not (tmp_path / "x").exists()


def test_outlines_are_drawn_as_the_filled_part() -> None:
    """The outline, drawn with its border as Cityscapes draws, has every pixel of the part and no
    pixel outside the part and its holes."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        mask = rng.random((12, 12)) < rng.uniform(0.3, 0.9)
        parts, count = ndimage.label(mask)
        part = parts == rng.integers(1, count + 1)
        image = Image.new("L", (12, 12))
        ImageDraw.Draw(image).polygon(outline(part), 1, 1)
        drawn = np.asarray(image).astype(bool)
        assert (part <= drawn).all() and (drawn <= ndimage.binary_fill_holes(part)).all()


def test_other_layouts(tmp_path: Path) -> None:
    """Cityscapes' and LVIS's files describe the scenes; a set without them is a different one."""
    counts = {"classification": (0, 0, 0), "scenes": (70, 0, 3)}
    assert make_digits(tmp_path, **counts, layouts=["cityscapes", "lvis"])
    cityscapes, *_ = sorted((tmp_path / "digits_cityscapes/gtFine/test/digits").iterdir())
    names = {path.name for path in cityscapes.parent.glob("digits_000071*")}
    endings = ("polygons.json", "labelIds.png", "instanceIds.png")
    assert names == {f"digits_000071_000000_gtFine_{end}" for end in endings}
    content = json.loads((tmp_path / "digits_lvis/lvis_v1_train.json").read_text())
    shown = {one["id"]: set[int]() for one in content["images"]}
    for one in content["annotations"]:
        shown[one["image_id"]].add(one["category_id"])
    for category in content["categories"]:
        images = sum(category["id"] in found for found in shown.values())
        assert category["image_count"] == images <= TAIL.get(category["id"] - 1, 70)
    assert [one["frequency"] for one in content["categories"]] == list("fffffffccr")
    coco = json.loads((tmp_path / "digits_coco/annotations/instances_train.json").read_text())
    there = {(one["image_id"], one["category_id"]) for one in coco["annotations"]}
    for image in content["images"]:
        absent = set(image["neg_category_ids"])
        assert absent == {c for c in range(1, 11) if (image["id"], c) not in there}
    with pytest.raises(InputError, match=r"layouts \['cityscapes', 'lvis'\] \(requested: None\)"):
        make_digits(tmp_path, **counts)
    with pytest.raises(InputError, match="unknown layout 'lviss'"):
        make_digits(tmp_path / "x", layouts=["lviss"])
