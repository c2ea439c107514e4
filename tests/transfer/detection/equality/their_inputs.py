"""Everything around the detector, as Detectron2 computes it; see `our_inputs`."""

from __future__ import annotations

import copy
import importlib
import itertools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.data.build import (
    filter_images_with_few_keypoints,
    filter_images_with_only_crowd_annotations,
)
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.data.datasets import load_coco_json, load_voc_instances
from detectron2.data.detection_utils import create_keypoint_hflip_indices
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
)
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_utils
from torch import nn

from tests.transfer import cityscapes_files, lvis_files
from tests.transfer.detection.equality import inputs
from tests.transfer.detection.equality.our_inputs import steps_with
from tests.transfer.detection.equality.two_processes import over_two_processes
from transfer.datasets.registry import open_sets
from transfer.detection.detectron2_plugin import register  # on import: adds the node TRANSFER
from transfer.detection.detectron2_recipe import jitter_mapper
from transfer.detection.evaluation.lvis import NAMES as LVIS_NAMES

SCRIPTS = "cityscapesscripts"


def geometry(folder: Path) -> dict[str, np.ndarray]:
    """See our_inputs."""
    shapes = [T.ResizeShortestEdge.get_output_shape(*shape) for shape in inputs.SHAPES]
    arrays = {"shapes": np.array(shapes)}
    for index, (height, width, edge, limit) in enumerate(inputs.RESIZES):
        for flip in (False, True):
            chain = [T.ResizeShortestEdge(edge, limit), T.RandomFlip(float(flip))]
            image = T.AugInput(inputs.pixels(height, width, index))
            T.AugmentationList(chain)(image)
            arrays[f"pixels/{index}/{int(flip)}"] = np.ascontiguousarray(image.image)
    return arrays


class _Sampler(TrainingSampler):
    """The sampler of one rank of several, without starting them."""

    def __init__(self, size: int, seed: int, rank: int, world: int) -> None:
        super().__init__(size, seed=seed)
        self._rank, self._world_size = rank, world


def orders(folder: Path) -> dict[str, np.ndarray]:
    """See our_inputs."""
    arrays = {}
    for index, (size, seed, batch, rank, world) in enumerate(inputs.ORDERS):
        wide = inputs.landscape(size)
        items = (
            {"height": 4, "width": 5 if wide[i] else 4, "index": i}
            for i in _Sampler(size, seed, rank, world)
        )
        first = itertools.islice(iter(AspectRatioGroupedDataset(items, batch)), 40)
        arrays[str(index)] = np.array([[item["index"] for item in group] for group in first])
    return arrays


def repeats(folder: Path) -> dict[str, np.ndarray]:
    """See our_inputs."""
    arrays, found = {}, inputs.rare_classes()
    wide = inputs.landscape(len(found))
    dicts = [{"annotations": [{"category_id": each} for each in classes]} for classes in found]
    for number, (threshold, sqrt, seed, batch, rank, world) in enumerate(inputs.REPEATS):
        make = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
        factors = make(dicts, threshold, sqrt=sqrt)
        sampler = RepeatFactorTrainingSampler(factors, seed=seed)
        sampler._rank, sampler._world_size = rank, world
        items = ({"height": 4, "width": 5 if wide[i] else 4, "index": i} for i in sampler)
        first = itertools.islice(iter(AspectRatioGroupedDataset(items, batch)), 60)
        arrays[f"{number}/factors"] = factors.numpy()
        arrays[f"{number}/order"] = np.array([[item["index"] for item in group] for group in first])
    return arrays


def rates(folder: Path) -> dict[str, np.ndarray]:
    """See our_inputs."""
    arrays = {}
    for name, solver in inputs.SCHEDULES.items():
        cfg = get_cfg()
        for key, value in solver.items():
            setattr(cfg.SOLVER, key.upper(), value)
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = build_lr_scheduler(cfg, optimizer)
        found = [optimizer.param_groups[0]["lr"]]
        # Not behind the end, where StepWithFixedGammaParamScheduler has no value.
        for _ in range(cfg.SOLVER.MAX_ITER - 1):
            optimizer.step()
            scheduler.step()
            found.append(optimizer.param_groups[0]["lr"])
        arrays[name] = np.array(found)
    return arrays


