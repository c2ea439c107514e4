"""Everything around the detector, as our engine computes it, as arrays.

`TOPICS` has the keys of `their_inputs.TOPICS`; both functions of a key return the same arrays.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.transfer import cityscapes_files, lvis_files
from tests.transfer.detection.equality import inputs
from tests.transfer.detection.equality.two_processes import over_two_processes
from tests.transfer.lvis_files import lvis_content, write_lvis
from transfer.datasets.coco import read_coco, read_json
from transfer.datasets.keypoints import flip_order, read_keypoint_names, rows_with_keypoints
from transfer.datasets.registry import open_sets
from transfer.datasets.samples import Sample
from transfer.datasets.voc import read_voc
from transfer.detection.data.crop import CroppedGeometry, CroppedSpec, CropSpec
from transfer.detection.data.jitter import JitteredGeometry, JitterSpec
from transfer.detection.data.mapper import TrainMapper
from transfer.detection.data.transforms import Geometry, GeometrySpec, Random, resized_shape
from transfer.detection.defaults import make_defaults
from transfer.detection.evaluation.cityscapes import evaluate_cityscapes
from transfer.detection.evaluation.lvis import NAMES as LVIS_NAMES
from transfer.detection.evaluation.score import score
from transfer.detection.evaluation.voc import evaluate_voc
from transfer.detection.torchvision_engine.batchnorm import NaiveSyncBatchNorm
from transfer.training.build import make_optimizer
from transfer.training.sampler import GroupedBatches, repeat_factors
from transfer.training.schedule import Schedule, check_steps


def geometry(folder: Path) -> dict[str, np.ndarray]:
    """Resized shapes, and pixels, boxes and points resized, with and without a flip."""
    arrays = {"shapes": np.array([resized_shape(*shape) for shape in inputs.SHAPES])}
    for index, (height, width, edge, limit) in enumerate(inputs.RESIZES):
        for flip in (False, True):
            moved = Geometry(height, width, *resized_shape(height, width, edge, limit), flip)
            arrays[f"pixels/{index}/{int(flip)}"] = moved.image(inputs.pixels(height, width, index))
    return arrays


def orders(folder: Path) -> dict[str, np.ndarray]:
    """The images of the first batches: shuffled by seed, shared by ranks, grouped by aspect."""
    arrays = {}
    for index, (size, seed, batch, rank, world) in enumerate(inputs.ORDERS):
        batches = GroupedBatches(
            inputs.landscape(size), batch_size=batch, seed=seed, rank=rank, world_size=world
        )
        first = itertools.islice(iter(batches), 40)
        arrays[str(index)] = np.array([[image for _, image in group] for group in first])
    return arrays


def repeats(folder: Path) -> dict[str, np.ndarray]:
    """How often images with rare classes come, and the first batches."""
    arrays, found = {}, inputs.rare_classes()
    images = np.array([image for image, classes in enumerate(found) for _ in classes])
    classes = np.array([each for classes in found for each in classes])
    for number, (threshold, sqrt, seed, batch, rank, world) in enumerate(inputs.REPEATS):
        factors = repeat_factors(images, classes, len(found), threshold, sqrt)
        batches = GroupedBatches(
            inputs.landscape(len(found)),
            **{"batch_size": batch, "seed": seed, "rank": rank, "world_size": world},
            factors=factors,
        )
        first = itertools.islice(iter(batches), 60)
        arrays[f"{number}/factors"] = factors.numpy()
        arrays[f"{number}/order"] = np.array([[image for _, image in group] for group in first])
    return arrays


def rates(folder: Path) -> dict[str, np.ndarray]:
    """The factor on the base rate at every iteration."""
    arrays = {}
    for name, solver in inputs.SCHEDULES.items():
        fields = {"lr_scheduler_name": "WarmupMultiStepLR", **solver}
        fields["steps"] = check_steps(fields.get("steps", ()), fields["max_iter"])
        fields["rescale"] = fields.pop("rescale_interval", False)
        schedule = Schedule(name=fields.pop("lr_scheduler_name"), **fields)
        arrays[name] = np.array([schedule.factor(i) for i in range(schedule.max_iter)])
    return arrays


def clipped(folder: Path) -> dict[str, np.ndarray]:
    """Parameters after steps with clipped gradients."""
    cfg = make_defaults()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED, cfg.SOLVER.NESTEROV = True, True

    def make(clipping: tuple[str, float, float], model: nn.Module) -> torch.optim.Optimizer:
        node = cfg.SOLVER.CLIP_GRADIENTS
        node.CLIP_TYPE, node.CLIP_VALUE, node.NORM_TYPE = clipping
        return make_optimizer(cfg, model)

    return steps_with(make)


def steps_with(
    make: Callable[[tuple[str, float, float], nn.Module], torch.optim.Optimizer],
) -> dict[str, np.ndarray]:
    """What an optimiser of each of CLIPPINGS makes of a small model in four steps."""
    arrays = {}
    for number, clipping in enumerate(inputs.CLIPPINGS):
        model, rng = nn.Linear(5, 4), np.random.default_rng(number)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.from_numpy(rng.random(parameter.shape)))
        optimizer = make(clipping, model)
        for _ in range(4):
            for parameter in model.parameters():
                draw = rng.uniform(-1, 1, parameter.shape).astype(np.float32)
                parameter.grad = torch.from_numpy(draw)
            optimizer.step()
        arrays |= {f"{number}/{k}": v.detach().numpy() for k, v in model.named_parameters()}
    return arrays


def mapped(folder: Path) -> dict[str, np.ndarray]:
    """What the detector is given for every image that can be trained on, flipped and not."""
    inputs.write_voc(folder / "voc")
    inputs.write_coco(folder / "coco")
    path, images = folder / "coco" / "instances_train.json", folder / "coco" / "train"
    sets = {
        "voc": read_voc(folder / "voc", "train", inputs.CLASSES),
        "coco": read_coco(path, images, read_json(path, images), inputs.CLASSES),
    }
    arrays = {}
    for name, samples in sets.items():
        samples = [sample for sample in samples if sample.trainable()]
        arrays[f"{name}/ids"] = np.array([str(sample.image_id) for sample in samples])
        for flip in (0, 1):
            arrays |= _mapped_set(f"{name}/{flip}", samples, flip, name == "coco")
    return arrays


def _mapped_set(
    key: str, samples: Iterable[Sample], flip: int, masks: bool
) -> dict[str, np.ndarray]:
    spec = GeometrySpec((inputs.SHORT_EDGE,), inputs.MAX_SIZE, float(flip))
    mapper = TrainMapper(spec, "BGR" if masks else "RGB", "polygon" if masks else None, 0)
    arrays: dict[str, np.ndarray] = {}
    for sample in samples:
        arrays |= _mapped_image(f"{key}/{sample.image_id}", mapper, sample)
    return arrays


def _mapped_image(prefix: str, mapper: TrainMapper, sample: Sample) -> dict[str, np.ndarray]:
    item: dict[str, Any] = mapper(sample, 0)
    arrays = {name: item[name].numpy() for name in ("image", "boxes", "classes")}
    if item.get("bitmasks") is not None:
        arrays["bitmasks"] = item["bitmasks"].numpy()
    if item["polygons"] is not None:
        points = [polygon for polygons in item["polygons"] for polygon in polygons]
        arrays["polygons"] = np.concatenate([np.zeros(0), *points])
    return {f"{prefix}/{name}": value for name, value in arrays.items()}


def jitter(folder: Path, mask_format: str | None = None) -> dict[str, np.ndarray]:
    """What the detector is given of jittered images, whose draws are those of numpy's old seeds."""
    inputs.write_coco(folder / "coco")
    path, images = folder / "coco" / "instances_train.json", folder / "coco" / "train"
    samples = read_coco(path, images, read_json(path, images), inputs.CLASSES)
    arrays = {}
    for seed in inputs.JITTER_SEEDS:
        mapper = TrainMapper(_Seeded(seed), "RGB", mask_format, 0)
        for sample in samples:
            if sample.trainable():
                arrays |= _mapped_image(f"{seed}/{sample.image_id}", mapper, sample)
    return arrays


