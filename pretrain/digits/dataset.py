"""The built-in data set: handwritten digits on photographs, for demonstrations and tests.

For a seed and counts, `make_digits` writes below a folder (use the folder as $DETECTRON2_DATASETS):
    digits_cls/{train,val,test}/<digit>/*.png  32 px crops, one digit each (folder:digits_cls:train)
    digits_voc/                                128 px scenes of 1 to 4 digits (voc:digits_voc:train)
    digits_coco/                               the same scenes with masks (coco:digits_coco:train),
                                               and with keypoints (person_keypoints_train.json)
    digits_lvis/, digits_cityscapes/           the same scenes in these sets' layouts, if `layouts`
                                               names them (`official_layouts.py`)
    digits.json                                what was made: format, seed, counts
The splits share neither digits nor parts of the photographs. The same seed and counts give the same
bytes (with the same versions of Pillow and scikit-learn). Image i of a split is the same for all
counts.
"""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Callable, Collection, Sequence

import numpy as np
from PIL import Image

from pretrain.common.errors import InputError
from pretrain.common.locks import one_writer_of
from pretrain.common.lookup import find
from pretrain.common.output_path import check_output
from pretrain.common.safe_json import read_json
from pretrain.common.temporaries import temporary_folder
from pretrain.digits.official_layouts import LAYOUTS, LayoutWriter
from pretrain.digits.render import (
    NUM_CLASSES,
    SPLITS,
    digit_pool,
    draw_background,
    draw_glyph,
    paste,
)
from pretrain.digits.scenes import (
    SCENE_SIDE,
    Scene,
    coco_annotations,
    coco_categories,
    draw_scene,
    keypoint_annotations,
    keypoint_categories,
    voc_annotation,
)

CROP_SIDE = 32
CLASSIFICATION_COUNTS = (2000, 500, 500)
SCENE_COUNTS = (600, 150, 150)
_HEIGHTS = (20.0, 28.0)  # pixels of a digit in a crop
_ZOOM = (1.0, 2.5)  # photo pixels per crop pixel
_STAMP = "digits.json"
_VERSION = 1
_LOG = logging.getLogger(__name__)


def make_digits(
    output: Path | str,
    *,
    seed: int = 0,
    classification: Sequence[int] = CLASSIFICATION_COUNTS,
    scenes: Sequence[int] = SCENE_COUNTS,
    layouts: Sequence[str] = (),
) -> bool:
    """Writes the data set below `output`. Returns True if it was written, False if it existed.

    classification, scenes: numbers of crops and of scenes for train, val, test.
    layouts: "lvis", "cityscapes": layouts to write the scenes in, in addition to VOC's and COCO's.
    The set is made next to `output` and moved there when complete: no folder has half a set.
    Raises InputError for bad counts, a seed below 0 or an unknown layout, and when `output` holds
    anything else.

    Example:
        >>> import pretrain
        >>> pretrain.make_digits("digits", classification=(40, 10, 10), scenes=(2, 1, 1))
        True
        >>> pretrain.make_digits("digits", classification=(40, 10, 10), scenes=(2, 1, 1))
        False
    """
    output = check_output(output)
    crop_counts, scene_counts = _counts(classification, "classification"), _counts(scenes, "scenes")
    facts = {
        "format": "mscn-digits",
        "version": _VERSION,
        "seed": _whole_number(seed, "the seed"),
        "classification": crop_counts,
        "scenes": scene_counts,
    }
    writers = {name: find(name, LAYOUTS, "layout", "layouts") for name in sorted(set(layouts))}
    if writers:  # not in the file of a set that has none, which is then that of older versions
        facts["layouts"] = [*writers]
    if _is_finished(output, facts):
        _LOG.info("%s already contains this data set", output)
        return False
    whole = output.absolute()
    with one_writer_of(whole), temporary_folder(whole) as folder:
        partial = folder / whole.name
        partial.mkdir()
        _write_classification(partial / "digits_cls", seed, crop_counts)
        _write_scenes(partial, seed, scene_counts, writers.values())
        (partial / _STAMP).write_text(json.dumps(facts, indent=1) + "\n")
        if output.is_dir():
            output.rmdir()  # empty, as checked above
        partial.rename(whole)
    return True