def clipped(folder: Path) -> dict[str, np.ndarray]:
    """See our_inputs."""
    cfg = get_cfg()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED, cfg.SOLVER.NESTEROV = True, True

    def make(clipping: tuple[str, float, float], model: nn.Module) -> torch.optim.Optimizer:
        node = cfg.SOLVER.CLIP_GRADIENTS
        node.CLIP_TYPE, node.CLIP_VALUE, node.NORM_TYPE = clipping
        return build_optimizer(cfg, model)

    return steps_with(make)


def mapped(folder: Path) -> dict[str, np.ndarray]:
    """See our_inputs."""
    inputs.write_voc(folder / "voc")
    inputs.write_coco(folder / "coco")
    path, images = folder / "coco" / "instances_train.json", folder / "coco" / "train"
    sets = {
        "voc": load_voc_instances(str(folder / "voc"), "train", inputs.CLASSES),
        "coco": load_coco_json(str(path), str(images)),
    }
    arrays = {}
    for name, dicts in sets.items():
        dicts = filter_images_with_only_crowd_annotations(dicts)
        arrays[f"{name}/ids"] = np.array([str(entry["image_id"]) for entry in dicts])
        for flip in (0, 1):
            arrays |= _mapped_set(f"{name}/{flip}", dicts, flip, name == "coco")
    return arrays


def _mapped_set(key: str, dicts: list[dict], flip: int, masks: bool) -> dict[str, np.ndarray]:
    mapper = DatasetMapper(
        is_train=True,
        augmentations=[
            T.ResizeShortestEdge((inputs.SHORT_EDGE,), inputs.MAX_SIZE, "choice"),
            T.RandomFlip(float(flip)),
        ],
        image_format="BGR" if masks else "RGB",
        use_instance_mask=masks,
    )
    arrays: dict[str, np.ndarray] = {}
    for entry in dicts:
        arrays |= _mapped_image(f"{key}/{entry['image_id']}", mapper, _plain_classes(entry, masks))
    return arrays


def _mapped_image(prefix: str, mapper: DatasetMapper, entry: dict) -> dict[str, np.ndarray]:
    item: dict[str, Any] = mapper(entry)
    instances = item["instances"]
    arrays = {
        "image": item["image"].numpy(),
        "boxes": instances.gt_boxes.tensor.numpy(),
        "classes": instances.gt_classes.numpy(),
    }
    if mapper.use_instance_mask and mapper.instance_mask_format == "bitmask":
        arrays["bitmasks"] = instances.gt_masks.tensor.numpy()
    elif mapper.use_instance_mask:
        points = [p for polygons in instances.gt_masks.polygons for p in polygons]
        arrays["polygons"] = np.concatenate([np.zeros(0), *points])
    return {f"{prefix}/{name}": value for name, value in arrays.items()}


def jitter(folder: Path, mask_format: str | None = None) -> dict[str, np.ndarray]:
    """See our_inputs; the mapper is that of our detectron2 engine."""
    inputs.write_coco(folder / "coco")
    cfg = get_cfg()
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.MASK_ON = mask_format is not None
    cfg.INPUT.MASK_FORMAT = mask_format or "polygon"
    cfg.TRANSFER.LSJ.SCALES = inputs.JITTER_SCALES
    cfg.TRANSFER.LSJ.CROP_SIZE = inputs.JITTER_SIZE
    mapper = jitter_mapper(cfg)
    path, images = folder / "coco" / "instances_train.json", folder / "coco" / "train"
    dicts = filter_images_with_only_crowd_annotations(load_coco_json(str(path), str(images)))
    arrays = {}
    for seed in inputs.JITTER_SEEDS:
        for entry in dicts:
            np.random.seed(seed)
            key = f"{seed}/{entry['image_id']}"
            arrays |= _mapped_image(key, mapper, _plain_classes(entry, True))
    return arrays


