"""Damaged records, configs, suites, overrides, annotations, lists and images give one line each.

Every reader of files that are not weights gets valid input with a few edits. `make test` draws a
few cases for each reader, `make test-faults` ten thousand.
"""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import strategies as st
from PIL import Image

from pretrain.common.config import load_config
from pretrain.common.safe_json import parse_json
from pretrain.data.decode import decode_image
from pretrain.data.inat2018 import read_inat2018
from pretrain.data.places205 import read_places205
from pretrain.defaults import get_defaults
from pretrain.engine.checks import load_checked
from tests.faults.fuzzing import bytes_of, fuzz
from tests.faults.mutations import edited_bytes, edited_tree
from tests.transfer.results.test_record import RECORD as EXAMPLE
from transfer.classification.defaults import get_defaults as classification_defaults
from transfer.classification.training.image_list import read_list
from transfer.datasets.coco import read_coco, read_json
from transfer.datasets.coco_records import read_categories
from transfer.datasets.image_sizes import check_image_sizes
from transfer.datasets.samples import Sample
from transfer.datasets.voc import read_voc
from transfer.detection.config import load_detection_config
from transfer.results.record import read_record
from transfer.suite.defaults import suite_defaults
from transfer.suite.plan import plan

CONFIGS = Path(__file__).parents[2] / "configs"
RECORD: dict[str, Any] = {**EXAMPLE, "per_class": {"knn20_top1": {"a": 1.0, "b": None}}}


def as_json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def json_cases(tree: Any) -> st.SearchStrategy[bytes]:
    """Half of them damaged as bytes, half field by field."""
    deep = st.integers(1, 5000).map(lambda levels: b"[" * levels)
    return st.one_of(edited_bytes([as_json(tree)]), edited_tree(tree).map(as_json), deep)


def test_records(tmp_path: Path) -> None:
    fuzz("result records", json_cases(RECORD), bytes_of, read_record, tmp_path / "record.json")


SCALARS = (
    *("!!python/object/apply:os.system ['id']", "!!python/name:os.system", "!!binary aGVsbG8="),
    *("2020-99-99", "2020-01-01 99:99:99", "0b2", "&x [*x]", "[" * 2000, "{a: " * 300, "!!set {a}"),
    *("!!omap [a: 1]", "!!timestamp 1", "!!int x", ".nan", "-.inf", "1e400", '"\\ud800"', '"\\0"'),
    *("? [a]\n: b", "<<: [1]", "*nope", "%TAG", "@x", "`", "\t", "[[1]]", "9" * 30, "'/dev/zero'"),
    *("0x" + "f" * 6000, "[1, x]", "{}", "~", "-1", "''", "x" * 9000, "\n  a.b: 1"),
)
READERS: dict[str, Any] = {
    "pretrain": lambda file: load_checked(str(file), [], 1),
    "classification": lambda file: load_config(str(file), classification_defaults()),
    "detection": lambda file: load_detection_config(str(file)),
    "suites": lambda file: plan(load_config(str(file), suite_defaults()), Path("out"), {}),
}


@pytest.mark.parametrize("kind", READERS)
def test_configs(kind: str, tmp_path: Path) -> None:
    files = sorted((CONFIGS / kind).glob("*.yaml"))
    texts = [file.read_bytes() for file in files]
    trees = [yaml.safe_load(text) for text in texts]
    lines = [(i, n) for i, text in enumerate(texts) for n, x in enumerate(text.splitlines())]

    def with_scalar(place: tuple[int, int], scalar: str) -> bytes:
        split = texts[place[0]].decode().splitlines()
        key, colon, _ = split[place[1]].partition(":")
        split[place[1]] = f"{key}{colon} {scalar}"
        return "\n".join(split).encode()

    cases = st.one_of(
        edited_bytes(texts),
        st.sampled_from(trees).flatmap(edited_tree).map(lambda tree: yaml.safe_dump(tree).encode()),
        st.builds(with_scalar, st.sampled_from(lines), st.sampled_from(SCALARS)),
    )
    # A suite tells all that is wrong with it, one line each, and its entries have no file's name.
    several = {"named": "", "lines": 60} if kind == "suites" else {"named": ""}
    fuzz(f"configs: {kind}", cases, bytes_of, READERS[kind], tmp_path / "c.yaml", 40, **several)


