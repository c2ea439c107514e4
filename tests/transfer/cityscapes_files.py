"""A small generated set in Cityscapes' official layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 48, 96  # px
STUFF = (0, 3, 7, 8, 11, 12, 13, 14, 17, 19, 20, 21, 22, 23)  # 0, 3, 14 are void
THINGS = (24, 25, 26, 27, 28, 29, 31, 32, 33)  # 29, a caravan, is not scored


def write_cityscapes(root: Path, split: str, images: int, seed: int = 0) -> Path:
    """Writes images of two cities with labelIds and instanceIds; returns the set's folder."""
    rng = np.random.default_rng([seed, len(split)])
    folder = root / "cityscapes"
    for index in range(images):
        city = ("aachen", "ulm")[index % 2]
        stem = f"{city}_{index:06d}_000019"
        places = [folder / kind / split / city for kind in ("leftImg8bit", "gtFine")]
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(places[0] / f"{stem}_leftImg8bit.png")
        labels, instances = class_maps(rng)
        Image.fromarray(labels).save(places[1] / f"{stem}_gtFine_labelIds.png")
        Image.fromarray(instances).save(places[1] / f"{stem}_gtFine_instanceIds.png")
    return folder


def class_maps(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Label ids uint8 and instance ids uint16 (H, W): stripes of stuff with objects on them; the
    last object is a group, which has no number."""
    labels = np.repeat(rng.choice(STUFF, HEIGHT // 8), 8).astype(np.uint8)[:, None]
    labels = np.repeat(labels, WIDTH, axis=1)
    instances = labels.astype(np.uint16)
    for number, label in enumerate(rng.choice(THINGS, 7)):
        height, width = rng.integers(3, 20, 2)
        y, x = rng.integers(0, HEIGHT - height), rng.integers(0, WIDTH - width)
        place = slice(y, y + height), slice(x, x + width)
        labels[place] = label
        instances[place] = label if number == 6 else 1000 * int(label) + number
    return labels, instances