def crops(folder: Path, mask_format: str | None = None) -> dict[str, np.ndarray]:
    """See our_inputs; the mapper is the one that DefaultTrainer makes."""
    inputs.write_coco(folder / "coco")
    path, images = folder / "coco" / "instances_train.json", folder / "coco" / "train"
    dicts = filter_images_with_only_crowd_annotations(load_coco_json(str(path), str(images)))
    arrays = {}
    for seed, (kind, size) in enumerate(inputs.CROPS):
        cfg = get_cfg()
        cfg.INPUT.FORMAT = "RGB"
        cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, kind, list(size)
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = inputs.CROP_SIZES, "range"
        cfg.INPUT.MAX_SIZE_TRAIN = inputs.MAX_SIZE
        cfg.MODEL.MASK_ON = mask_format is not None
        cfg.INPUT.MASK_FORMAT = mask_format or "polygon"
        mapper = DatasetMapper(cfg, is_train=True)
        for entry in dicts:
            np.random.seed(seed)
            key = f"{seed}/{entry['image_id']}"
            arrays |= _mapped_image(key, mapper, _plain_classes(entry, True))
    return arrays


def crops_polygons(folder: Path) -> dict[str, np.ndarray]:
    """See our_inputs."""
    return crops(folder, "polygon")


def crops_bitmasks(folder: Path) -> dict[str, np.ndarray]:
    """See our_inputs."""
    return crops(folder, "bitmask")


def jitter_polygons(folder: Path) -> dict[str, np.ndarray]:
    """See our_inputs."""
    return jitter(folder, "polygon")


def jitter_bitmasks(folder: Path) -> dict[str, np.ndarray]:
    """See our_inputs."""
    return jitter(folder, "bitmask")


def keypoints(folder: Path) -> dict[str, np.ndarray]:
    """See our_inputs."""
    inputs.write_keypoints(folder)
    name = f"equality_{folder}"
    MetadataCatalog.get(name).set(
        keypoint_names=list(inputs.KEYPOINT_NAMES), keypoint_flip_map=inputs.MIRRORED
    )
    path, images = folder / "person_keypoints_train.json", folder / "train"
    dicts = load_coco_json(str(path), str(images), name)
    arrays = {
        f"with {least}": np.array(
            [entry["image_id"] for entry in filter_images_with_few_keypoints(dicts, least)]
        )
        for least in range(1, 8)
    }
    options = {"use_keypoint": True, "image_format": "RGB"}
    options["keypoint_hflip_indices"] = create_keypoint_hflip_indices([name])
    resize = T.ResizeShortestEdge((inputs.SHORT_EDGE,), inputs.MAX_SIZE, "choice")
    between = T.ResizeShortestEdge(inputs.CROP_SIZES, inputs.MAX_SIZE, "range")
    cropped = [T.RandomCrop("relative", (0.5, 0.7)), between, T.RandomFlip(0.5)]
    chains = {
        **{f"flip {flip}": ([resize, T.RandomFlip(float(flip))], 0) for flip in (0, 1)},
        **{f"crop {seed}": (cropped, seed) for seed in range(4)},
    }
    for key, (chain, seed) in chains.items():
        mapper = DatasetMapper(is_train=True, augmentations=chain, **options)
        for entry in dicts:
            np.random.seed(seed)
            instances: Any = mapper(entry)["instances"]
            arrays[f"{key}/{entry['image_id']}/boxes"] = instances.gt_boxes.tensor.numpy()
            arrays[f"{key}/{entry['image_id']}/keypoints"] = instances.gt_keypoints.tensor.numpy()
    return arrays


def _plain_classes(entry: dict, coco: bool) -> dict:
    """Without a data set's name the JSON's ids stay; registered sets have them as 0, 1, 2."""
    entry = copy.deepcopy(entry)
    for annotation in entry["annotations"] if coco else ():
        annotation["category_id"] = annotation["category_id"] // 10 - 1
    return entry


def voc_metrics(folder: Path, ties: bool = False) -> dict[str, np.ndarray]:
    """See our_inputs."""
    arrays = {}
    for seed in range(3):
        dataset, predictions = inputs.random_detections(seed, ties)
        inputs.write_truth(folder / str(seed), dataset)
        for year in (2007, 2012):
            name = f"equality_{folder}_{seed}_{year}_{ties}"
            MetadataCatalog.get(name).set(
                thing_classes=list(inputs.CLASSES),
                dirname=str(folder / str(seed)),
                split="test",
                year=year,
            )
            evaluator = PascalVOCDetectionEvaluator(name)
            evaluator.reset()
            for found in predictions:
                instances = Instances((120, 120))
                instances.pred_boxes = Boxes(torch.from_numpy(found.boxes))
                instances.scores = torch.from_numpy(found.scores)
                instances.pred_classes = torch.from_numpy(found.classes)
                evaluator.process([{"image_id": found.image_id}], [{"instances": instances}])
            result = evaluator.evaluate()["bbox"]
            arrays[f"{seed}/{year}"] = np.array([result[k] for k in ("AP", "AP50", "AP75")])
    return arrays