def test_overrides(tmp_path: Path) -> None:
    keys = [
        "A",
        "",
        "SOLVER",
        "SOLVER.X.Y",
        "VIEWS.JITTER",
        "SOLVER.BETAS",
        "SEED",
        "BACKBONE.NAME",
    ]
    values = st.one_of(
        st.sampled_from(["(1,'x')", "nan", "{}", "(" * 900, "1e999", "0x" + "f" * 9000, "None"]),
        st.text(max_size=30),
        st.recursive(st.integers() | st.floats() | st.text(max_size=3), st.lists, max_leaves=5).map(
            repr
        ),
    )
    pairs = st.lists(st.tuples(st.sampled_from(keys), values), min_size=1, max_size=3)

    def read(file: Path) -> None:
        words = [word for pair in json.loads(file.read_text()) for word in pair]
        load_config("mscn_r50.yaml", get_defaults(), words)

    fuzz(
        "overrides",
        pairs.map(as_json),
        bytes_of,
        read,
        tmp_path / "overrides.json",
        named="",
    )


def picture(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 24)).save(file)


COCO = {
    "images": [{"id": i, "file_name": f"{i}.png", "width": 32, "height": 24} for i in (1, 2)],
    "categories": [{"id": 3, "name": "a", "supercategory": "x"}, {"id": 4, "name": "b"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 10.5], "area": 9}
        | {"iscrowd": 0, "segmentation": [[1, 2, 9, 2, 9, 9, 1, 9]]},
        {"id": 2, "image_id": 1, "category_id": 4, "bbox": [0, 0, 32, 24], "area": 9}
        | {"iscrowd": 1, "segmentation": {"size": [24, 32], "counts": [10, 20, 738]}},
        {"id": 3, "image_id": 2, "category_id": 4, "bbox": [0, 0, 32, 24], "area": 9}
        | {"iscrowd": 0, "segmentation": {"size": [24, 32], "counts": "0Ph0"}},
    ],
}


@pytest.mark.parametrize("scored", [(), ("bbox", "segm")])
def test_coco(scored: tuple[str, ...], tmp_path: Path) -> None:
    from pycocotools import mask as mask_utils

    images = tmp_path / "train"
    for name in ("1.png", "2.png"):
        picture(images / name)

    def read(file: Path) -> None:
        content = read_json(file, images)
        names = list(read_categories(content).values())
        for sample in read_coco(file, images, content, names, scored=scored):
            assert Path(sample.file_name).resolve().parent == images.resolve()
            for instance in sample.instances:
                assert np.isfinite(instance.box).all()
                if instance.rle is not None:
                    mask_utils.decode(instance.rle)

    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / "valid.json").write_bytes(as_json(COCO))
    read(folder / "valid.json")  # of a seed that is refused every case would be
    name = f"COCO JSON, {'test' if scored else 'training'} set"
    file = folder / "instances_train.json"  # a refusal may name an image that is missing
    fuzz(name, json_cases(COCO), bytes_of, read, file, named=str(tmp_path))


XML = b"""<?xml version="1.0" encoding="UTF-8"?><annotation><filename>1.png</filename>
<size><width>32</width><height>24</height><depth>3</depth></size><object><name>cat</name>
<difficult>0</difficult><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>21</ymax></bndbox>
</object></annotation>"""
TOKENS = [
    *(b"nan", b"inf", b"1e400", b"9" * 300, b"&j;", b"<b/>", b"1.5", b"1e15", "１２".encode()),
    *(b'encoding="utf-7"', b'encoding="nonsense"', b'encoding="utf-16"', b'encoding="base64"'),
    b'<!DOCTYPE x [<!ENTITY j SYSTEM "file:///etc/hostname">]>',
]


