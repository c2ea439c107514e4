"""Names of data sets: where their files are, whose classes they have, what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from pretrain.common.errors import InputError
from pretrain.digits.dataset import make_digits
from tests.transfer import annotated
from transfer.datasets.checks_before_training import check_masks
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
    check_masks(coco, "")
    with pytest.raises(InputError, match="no object of voc:digits_voc:train has a mask"):
        check_masks(voc, "")
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
    with pytest.raises(InputError, match="not one of the 1 classes"):
        open_sets(["coco:digits_coco:test"], ("0",))


def test_builtin_names() -> None:
    place = locate("voc_2012_trainval")
    assert place.folder.name == "VOC2012" and place.num_classes == 20
    place = locate("coco_2017_val")
    assert str(place.annotation_file).endswith("coco/annotations/instances_val2017.json")


@pytest.mark.parametrize("name", ["my.coco", "a.txt", "b:c.coco"])
def test_a_coco_file_of_any_suffix(tmp_path: Path, name: str) -> None:
    """A file that is there is one: a packed one is named as such, not looked for in a folder."""
    file = annotated.write_coco(tmp_path, "val", annotated.coco_content())
    file.rename(tmp_path / name)
    images = tmp_path / "val"
    assert len(open_sets([f"coco:{tmp_path}/{name}:{images}"])) == 3
    (tmp_path / "c.json.gz").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(InputError, match="c.json.gz is not valid JSON: it is packed with gzip"):
        open_sets([f"coco:{tmp_path}/c.json.gz:{images}"])
    with pytest.raises(InputError, match=r"0.jpg is not a folder; name the folder of the images"):
        open_sets([f"coco:{tmp_path}/{name}:{images}/0.jpg"])


def test_any_file_with_any_folder(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absolute, below the root, with colons in the path, and a part of it."""
    plain = open_sets(["coco:digits_coco:train"])
    file, images = "digits_coco/annotations/instances_train.json", "digits_coco/train"
    odd = tmp_path / "a.json:b" / "My export.JSON"
    odd.parent.mkdir()
    odd.write_bytes((root / file).read_bytes())
    for name in (f"{file}:{images}", f"{root}/{file}:{root}/{images}", f"{odd}:{images}"):
        found = open_sets([f"coco:{name}"])
        assert found.samples == plain.samples and found.classes == plain.classes
        assert found.annotation_file is not None and found.annotation_file.is_file()
    part = open_sets([f"coco:{file}:{images}@25%"])
    assert part.samples == open_sets(["coco:digits_coco:train@25%"]).samples and len(part) == 3
    monkeypatch.setenv("HOME", str(root))
    assert len(open_sets([f"coco:~/{file}:~/{images}"])) == 12


def test_a_folder_with_the_name_of_a_file(root: Path, tmp_path: Path) -> None:
    (tmp_path / "x.json").symlink_to(root / "digits_coco")
    assert len(open_sets([f"coco:{tmp_path}/x.json:train"])) == 12


def test_layouts_of_exports_are_named(root: Path, tmp_path: Path) -> None:
    """Roboflow's and CVAT's: the refusal gives the name that reads them."""
    source = (root / "digits_coco/annotations/instances_test.json").read_bytes()
    for file, images in (
        ("train/_annotations.coco.json", "train"),
        ("annotations/instances_default.json", "images/default"),
    ):
        folder = tmp_path / images.replace("/", "_")
        for path in (folder / file, folder / images / "x"):
            path.parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(source)
        for image in (root / "digits_coco/test").iterdir():
            (folder / images / image.name).write_bytes(image.read_bytes())
        split = Path(images).name
        pair = f"coco:{folder}/{file}:{folder}/{images}"
        with pytest.raises(InputError, match=f"coco:FILE.json:IMAGES, here {pair}$"):
            open_sets([f"coco:{folder}:{split}"])
        assert len(open_sets([pair])) == 3
        with pytest.raises(InputError, match=f"IMAGES; there is {folder}/{file}$"):
            open_sets([f"coco:{folder}:val"])


def test_classes_that_a_test_file_has_not_get_an_unused_id(root: Path, tmp_path: Path) -> None:
    content = json.loads((root / "digits_coco/annotations/instances_test.json").read_text())
    content["categories"] = [{"id": -1, "name": "1"}, {"id": -2, "name": "0"}]
    for entry in content["annotations"]:
        entry["category_id"] = -1
    (tmp_path / "x.json").write_text(json.dumps(content))
    found = open_sets([f"coco:{tmp_path}/x.json:digits_coco/test"], ("2", "0", "1", "3"))
    assert found.category_ids == (-3, -2, -1, -6)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["voc_2007_tset"], "unknown detection data set.*did you mean 'voc_2007_test'"),
        (["my_boxes"], "unknown detection data set 'my_boxes'; give voc:FOLDER:SPLIT, coco:FOLDER"),
        (["voc:digits_voc"], "needs the form voc:FOLDER:SPLIT"),
        (["coco:x.json"], "needs the form coco:FOLDER:SPLIT or coco:FILE.json:IMAGES"),
        (["coco:x.json:"], "needs the form coco:FOLDER:SPLIT or coco:FILE.json:IMAGES"),
        (["coco:x.json:imgs"], r"x.json is missing; expected the file of coco:.*/x.json:.*/imgs; "),
        (
            ["coco:digits_coco/annotations/instances_train.json:imgs"],
            r"/imgs is missing; expected the folder of images of coco:",
        ),
        (["imgs:x:y"], "'imgs:x:y' is not a detection data set; give voc:FOLDER:SPLIT, coco:"),
        (["voc_2007_test"], "is missing; expected .*VOC2007.*trainval and test"),
        (["coco_2017_val"], "instances_val2017.json is missing"),
        (["voc:digits_voc:train", "coco:digits_coco:train"], "mix VOC and COCO"),
        ([], "no data set is named"),
    ],
)
def test_refused(names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_sets(names)
