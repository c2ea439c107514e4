"""The digits in LVIS's and Cityscapes' layout: their configs read them; errors name the remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pretrain.common.errors import InputError
from pretrain.digits.dataset import make_digits
from transfer.datasets.cityscapes_labels import INSTANCES, truth_of
from transfer.datasets.numbered_pixels import read_instances
from transfer.datasets.registry import open_sets
from transfer.detection.config import load_detection_config
from transfer.segmentation.config import load_segmentation_config
from transfer.segmentation.data import open_sets as open_masks


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "set"
    layouts = ["lvis", "cityscapes"]
    make_digits(folder, classification=(0, 0, 0), scenes=(12, 0, 6), layouts=layouts)
    return folder


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, which a test may damage."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "set"))
    return shutil.copytree(made, tmp_path / "set")


def test_lvis(root: Path) -> None:
    cfg = load_detection_config("digits_lvis")
    train = open_sets(cfg.DATASETS.TRAIN)
    test = open_sets(cfg.DATASETS.TEST, like=train)
    assert (
        len(train) == 12 and len(test) == 6 and len(test.classes) == cfg.MODEL.ROI_HEADS.NUM_CLASSES
    )
    coco = open_sets(["coco:digits_coco:test"])
    boxes = [[one.box for one in sample.instances] for sample in test.samples]
    assert boxes == [[one.box for one in sample.instances] for sample in coco.samples]


def test_cityscapes_objects(root: Path) -> None:
    """As many as the image of ids has, with boxes around its pixels."""
    pytest.importorskip("shapely")
    cfg = load_detection_config("digits_cityscapes")
    data = open_sets(cfg.DATASETS.TRAIN)
    assert len(data) == 12 and len(data.classes) == cfg.MODEL.ROI_HEADS.NUM_CLASSES
    for sample in data.samples:
        ids = read_instances(str(truth_of(sample.file_name, INSTANCES)))
        drawn = []
        for one in np.unique(ids[ids >= 1000]):
            y, x = np.nonzero(ids == one)
            drawn.append((x.min(), y.min(), x.max() + 1, y.max() + 1))
        found = sorted(instance.box for instance in sample.instances)
        assert np.allclose(found, sorted(drawn), atol=1.5) if drawn else not found


def test_cityscapes_labels(root: Path) -> None:
    cfg = load_segmentation_config("digits_cityscapes_fcn")
    data = open_masks(cfg.DATASETS.TEST)
    assert len(data) == 6 and len(data.classes) == cfg.TRANSFER.SEMANTIC.NUM_CLASSES
    numbers = {int(n) for sample in data.samples for n in np.unique(sample.mask())}
    assert 0 in numbers and numbers <= {0, 2, 8, *range(11, 19)}


def without_frequency(root: Path) -> None:
    path = root / "digits_lvis/lvis_v1_test.json"
    content = json.loads(path.read_text())
    for category in content["categories"]:
        del category["frequency"]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "damage, name, message",
    [
        (without_frequency, "lvis:digits_lvis/lvis_v1_test.json:digits_coco", "no 'frequency' r"),
        (None, "lvis:digits_lvis/lvis_v1_tset.json:digits_coco", r"did you mean 'lvis_v1_test'"),
        (None, "lvis:digits_lvis/lvis_v1_test.json:digits_cooc", r"did you mean 'digits_coco'"),
        (None, "cityscapes:digits_cityscapes:tset", r"leftImg8bit/tset .*mean 'test'"),
        (
            lambda root: shutil.rmtree(root / "digits_cityscapes/gtFine"),
            "cityscapes:digits_cityscapes:test",
            "gtFine/test is missing; expected .*gtFine_trainvaltest.zip",
        ),
    ],
)
def test_refused(
    root: Path, damage: Callable[[Path], None] | None, name: str, message: str
) -> None:
    if name.startswith("cityscapes"):
        pytest.importorskip("shapely")
    if damage:
        damage(root)
    for read in (open_sets, open_masks) if name.startswith("cityscapes") else (open_sets,):
        with pytest.raises(InputError, match=message):
            read([name])