@pytest.mark.parametrize("part", ["xml", "list"])
def test_voc(part: str, tmp_path: Path) -> None:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    picture(tmp_path / "JPEGImages/1.png")
    xml, listing = tmp_path / "Annotations/1.xml", tmp_path / "ImageSets/Main/train.txt"
    xml.write_bytes(XML)
    listing.write_bytes(b"1\n")

    def read(file: Path) -> None:
        for sample in read_voc(tmp_path, "train", ("cat",)):
            assert all(np.isfinite(i.box).all() for i in sample.instances)
            assert 0 < sample.width * sample.height < 1e9

    if part == "xml":
        fuzz("VOC XML", edited_bytes([XML], tokens=TOKENS), bytes_of, read, xml, named="")
    else:
        seeds = [b"1\n", b'"1.png" 1\n', b"../../etc/hostname\n", b"x" * 5000 + b"\n"]
        fuzz("VOC lists", edited_bytes(seeds), bytes_of, read, listing, named="")


def test_split_lists(tmp_path: Path) -> None:
    seeds = [b"".join(b"n0144%04d_%d.JPEG\n" % (i, i) for i in range(9))]
    file = tmp_path / "list.txt"
    fuzz("split lists", edited_bytes(seeds), bytes_of, lambda f: read_list(str(f)), file)


def test_places205(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / f"images256/a/abbey/{i}.jpg")
    seeds = [
        b"".join(b"a/abbey/%d.jpg %d\n" % (i, i) for i in range(3)),
        b"x" * 600 + b"/1.jpg 1\n",
    ]
    read = lambda file: read_places205(tmp_path, "train")  # noqa: E731
    file = tmp_path / "train_places205.csv"
    fuzz("Places205 lists", edited_bytes(seeds), bytes_of, read, file)


def test_inat2018(tmp_path: Path) -> None:
    name = "train_val2018/P/1/{}.jpg"
    for i in range(3):
        picture(tmp_path / name.format(i))
    tree = {
        "images": [{"id": i, "file_name": name.format(i)} for i in range(3)],
        "annotations": [{"id": i, "image_id": i, "category_id": 0} for i in range(3)],
        "categories": [{"id": 0, "name": "p", "supercategory": "P"}],
    }
    read = lambda file: read_inat2018(tmp_path, "train")  # noqa: E731
    fuzz("iNaturalist JSON", json_cases(tree), bytes_of, read, tmp_path / "train2018.json")


@pytest.mark.parametrize("part", ["header", "pixels"])
def test_images(part: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    seeds = []
    for kind in ("JPEG", "PNG", "BMP", "WEBP", "PPM", "TIFF", "GIF"):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind)
        seeds.append(stream.getvalue())

    def header(file: Path) -> None:
        check_image_sizes([Sample(str(file), "x", 24, 32, ())])

    def decoded(file: Path) -> None:
        try:  # the loader counts and names what cannot be read
            decode_image(str(file))
        except OSError as error:
            assert file.name in str(error)

    read = header if part == "header" else decoded
    cases = edited_bytes(seeds, focus=[(0, 64)])
    fuzz(f"images: {part}", cases, bytes_of, read, tmp_path / "a.jpg")


def test_json(tmp_path: Path) -> None:
    """The one reader: a value that can be written again, or a ValueError."""

    def read(file: Path) -> None:
        try:
            json.dumps(parse_json(file.read_bytes()), ensure_ascii=False).encode()
        except ValueError as error:
            assert len(str(error)) < 300

    fuzz("JSON", json_cases(RECORD), bytes_of, read, tmp_path / "a.json")
    shutil.rmtree(tmp_path)
