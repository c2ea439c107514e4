"""Segmentations: run lengths against pycocotools, in both forms, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings
from transfer.datasets.coco_masks import for_evaluators, has_pixels, mask_area, read_segmentation


def read(value: Any, height: int = 10, width: int = 20) -> Any:
    findings = Findings("x.json")
    found = read_segmentation(findings, "annotation 3", value, height, width)
    findings.report()
    return found


def lengths(mask: np.ndarray) -> list[int]:
    """Slow and obvious: runs of 0, 1, 0, ... down the columns."""
    counts, value = [0], 0
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


@pytest.mark.parametrize("seed", range(40))
def test_both_forms_of_run_lengths(seed: int) -> None:
    """Sparse and dense masks of small and large images: short and long runs, up and down."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.choice([1, 3, 17, 200, 999], 2))
    mask = (rng.random((height, width)) < rng.choice([0, 0.001, 0.3, 0.9, 1])).astype(np.uint8)
    whole = mask_utils.encode(np.asfortranarray(mask))
    text = {"size": [height, width], "counts": whole["counts"].decode()}
    assert read(text, height, width) == text
    counts = {"size": [height, width], "counts": lengths(mask)}
    found = read(counts, height, width)
    np.testing.assert_array_equal(mask_utils.decode(found), mask)
    assert mask_area(found, height, width) == mask.sum()
    for change in (-1, 1):
        wrong = [*counts["counts"][:-1], counts["counts"][-1] + change]
        for bad in (wrong, compressed(wrong)):
            with pytest.raises(InputError, match=rf"\(1: annotation 3 \(sum {mask.size + change},"):
                read({**counts, "counts": bad}, height, width)


def compressed(counts: list[int]) -> str:
    """COCO's text of any counts, as pycocotools writes it (maskApi.c, rleToString)."""
    text = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        while True:
            bits, value = value & 0x1F, value >> 5
            more = value != (-1 if bits & 0x10 else 0)
            text += chr(48 + bits + 0x20 * more)
            if not more:
                break
    return text


def test_the_text_of_this_test_is_pycocotools() -> None:
    mask = (np.random.default_rng(0).random((50, 70)) < 0.3).astype(np.uint8)
    whole = mask_utils.encode(np.asfortranarray(mask))
    assert compressed(lengths(mask)) == whole["counts"].decode()


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([5, 5], r"do not fill their image.*\(sum 10, image 10 x 20 = 200\)"),
        ([100, 3, 100, 3], "sum 206"),
        ([], "sum 0"),
        ([1000, 20, 1064, 20], "sum 2104"),
        ([-5, 205], "cannot be read"),
        ([10**20, 5], "cannot be read"),
        ([1e300, 5], "cannot be read"),
        ([100.5, 99.5], "cannot be read"),
        ([100, None], "cannot be read"),
        ("", "cannot be read"),
        ("0", "sum 0"),
        ("h", "cannot be read"),  # it announces another character
        ("hello world", "cannot be read"),
        ("oooooooo0", "cannot be read"),
        ("ÿ", "cannot be read"),
        (7, "cannot be read"),
        ("b'PPQ1'", r"str\(\) makes of bytes .*counts.decode\(\"ascii\"\) in place of"),
    ],
)
def test_bad_counts(counts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read({"size": [10, 20], "counts": counts})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            [1, 2, 3, 2, 3, 4],
            r"not in a list of polygons \(1: annotation 3 \(\[1, 2, 3, 2, 3, 4\]\)",
        ),
        ([[[1, 2, 3, 2, 3, 4]]], r"in one list too many .* write \[\[x, y, x, y, \.\.\.\]\]"),
        ([[1, 2, 3, 2, 3, 4], [[1, 2, 3, 2, 3, 4]]], "in one list too many"),
        ([{"x": 1, "y": 2}] * 3, "lists of points, as .* write each polygon as one list x, y"),
        ([[{"x": 1, "y": 2}] * 3], "lists of points, as .* write each polygon as one list x, y"),
        ({"all_points_x": [1, 5, 5]}, r"neither .*write polygons, .* run lengths, {size, counts}"),
        ("[[1, 2, 3, 2, 3, 4]]", r"neither .*write polygons, .* run lengths, {size, counts}"),
        ([None, [1, 2, 3, 2, 3, 4]], r"neither .*write polygons, .* run lengths, {size, counts}"),
        ([{"size": [10, 20], "counts": [200]}], "run lengths are inside a list"),
        ({"counts": [200]}, r"a different size .*\(null, image \[10, 20\]\)"),
    ],
)
def test_masks_in_other_forms(value: Any, message: str) -> None:
    """VGG's annotator writes the first, tools that keep holes apart the second, Labelbox records
    of x and y, and VGG's own project files lists of all x and all y."""
    with pytest.raises(InputError, match=message):
        read(value)


def test_numbers_of_another_type() -> None:
    plain = read({"size": [10, 20], "counts": [5, 10, 185]})
    assert read({"size": [10.0, "20"], "counts": ["5", 10.0, 185]}) == plain
    assert all(read(value) is None for value in ([], None, "", {}))


def test_area_of_polygons_is_that_of_their_union() -> None:
    """Overlapping ones count once; those without an area do not count."""
    one, two = [2, 2, 8, 2, 8, 8, 2, 8], [5, 2, 12, 2, 12, 8, 5, 8]
    assert mask_area([one], 10, 20) == 36.0
    assert mask_area([one, two, [1, 1, 2, 2]], 10, 20) == 60.0
    assert mask_area([[1, 1, 2, 2]], 10, 20) == 0.0


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_of_no_pixels(seed: int) -> None:
    """Runs of 0 pixels between others change nothing: not the mask, nor its box, nor its overlap
    with itself, which pycocotools gets wrong.
    """
    rng = np.random.default_rng(seed)
    runs = rng.integers(0, 30, 15) * (rng.random(15) < 0.6)
    counts = [*runs.tolist(), 500 - int(runs.sum())]
    values = np.repeat(np.arange(16) % 2, counts)
    mask = values.reshape(25, 20).T
    for form in (counts, compressed(counts)):
        found = read({"size": [20, 25], "counts": form}, 20, 25)
        np.testing.assert_array_equal(mask_utils.decode(found), mask)
        text = found["counts"] if isinstance(found["counts"], str) else found["counts"].decode()
        whole = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert text == whole["counts"].decode()


def test_the_order_of_polygons_for_the_evaluators() -> None:
    """pycocotools fails at a first polygon of four numbers, and takes it at any other place."""
    polygon, line = [1.0, 1.0, 9.0, 1.0, 9.0, 9.0], [2.0, 3.0, 4.0, 5.0]
    for polygons in ([polygon, line], [line, polygon], [[], line, polygon], [polygon, [], line]):
        assert for_evaluators(polygons) == [polygon, line]
    assert has_pixels(for_evaluators([[], [8, 8, 30, 8, 30, 30]]), 10, 20)
    assert not has_pixels(for_evaluators([[30, 30, 40, 30, 40, 40], []]), 10, 20)