def draw_crop(split: str, digit: int, rng: np.random.Generator) -> np.ndarray:
    """Returns one classification image, uint8 (32, 32, 3), with a digit of the class fully inside
    it.
    """
    pixels = draw_background(split, CROP_SIDE, _ZOOM, rng)
    pool = digit_pool(split)[digit]
    ink = pool[rng.integers(len(pool))]
    while True:
        alpha = draw_glyph(ink, rng.uniform(*_HEIGHTS), rng)
        if max(alpha.shape) <= CROP_SIDE:
            break
    top = int(rng.integers(CROP_SIDE - alpha.shape[0] + 1))
    left = int(rng.integers(CROP_SIDE - alpha.shape[1] + 1))
    paste(pixels, alpha, top, left, rng)
    return pixels


def _whole_number(value: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise InputError(f"{what} of the digits must be a whole number, 0 or more, not {value!r}")
    return int(value)


def _counts(values: Sequence[int], what: str) -> list[int]:
    if len(values) != len(SPLITS):
        raise InputError(f"{what} needs three counts (train, val, test), got {values!r}")
    return [_whole_number(value, f"each {what} count") for value in values]


def _is_finished(output: Path, facts: dict) -> bool:
    """True if `output` has this data set, False if it is free; InputError for anything else."""
    if not output.exists():
        return False
    if not any(output.iterdir()):
        return False
    try:
        found = read_json(output / _STAMP)
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("format") != facts["format"]:
        raise InputError(f"{output} is not empty and has no complete digits; choose another folder")
    if found == facts:
        return True
    changed = [key for key in {**facts, **found} if found.get(key) != facts.get(key)]
    described = ", ".join(
        f"{key} {found.get(key)} (requested: {facts.get(key)})" for key in changed
    )
    raise InputError(
        f"{output} contains different digits: {described}; choose another folder or remove it"
    )


def _write_classification(folder: Path, seed: int, counts: Sequence[int]) -> None:
    for split_index, (split, count) in enumerate(zip(SPLITS, counts)):
        for digit in range(NUM_CLASSES):
            (folder / split / str(digit)).mkdir(parents=True)
        for i in range(count):
            digit = i % NUM_CLASSES
            rng = np.random.default_rng([seed, 0, split_index, i])
            image = Image.fromarray(draw_crop(split, digit, rng))
            image.save(folder / split / str(digit) / f"{i:05d}.png", compress_level=1)


def _write_scenes(
    root: Path, seed: int, counts: Sequence[int], more: Collection[LayoutWriter]
) -> None:
    """Draws each scene once and writes it in all layouts under the same number."""
    voc, coco = root / "digits_voc", root / "digits_coco"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (voc / folder).mkdir(parents=True)
    (coco / "annotations").mkdir(parents=True)
    image_id = 0
    for split_index, (split, count) in enumerate(zip(SPLITS, counts)):
        (coco / split).mkdir()
        drawn: dict[int, Scene] = {}
        for i in range(count):
            image_id += 1
            scene = draw_scene(split, np.random.default_rng([seed, 1, split_index, i]))
            drawn[image_id] = scene
            name = f"{image_id:06d}.jpg"
            jpeg = _jpeg(scene.pixels)
            (coco / split / name).write_bytes(jpeg)
            (voc / "JPEGImages" / name).write_bytes(jpeg)
            (voc / "Annotations" / f"{image_id:06d}.xml").write_text(voc_annotation(scene, name))
        (voc / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{n:06d}\n" for n in drawn))
        written = {
            "instances": _coco_document(drawn, coco_annotations, coco_categories()),
            "person_keypoints": _coco_document(drawn, keypoint_annotations, keypoint_categories()),
        }
        for kind, document in written.items():
            text = json.dumps(document) + "\n"
            (coco / "annotations" / f"{kind}_{split}.json").write_text(text)
        for write in more:
            write(root, split, drawn)


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    # Full chroma resolution, because thin coloured strokes would blur with the usual 4:2:0.
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _coco_document(
    scenes: dict[int, Scene],
    annotate: Callable[[Scene, int, int], list[dict]],
    categories: list[dict],
) -> dict:
    annotations: list[dict] = []
    for image_id, scene in scenes.items():
        annotations += annotate(scene, image_id, len(annotations) + 1)
    images = [
        {"id": n, "file_name": f"{n:06d}.jpg", "height": SCENE_SIDE, "width": SCENE_SIDE}
        for n in scenes
    ]
    info = {"description": "scikit-learn's digits on its sample photographs", "version": "1"}
    return {
        "info": info,
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
