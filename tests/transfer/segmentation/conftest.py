"""A handful of digit scenes with class maps, in VOC's layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.digits.scenes import Scene, draw_scene

SPLITS = {"train": 6, "val": 3}


def class_map(scene: Scene) -> np.ndarray:
    """uint8 (S, S): 0 background, digit + 1 elsewhere, 255 around each digit."""
    found = np.zeros(scene.pixels.shape[:2], np.uint8)
    for digit, mask in zip(scene.classes, scene.masks):
        ring = np.zeros_like(mask)
        ring[1:] |= mask[:-1]
        ring[:-1] |= mask[1:]
        found[ring & (found == 0)] = 255
        found[mask] = digit + 1
    return found


def write_semseg(root: Path, aug: bool = False) -> Path:
    """Writes `root`; with `aug`, the training masks into SegmentationClassAug."""
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, count in SPLITS.items():
        stems = []
        for index in range(count):
            scene = draw_scene(split, np.random.default_rng([5, len(split), index]))
            stems.append(f"{split}_{index}")
            # Sizes differ, and so do height and width.
            pixels = scene.pixels[: 128 - 8 * index]
            Image.fromarray(pixels).save(root / "JPEGImages" / f"{stems[-1]}.jpg")
            place = "SegmentationClassAug" if aug and split == "train" else "SegmentationClass"
            mask = Image.fromarray(class_map(scene)[: pixels.shape[0]])
            mask.putpalette([i for i in range(256) for _ in range(3)])
            mask.save(root / place / f"{stems[-1]}.png")
        listing = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        listing.write_text("\n".join(stems) + "\n")
    return root


@pytest.fixture(scope="session")
def make_semseg() -> Callable[..., Path]:
    return write_semseg


@pytest.fixture(scope="session")
def semseg_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("semseg")
    folder = write_semseg(root / "digits_semseg")
    (folder / "classes.txt").write_text("background\n" + "\n".join("0123456789") + "\n")
    return root


@pytest.fixture
def semseg(semseg_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(semseg_root))
    return semseg_root