def keypoints(folder: Path) -> dict[str, np.ndarray]:
    """What the detector is given of keypoints: mirrored or not, and of cropped images; and which
    images have how many labelled ones."""
    inputs.write_keypoints(folder)
    path, images = folder / "person_keypoints_train.json", folder / "train"
    content = read_json(path, images, keypoints=True)
    samples = read_coco(path, images, content, ("person",), keypoints=3)
    names = read_keypoint_names(path, content, 3)
    arrays = {
        f"with {least}": np.array(
            [samples[r].image_id for r in rows_with_keypoints(samples, least)]
        )
        for least in range(1, 8)
    }
    plain = (inputs.SHORT_EDGE,), inputs.MAX_SIZE
    resizing = GeometrySpec(inputs.CROP_SIZES, inputs.MAX_SIZE, 0.5, between=True)
    cropped = CroppedSpec(CropSpec("relative", (0.5, 0.7)), resizing)
    geometries: dict[str, Any] = {
        **{f"flip {flip}": GeometrySpec(*plain, float(flip)) for flip in (0, 1)},
        **{f"crop {seed}": _SeededCrop(seed, cropped) for seed in range(4)},
    }
    for key, geometry in geometries.items():
        mapper = TrainMapper(geometry, "RGB", None, 0, flip_order(names))
        for sample in samples:
            item: dict[str, Any] = mapper(sample, 0)
            for name in ("boxes", "keypoints"):
                arrays[f"{key}/{sample.image_id}/{name}"] = item[name].numpy()
    return arrays


