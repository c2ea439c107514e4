"""The VOC reader: conventions, flags, and one clear line per kind of damage."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pretrain.common.errors import InputError
from transfer.datasets.voc import read_classes, read_voc

OBJECT = (
    "<object><name>{name}</name><pose>Left</pose><truncated>0</truncated>"
    "<difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
    "<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
)


def make(folder: Path, stem: str, objects: list[dict], size: tuple[int, int] = (20, 10)) -> Path:
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(folder / "JPEGImages" / f"{stem}.jpg")
    body = "".join(OBJECT.format(**{"difficult": 0, **entry}) for entry in objects)
    xml = f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{body}"
    (folder / "Annotations" / f"{stem}.xml").write_text(xml + "</annotation>")
    listing = folder / "ImageSets" / "Main" / "train.txt"
    listing.write_text((listing.read_text() if listing.exists() else "") + stem + "\n")
    return folder


BOX = {"name": "cat", "x1": 1, "y1": 1, "x2": 20, "y2": 10}


def test_box_is_half_open_from_zero_and_difficult_is_kept(tmp_path: Path) -> None:
    make(tmp_path, "a", [BOX, {**BOX, "name": "ant", "x1": 5, "difficult": 1}])
    classes = read_classes(tmp_path)
    (sample,) = read_voc(tmp_path, "train", classes)
    assert classes == ("ant", "cat")
    assert (sample.image_id, sample.height, sample.width) == ("a", 10, 20)
    first, second = sample.instances
    assert first.box == (0.0, 0.0, 20.0, 10.0) and not first.difficult and first.category == 1
    assert second.box == (4.0, 0.0, 20.0, 10.0) and second.difficult and second.category == 0


def test_one_line_list_and_empty_image(tmp_path: Path) -> None:
    make(tmp_path, "a", [])
    (sample,) = read_voc(tmp_path, "train", ("cat",))
    assert sample.instances == () and not sample.trainable()


@pytest.mark.parametrize(
    "change", [{"x1": 0}, {"x2": 21}, {"y1": 0}, {"y2": 11}, {"x1": 9, "x2": 7}]
)
def test_box_outside_its_image(tmp_path: Path, change: dict) -> None:
    make(tmp_path, "a", [{**BOX, **change}])
    with pytest.raises(InputError, match=r"a\.xml: box of 'cat'.*not inside"):
        read_voc(tmp_path, "train", ("cat",))


def test_a_box_without_area_is_kept_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As in Detectron2: training filters it, scoring counts it among the objects."""
    make(tmp_path, "a", [BOX, {**BOX, "x1": 9, "x2": 8}])
    make(tmp_path, "b", [{**BOX, "y1": 5, "y2": 4}])
    first, _ = read_voc(tmp_path, "train", ("cat",))
    assert first.instances[1].box == (8.0, 0.0, 8.0, 10.0)
    (record,) = caplog.records
    assert "train.txt: boxes without area are not trained on (2: a.xml, b.xml)" in record.message


def test_an_image_listed_twice(tmp_path: Path) -> None:
    make(make(tmp_path, "a", [BOX]), "a", [BOX])
    with pytest.raises(InputError, match=r"train\.txt lists the image 'a' twice"):
        read_voc(tmp_path, "train", ("cat",))


def test_unknown_class_names_the_nearest(tmp_path: Path) -> None:
    make(tmp_path, "a", [{**BOX, "name": "catt"}])
    with pytest.raises(InputError, match=r"a\.xml.*'catt'.*did you mean 'cat'"):
        read_voc(tmp_path, "train", ("cat",))


def test_truncated_xml(tmp_path: Path) -> None:
    path = make(tmp_path, "a", [BOX]) / "Annotations" / "a.xml"
    path.write_text(path.read_text()[:-30])
    with pytest.raises(InputError, match=r"a\.xml is not valid XML.*truncated"):
        read_voc(tmp_path, "train", ("cat",))


@pytest.mark.parametrize("part", ["JPEGImages/a.jpg", "Annotations/a.xml"])
def test_missing_file(tmp_path: Path, part: str) -> None:
    make(tmp_path, "a", [BOX])
    (tmp_path / part).unlink()
    with pytest.raises(InputError, match=f"{part} is missing"):
        read_voc(tmp_path, "train", ("cat",))


@pytest.mark.parametrize("part", ["JPEGImages/a.jpg", "Annotations/a.xml"])
def test_half_of_voc2007(tmp_path: Path, part: str) -> None:
    """The lists of both archives, but the images or annotations of one."""
    make(tmp_path / "VOC2007", "a", [BOX])
    (tmp_path / "VOC2007" / part).unlink()
    with pytest.raises(InputError, match=f"{part} is missing.*must hold trainval and test"):
        read_voc(tmp_path / "VOC2007", "train", ("cat",))


def test_missing_split_shows_the_layout(tmp_path: Path) -> None:
    make(tmp_path / "VOC2007", "a", [BOX])
    with pytest.raises(InputError, match=r"test\.txt is missing; expected.*trainval and test"):
        read_voc(tmp_path / "VOC2007", "test", ("cat",))


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "Annotations").mkdir()
    with pytest.raises(InputError, match="holds no .xml"):
        read_classes(tmp_path)
