"""The fixed test images of a report's side-by-side view."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transfer.datasets.samples import DetectionSet, Instance, Sample
from transfer.detection.evaluation.predictions import Predictions
from transfer.detection.gallery import CELL_PX, MOST_BOXES, choose_images, write_gallery


def test_the_same_images_in_any_order() -> None:
    ids = [f"{number:06d}" for number in range(500)]
    chosen = {ids[index] for index in choose_images(ids)}
    shuffled = [ids[index] for index in np.random.default_rng(0).permutation(500)]
    again = [shuffled[index] for index in choose_images(shuffled)]
    assert len(chosen) == 24 and set(again) == chosen and again == sorted(again)
    assert choose_images([7, 5, 6]) == [1, 2, 0]  # a small set is shown whole
    assert choose_images([]) == []


@pytest.fixture
def dataset(tmp_path: Path) -> DetectionSet:
    """Two images, 300 x 150 and 60 x 120; the first one half red, half blue."""
    colours = np.zeros((150, 300, 3), np.uint8)
    colours[:, :150, 0] = colours[:, 150:, 2] = 255
    Image.fromarray(colours).save(tmp_path / "b.png")
    Image.new("RGB", (60, 120), (0, 255, 0)).save(tmp_path / "a.png")
    objects = (
        Instance((10.04, 20, 110, 140), 1),
        Instance((0, 0, 5, 5), 0, difficult=True),
        Instance((0, 0, 300, 150), 0, crowd=True),
    )
    samples = (
        Sample(str(tmp_path / "b.png"), "b", 150, 300, objects),
        Sample(str(tmp_path / "a.png"), "a", 120, 60, ()),
    )
    return DetectionSet("two", "voc", samples, ("cat", "dog"), (1, 2))


def _found(image_id: str, scores: list[float]) -> Predictions:
    boxes = np.array([[i, 2, i + 10.123, 20] for i in range(len(scores))], np.float32)
    classes = np.arange(len(scores)) % 2
    return Predictions(image_id, boxes.reshape(-1, 4), np.array(scores), classes)


def test_boxes_and_thumbnails(dataset: DetectionSet, tmp_path: Path) -> None:
    predictions = [_found("b", [0.2, 0.987654, 0.01]), _found("a", [])]
    artifacts = write_gallery(dataset, predictions, tmp_path, pictures=True)
    assert artifacts == {"gallery": "gallery.json", "gallery_sheet": "gallery.jpg"}
    content = json.loads((tmp_path / "gallery.json").read_text())
    assert content["classes"] == ["cat", "dog"]
    first, second = content["images"]
    assert (first["id"], first["width"], first["height"]) == ("a", 60, 120)
    assert first["found"] == [] and first["truth"] == []
    assert second["found"] == [[1.0, 2.0, 11.1, 20.0, 0.9877, 1], [0.0, 2.0, 10.1, 20.0, 0.2, 0]]
    assert [row[4:] for row in second["truth"]] == [[1, 1], [0, 0], [0, 0]]
    assert second["truth"][0][:4] == [10.0, 20.0, 110.0, 140.0]
    with Image.open(tmp_path / "gallery.jpg") as sheet:
        pixels = np.asarray(sheet).astype(int)
    assert pixels.shape == (CELL_PX, 2 * CELL_PX, 3)
    x, y, width, height = second["cell"]
    assert (x, y, width, height) == (CELL_PX, 0, 192, 96)
    assert first["cell"] == [0, 0, 96, 192]
    left, right = (pixels[y + 40, x + dx] for dx in (40, 150))
    assert left[0] > 200 > 60 > left[2] and right[2] > 200 > 60 > right[0]


def test_only_the_surest_boxes(dataset: DetectionSet, tmp_path: Path) -> None:
    scores = np.random.default_rng(0).uniform(0.1, 1, 60).tolist()
    write_gallery(dataset, [_found("b", scores), _found("a", [])], tmp_path, pictures=True)
    content = json.loads((tmp_path / "gallery.json").read_text())
    kept = [row[4] for row in content["images"][1]["found"]]
    assert kept == pytest.approx(sorted(scores, reverse=True)[:MOST_BOXES], abs=1e-4)


def test_without_pictures(dataset: DetectionSet, tmp_path: Path) -> None:
    predictions = [_found("b", [0.9]), _found("a", [])]
    artifacts = write_gallery(dataset, predictions, tmp_path / ".", pictures=False)
    assert artifacts == {"gallery": "gallery.json"} and not (tmp_path / "gallery.jpg").exists()
    content = json.loads((tmp_path / "gallery.json").read_text())
    assert [image["cell"] for image in content["images"]] == [None, None]