class _Seeded:
    """Draws what numpy's global generator would give Detectron2 after `seed`."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.spec = JitterSpec(inputs.JITTER_SCALES, inputs.JITTER_SIZE, 0.5)

    def draw(self, height: int, width: int, rng: Random) -> JitteredGeometry:
        return self.spec.draw(height, width, np.random.RandomState(self.seed))


def jitter_polygons(folder: Path) -> dict[str, np.ndarray]:
    """The same with polygons, which are cut, and boxes around what is left of them."""
    return jitter(folder, "polygon")


def jitter_bitmasks(folder: Path) -> dict[str, np.ndarray]:
    """The same with the cut polygons filled."""
    return jitter(folder, "bitmask")


def crops(folder: Path, mask_format: str | None = None) -> dict[str, np.ndarray]:
    """What the detector is given of cropped images, whose draws are those of numpy's old seeds."""
    inputs.write_coco(folder / "coco")
    path, images = folder / "coco" / "instances_train.json", folder / "coco" / "train"
    samples = read_coco(path, images, read_json(path, images), inputs.CLASSES)
    arrays = {}
    for seed, (kind, size) in enumerate(inputs.CROPS):
        resizing = GeometrySpec(inputs.CROP_SIZES, inputs.MAX_SIZE, 0.5, between=True)
        spec = CroppedSpec(CropSpec(kind, size), resizing)
        mapper = TrainMapper(_SeededCrop(seed, spec), "RGB", mask_format, 0)
        for sample in samples:
            if sample.trainable():
                arrays |= _mapped_image(f"{seed}/{sample.image_id}", mapper, sample)
    return arrays


class _OldDraws(np.random.RandomState):
    """numpy's old generator with the new one's name for integers."""

    def integers(self, low: int, high: int) -> int:
        return int(self.randint(low, high))


class _SeededCrop:
    """As `_Seeded`."""

    def __init__(self, seed: int, spec: CroppedSpec) -> None:
        self.seed, self.spec = seed, spec

    def draw(self, height: int, width: int, rng: Random) -> CroppedGeometry:
        return self.spec.draw(height, width, _OldDraws(self.seed))


def crops_polygons(folder: Path) -> dict[str, np.ndarray]:
    """The same with polygons, which are cut, and boxes around what is left of them."""
    return crops(folder, "polygon")


def crops_bitmasks(folder: Path) -> dict[str, np.ndarray]:
    """The same with the cut polygons filled."""
    return crops(folder, "bitmask")


def voc_metrics(folder: Path, ties: bool = False) -> dict[str, np.ndarray]:
    """AP, AP50 and AP75 of random detections by both metrics."""
    arrays = {}
    for seed in range(3):
        dataset, predictions = inputs.random_detections(seed, ties)
        for metric in (2007, 2012):
            metrics, _ = evaluate_voc(dataset, predictions, metric=metric)
            values = [metrics[f"bbox/{name}"] for name in ("AP", "AP50", "AP75")]
            arrays[f"{seed}/{metric}"] = np.array(values)
    return arrays


def voc_ties(folder: Path) -> dict[str, np.ndarray]:
    """The same with many equal scores."""
    return voc_metrics(folder, ties=True)


def lvis_metrics(folder: Path) -> dict[str, np.ndarray]:
    """All metrics of LVIS for boxes and masks near the objects of a small set."""
    dataset = open_sets([write_lvis(folder, "val", lvis_content("val", 14))])
    predictions = lvis_files.noisy(dataset, 0)
    metrics, _ = score(dataset, predictions, folder=folder / "out", with_masks=True)
    return {
        kind: np.array([metrics[f"{kind}/{name}"] for name in LVIS_NAMES])
        for kind in ("bbox", "segm")
    }


def cityscapes_metrics(folder: Path) -> dict[str, np.ndarray]:
    """AP and AP50 of masks near the objects of a small set."""
    path = cityscapes_files.write_polygons(folder, "val", 5)
    files = cityscapes_files.files_of(open_sets([f"cityscapes:{path}:val"]))
    metrics, _ = evaluate_cityscapes(files, cityscapes_files.noisy(files, 0))
    return {"segm": np.array([metrics["segm/AP"], metrics["segm/AP50"]])}


def naive_layer(channels: int) -> nn.Module:
    """Our naiveSyncBN."""
    return NaiveSyncBatchNorm(channels)


def naive_sync(folder: Path) -> dict[str, np.ndarray]:
    """naiveSyncBN over two processes."""
    return over_two_processes(naive_layer, folder)


TOPICS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    "geometry": geometry,
    "orders": orders,
    "repeats": repeats,
    "rates": rates,
    "clipped": clipped,
    "mapped": mapped,
    "crops": crops,
    "crops_polygons": crops_polygons,
    "crops_bitmasks": crops_bitmasks,
    "jitter": jitter,
    "jitter_polygons": jitter_polygons,
    "jitter_bitmasks": jitter_bitmasks,
    "keypoints": keypoints,
    "voc_metrics": voc_metrics,
    "voc_ties": voc_ties,
    "lvis_metrics": lvis_metrics,
    "cityscapes_metrics": cityscapes_metrics,
    "naive_sync": naive_sync,
}
