"""The VOC reader: conventions, flags, and one clear line per kind of damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.common.errors import InputError
from transfer.datasets.registry import open_sets
from transfer.datasets.samples import DetectionSet
from transfer.datasets.voc import counts_from_zero, read_classes, read_voc
from transfer.detection.evaluation.predictions import Predictions
from transfer.detection.evaluation.voc import evaluate_voc

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
    "change, kind",
    [
        ({"x1": 9, "x2": 7}, "negative width or height"),
        ({"y1": 9, "y2": 3}, "negative width or height"),
        ({"x1": 23, "x2": 30}, "completely outside their image"),
        ({"y1": "nan"}, "not numbers"),
        ({"y2": "many"}, "not numbers"),
        ({"y2": "1_0"}, "not numbers"),
    ],
)
def test_impossible_boxes_are_refused(tmp_path: Path, change: dict, kind: str) -> None:
    make(tmp_path, "a", [{**BOX, **change}, BOX])
    with pytest.raises(InputError, match=rf"train\.txt: boxes .*{kind} \(1: a\.xml: 'cat' "):
        read_voc(tmp_path, "train", ("cat",))


def test_boxes_partly_outside_are_taken_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "a", [{**BOX, "x1": 10, "x2": 40}, {**BOX, "y1": 5, "y2": 25}])
    (sample,) = read_voc(tmp_path, "train", ("cat",))
    assert [i.box for i in sample.instances] == [(9.0, 0.0, 40.0, 10.0), (0.0, 4.0, 20.0, 25.0)]
    (record,) = caplog.records
    assert "reach beyond their image" in record.message and "(2: a.xml: 'cat'" in record.message


@pytest.mark.parametrize("x1, wanted", [(0, 0.0), ("0.0", 0.0), ("0.5", 0.5), (-2, -2.0)], ids=str)
def test_a_set_with_a_coordinate_below_1_counts_from_0(
    tmp_path: Path, x1: float | str, wanted: float, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "a", [{**BOX, "x1": x1}, {**BOX, "x1": 5, "y1": 2.5, "x2": 20.0}])
    (sample,) = read_voc(tmp_path, "train", ("cat",))
    assert [i.box for i in sample.instances][1] == (5.0, 2.5, 20.0, 10.0)
    assert sample.instances[0].box == (wanted, 1.0, 20.0, 10.0)
    first = caplog.records[0].message
    assert "coordinate below 1: all boxes are read as counted from 0" in first
    assert "(1: a.xml)" in first


def test_all_annotations_of_a_folder_decide_for_every_split(tmp_path: Path) -> None:
    """The training images alone would count from 1."""
    make(tmp_path, "a", [BOX])
    make(tmp_path, "b", [{**BOX, "y1": 0}])
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\n")
    (tmp_path / "ImageSets/Main/test.txt").write_text("b\n")
    assert counts_from_zero(tmp_path)
    (train,) = read_voc(tmp_path, "train", ("cat",))
    (test,) = read_voc(tmp_path, "test", ("cat",))
    assert train.instances[0].box == (1.0, 1.0, 20.0, 10.0)
    assert test.instances[0].box == (1.0, 0.0, 20.0, 10.0)
    (train,) = read_voc(tmp_path, "train", ("cat",), zero_based=False)
    assert train.instances[0].box == (0.0, 0.0, 20.0, 10.0)


def test_a_key_states_where_a_set_counts_from(tmp_path: Path) -> None:
    make(tmp_path, "a", [{**BOX, "x1": 0}])
    name = f"voc:{tmp_path}:train"

    def left(value: str) -> float:
        return open_sets([name], voc_counts_from=value).samples[0].instances[0].box[0]

    assert (left("auto"), left("zero"), left("one")) == (0.0, 0.0, -1.0)
    with pytest.raises(InputError, match="TRANSFER.VOC_COUNTS_FROM.*known: auto, one, zero"):
        left("two")


def test_what_is_missing_is_told_with_the_nearest_name(tmp_path: Path) -> None:
    make(tmp_path, "a", [BOX])
    with pytest.raises(InputError, match=r"Main/trian.txt is missing \(did you mean 'train'\?\)"):
        read_voc(tmp_path, "trian", ("cat",))
    (tmp_path / "Annotations").rename(tmp_path / "annotations")
    with pytest.raises(
        InputError, match=r"Annotations is missing \(did you mean 'annotations'\?\); expected"
    ):
        read_voc(tmp_path, "train", ("cat",))


def test_the_official_sets_count_from_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    make(tmp_path / "VOC2007", "a", [{**BOX, "x1": 0}, BOX])
    (tmp_path / "VOC2007/ImageSets/Main/train.txt").rename(
        tmp_path / "VOC2007/ImageSets/Main/test.txt"
    )
    (sample,) = open_sets(["voc_2007_test"]).samples
    assert [i.box[0] for i in sample.instances] == [-1.0, 0.0] and not caplog.records


def test_predictions_equal_to_a_0_based_truth_score_100(tmp_path: Path) -> None:
    boxes = [{**BOX, "x1": 0, "y1": 0, "x2": 7.5, "y2": 6}, {**BOX, "x1": 9, "x2": 20}]
    make(tmp_path, "a", boxes)
    samples = read_voc(tmp_path, "train", ("cat",))
    dataset = DetectionSet("x", "voc", samples, ("cat",), (1,))
    found = Predictions(
        "a",
        np.array([i.box for i in samples[0].instances], np.float32),
        np.array([0.9, 0.8], np.float32),
        np.zeros(2, np.int64),
    )
    for metric in (2007, 2012):
        for exact in (False, True):
            metrics, _ = evaluate_voc(dataset, [found], metric=metric, exact=exact)
            assert metrics == pytest.approx({key: 100.0 for key in metrics})


@pytest.mark.parametrize("text, wanted", [("True", True), ("yes", True), ("maybe", False)])
def test_words_in_difficult_are_read_and_said(
    tmp_path: Path, text: str, wanted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "a", [{**BOX, "difficult": text}, BOX])
    (sample,) = read_voc(tmp_path, "train", ("cat",))
    assert [i.difficult for i in sample.instances] == [wanted, False]
    assert f"(1: a.xml: 'cat' ({text}))" in caplog.text


def test_rotated_boxes_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """CVAT writes the upright box, and its rotation as an attribute."""
    attribute = "<attributes><attribute><name>{}</name><value>{}</value></attribute></attributes>"
    pairs = [("rotation", "0.0"), ("rotation", "30.5"), ("occluded", "1"), ("rotation", "")]
    make(tmp_path, "a", [{**BOX, "difficult": f"0</difficult>{attribute.format(*pair)}<difficult>"}
                         for pair in pairs])  # fmt: skip
    (sample,) = read_voc(tmp_path, "train", ("cat",))
    assert [found.box for found in sample.instances] == [(0.0, 0.0, 20.0, 10.0)] * 4
    assert "before it was rotated (1: a.xml: 'cat' (rotation 30.5))" in caplog.text


@pytest.mark.parametrize("size", ["<size><width>0</width><height>0</height></size>", ""])
def test_a_size_that_is_0_or_missing_is_read_from_the_image(
    tmp_path: Path, size: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = make(tmp_path, "a", [BOX]) / "Annotations/a.xml"
    path.write_text(
        path.read_text().replace("<size><width>20</width><height>10</height></size>", size)
    )
    (sample,) = read_voc(tmp_path, "train", ("cat",))
    assert (sample.width, sample.height) == (20, 10)
    assert "sizes are missing or 0; they were read from the images (1: a.xml)" in caplog.text


@pytest.mark.parametrize(
    "old, new, kind",
    [
        ("<name>cat</name>", "", r"no <name> \(1: a\.xml\)"),
        ("<xmax>20</xmax>", "", r"incomplete box \(1: a\.xml: 'cat' has no <xmax>\)"),
        ("bndbox", "polygon", r"incomplete box \(1: a\.xml: 'cat' has no <bndbox>\)"),
    ],
)
def test_missing_fields(tmp_path: Path, old: str, new: str, kind: str) -> None:
    path = make(tmp_path, "a", [BOX]) / "Annotations/a.xml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=kind):
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
    assert (
        "train.txt: boxes without area are not used for training, and cannot be found in a test "
        "set (2: a.xml: 'cat', b" in record.message
    )


def test_classes_that_differ_in_letter_case(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "a", [BOX, {**BOX, "name": "Cat"}, {**BOX, "name": "ant"}])
    assert read_classes(tmp_path) == ("Cat", "ant", "cat")
    assert "are kept apart (1: 'Cat' and 'cat')" in caplog.text


def test_a_missing_name_that_another_system_writes_otherwise(tmp_path: Path) -> None:
    make(tmp_path, "Bj\u00f6rn 1", [BOX])
    listing = tmp_path / "ImageSets" / "Main" / "train.txt"
    for line in ("BJ\u00d6RN 1", "Bjo\u0308rn 1", "Bj%C3%B6rn%201"):
        listing.write_text(line)
        with pytest.raises(InputError, match=r"\(there is Bj\u00f6rn 1\.xml\)"):
            read_voc(tmp_path, "train", ["cat"])


def test_an_image_listed_twice(tmp_path: Path) -> None:
    make(make(tmp_path, "a", [BOX]), "a", [BOX])
    with pytest.raises(InputError, match=r"train\.txt: images are listed more than once \(1: a\)"):
        read_voc(tmp_path, "train", ("cat",))


def test_unknown_classes_are_counted_with_the_nearest_names(tmp_path: Path) -> None:
    make(tmp_path, "a", [{**BOX, "name": "catt"}, {**BOX, "name": "catt"}, BOX])
    make(tmp_path, "b", [{**BOX, "name": "zebra"}])
    with pytest.raises(InputError) as caught:
        read_voc(tmp_path, "train", ("cat",))
    text = str(caught.value)
    assert "not one of the 1 classes (3, first: 'catt' in a.xml" in text
    assert "did you mean 'cat'" in text and "'zebra' in b.xml" in text


def test_truncated_xml(tmp_path: Path) -> None:
    path = make(tmp_path, "a", [BOX]) / "Annotations" / "a.xml"
    path.write_text(path.read_text()[:-30])
    with pytest.raises(InputError, match=r"not valid XML \(1: a\.xml .*truncated"):
        read_voc(tmp_path, "train", ("cat",))


@pytest.mark.parametrize("part", ["JPEGImages/a.jpg", "Annotations/a.xml"])
def test_missing_file(tmp_path: Path, part: str) -> None:
    make(tmp_path, "a", [BOX])
    (tmp_path / part).unlink()
    with pytest.raises(InputError, match=rf"are missing \(1: .*{part}\)"):
        read_voc(tmp_path, "train", ("cat",))


@pytest.mark.parametrize("part", ["JPEGImages/a.jpg", "Annotations/a.xml"])
def test_half_of_voc2007(tmp_path: Path, part: str) -> None:
    """The lists of both archives, but the images or annotations of one."""
    make(tmp_path / "VOC2007", "a", [BOX])
    (tmp_path / "VOC2007" / part).unlink()
    with pytest.raises(
        InputError, match=rf"are missing \(1: .*{part}\).*must hold trainval and test"
    ):
        read_voc(tmp_path / "VOC2007", "train", ("cat",))


def test_missing_split_shows_the_layout(tmp_path: Path) -> None:
    make(tmp_path / "VOC2007", "a", [BOX])
    with pytest.raises(InputError, match=r"test\.txt is missing; expected.*trainval and test"):
        read_voc(tmp_path / "VOC2007", "test", ("cat",))


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "Annotations").mkdir()
    with pytest.raises(InputError, match="has no .xml"):
        read_classes(tmp_path)


def rename(folder: Path, *names: tuple[str, str]) -> None:
    for old, new in names:
        (folder / new).parent.mkdir(parents=True, exist_ok=True)
        (folder / old).rename(folder / new)


@pytest.mark.parametrize("suffix", ["JPG", "Jpg", "JPEG", "PNG", "bmp", "TIF", "webp"])
def test_suffixes_of_images_in_any_case(tmp_path: Path, suffix: str) -> None:
    make(tmp_path, "a.b", [BOX])
    rename(tmp_path, ("JPEGImages/a.b.jpg", f"JPEGImages/a.b.{suffix}"))
    rename(tmp_path, ("Annotations/a.b.xml", "Annotations/a.b.XML"))
    (sample,) = read_voc(tmp_path, "train", ("cat",))
    assert sample.file_name == str(tmp_path / "JPEGImages" / f"a.b.{suffix}")
    assert sample.image_id == "a.b"


def test_subfolders_are_searched(tmp_path: Path) -> None:
    """In the list with or without the folder's name; hidden files are passed over."""
    for stem in ("a", "b"):
        make(tmp_path, stem, [BOX])
        rename(
            tmp_path,
            (f"JPEGImages/{stem}.jpg", f"JPEGImages/sub/{stem}.jpg"),
            (f"Annotations/{stem}.xml", f"Annotations/sub/{stem}.xml"),
        )
    (tmp_path / "Annotations/sub/._a.xml").write_bytes(b"\0\5\x16\7")
    (tmp_path / "ImageSets/Main/train.txt").write_text("sub/a\nb\n")
    assert read_classes(tmp_path) == ("cat",)
    first, second = read_voc(tmp_path, "train", ("cat",))
    assert (first.image_id, second.image_id) == ("sub/a", "sub/b")
    assert second.file_name == str(tmp_path / "JPEGImages/sub/b.jpg")


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    for number in range(5):
        make(tmp_path, f"a{number}", [{**BOX, "x1": 15, "x2": 5}])
    (tmp_path / "JPEGImages/a4.jpg").unlink()
    with (tmp_path / "ImageSets/Main/train.txt").open("a") as listing:
        listing.write("gone\n")
    with pytest.raises(InputError) as caught:
        read_voc(tmp_path, "train", ("cat",))
    text = str(caught.value)
    assert "negative width or height (4, first: a0.xml" in text and "a3.xml" not in text
    assert "images are missing (1: " in text and "annotation files are missing (1: " in text
    assert "\n" not in text