def voc_ties(folder: Path) -> dict[str, np.ndarray]:
    """See our_inputs."""
    return voc_metrics(folder, ties=True)


def lvis_metrics(folder: Path) -> dict[str, np.ndarray]:
    """See our_inputs."""
    dataset = open_sets([lvis_files.write_lvis(folder, "val", lvis_files.lvis_content("val", 14))])
    name = f"equality_lvis_{folder}"
    register(name, dataset)
    lvis_files.lend_lvis()
    evaluator = LVISEvaluator(name, distributed=False)
    evaluator.reset()
    for sample, found in zip(dataset.samples, lvis_files.noisy(dataset, 0)):
        instances = _instances(found.rles, found.classes, found.scores)
        instances.pred_boxes = Boxes(torch.from_numpy(found.boxes))
        evaluator.process([{"image_id": sample.image_id}], [{"instances": instances}])
    results = evaluator.evaluate()
    return {kind: np.array([results[kind][key] for key in LVIS_NAMES]) for kind in ("bbox", "segm")}


def cityscapes_metrics(folder: Path) -> dict[str, np.ndarray]:
    """See our_inputs. Needs the package cityscapesscripts."""
    _lend_cityscapes_scripts()
    path = cityscapes_files.write_polygons(folder, "val", 5)
    dataset = open_sets([f"cityscapes:{path}:val"])
    name = f"equality_cityscapes_{folder}"
    register(name, dataset)
    MetadataCatalog.get(name).set(gt_dir=str(path / "gtFine/val"))
    evaluator = CityscapesInstanceEvaluator(name)
    evaluator.reset()
    results = cityscapes_files.noisy(cityscapes_files.files_of(dataset), 0)
    for sample in dataset.samples:
        mine = [result for result in results if result["image_id"] == sample.image_id]
        classes = [dataset.category_ids.index(result["category_id"]) for result in mine]
        instances = _instances(
            [result["segmentation"] for result in mine],
            np.array(classes),
            np.array([result["score"] for result in mine]),
        )
        evaluator.process([{"file_name": sample.file_name}], [{"instances": instances}])
    found = evaluator.evaluate()["segm"]
    return {"segm": np.array([found["AP"], found["AP50"]])}


def _instances(rles: list[dict[str, Any]], classes: np.ndarray, scores: np.ndarray) -> Instances:
    masks = np.stack([mask_utils.decode(rle) for rle in rles])
    instances = Instances(masks.shape[1:])
    instances.pred_masks = torch.from_numpy(masks.astype(bool))
    instances.pred_classes, instances.scores = torch.from_numpy(classes), torch.from_numpy(scores)
    return instances


def _lend_cityscapes_scripts() -> None:
    """Names the package as Detectron2 imports it, and mends what its version 2.3.0 cannot do with
    NumPy 2: it uses a name that is gone, and writes NumPy's numbers as JSON."""
    script: Any = importlib.import_module(f"{SCRIPTS}.evaluation.evalInstanceLevelSemanticLabeling")
    importlib.import_module(f"{SCRIPTS}.helpers.labels")
    there = "deeplearning.projects.cityscapesApi"
    for count in range(1, there.count(".") + 2):
        name = ".".join(there.split(".")[:count])
        sys.modules.setdefault(name, ModuleType(name))
    for name in [name for name in sys.modules if name.split(".")[0] == SCRIPTS]:
        sys.modules[f"{there}.{name}"] = sys.modules[name]
    if not hasattr(np, "in1d"):
        setattr(np, "in1d", np.isin)
    script.writeDict2JSON = lambda content, path: None


def naive_layer(channels: int) -> nn.Module:
    """Detectron2's naiveSyncBN."""
    return NaiveSyncBatchNorm(channels)


def naive_sync(folder: Path) -> dict[str, np.ndarray]:
    """See our_inputs."""
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


def record(name: str) -> dict[str, np.ndarray]:
    """Computes one topic in a separate folder."""
    with tempfile.TemporaryDirectory() as folder:
        return TOPICS[name](Path(folder))
