"""The input of the detector, which depends only on (seed, position)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.common.errors import InputError
from transfer.datasets.registry import open_sets
from transfer.datasets.samples import Instance, Sample
from transfer.detection.data.mapper import InferenceMapper, TrainMapper
from transfer.detection.data.transforms import GeometrySpec
from transfer.training.loader import PackedSamples, load

SQUARE = [2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]
PLAIN = GeometrySpec((0,), 1000)


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    instances = (
        Instance((2.0, 2.0, 8.0, 8.0), 3, polygons=[SQUARE]),
        Instance((0.0, 0.0, 20.0, 10.0), 1, crowd=True),
        Instance((5.0, 5.0, 5.0, 9.0), 2, polygons=[SQUARE]),
        Instance((15.0, 5.0, 25.0, 12.0), 4, polygons=[SQUARE]),
    )
    return Sample(str(tmp_path / "a.png"), "a", 10, 20, instances)


def test_crowd_and_flat_boxes_go_and_the_rest_is_clipped(sample: Sample) -> None:
    item = TrainMapper(PLAIN, "RGB", "polygon", seed=0)(sample, 0)
    assert item["classes"].tolist() == [3, 4]
    assert item["boxes"].tolist() == [[2, 2, 8, 8], [15, 5, 20, 10]]
    assert item["image"].dtype == torch.uint8 and item["image"].shape == (3, 10, 20)
    assert [len(p) for p in item["polygons"]] == [1, 1]
    np.testing.assert_array_equal(item["polygons"][0][0], SQUARE)


def test_bitmasks_of_polygons_and_run_lengths_agree(sample: Sample) -> None:
    from pycocotools import mask as mask_utils

    rle = mask_utils.merge(mask_utils.frPyObjects([SQUARE], 10, 20))
    first = sample.instances[0]
    both = (first, replace(first, polygons=None, rle=rle))
    item = TrainMapper(PLAIN, "RGB", "bitmask", seed=0)(replace(sample, instances=both), 0)
    assert item["bitmasks"].shape == (2, 10, 20) and item["bitmasks"].dtype == torch.bool
    assert torch.equal(item["bitmasks"][0], item["bitmasks"][1])
    assert item["bitmasks"][0].sum() == 36
    with pytest.raises(InputError, match="MASK_FORMAT bitmask"):
        TrainMapper(PLAIN, "RGB", "polygon", seed=0)(replace(sample, instances=both), 0)


def test_draws_depend_on_seed_and_position(sample: Sample) -> None:
    spec = GeometrySpec(tuple(range(8, 40)), 1000, 0.5)
    shapes = [
        TrainMapper(spec, "RGB", None, seed)(sample, position)["image"].shape
        for seed, position in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert shapes[0] == shapes[1] and len(set(shapes)) == 3


def test_test_image_keeps_its_original_size_beside_it(sample: Sample) -> None:
    item = InferenceMapper(GeometrySpec((20,), 100), "BGR")(sample, 5)
    assert item["image"].shape == (3, 20, 40) and (item["height"], item["width"]) == (10, 20)
    assert "boxes" not in item


def test_wrong_size_in_the_annotation(sample: Sample) -> None:
    with pytest.raises(InputError, match=r"a\.png has 20 x 10 pixels.*says 20 x 11"):
        InferenceMapper(PLAIN, "RGB")(replace(sample, height=11), 0)


def test_packed_samples(sample: Sample) -> None:
    packed = PackedSamples([sample, replace(sample, image_id="b")])
    assert len(packed) == 2 and packed[0] == sample and packed[1].image_id == "b"


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_raises_one_line_for_a_broken_image(digits: Path, workers: int) -> None:
    samples = list(open_sets(["voc:digits_voc:test"]).samples)
    samples[2] = replace(samples[2], file_name=str(digits / "nothing.jpg"))
    batches = [[(0, 0), (1, 1)], [(2, 2)]]
    state = torch.get_rng_state()
    loaded = load(samples, InferenceMapper(PLAIN, "RGB"), batches, workers, torch.device("cpu"))
    assert [item["image_id"] for item in next(loaded)] == [s.image_id for s in samples[:2]]
    with pytest.raises(InputError, match=r"^image .*nothing\.jpg cannot be read") as error:
        next(loaded)
    assert "\n" not in str(error.value)
    assert torch.equal(torch.get_rng_state(), state), "loading must not touch the global generator"
