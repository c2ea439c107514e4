"""The real Detectron2 on our configs: through our engine, and through its own classes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("detectron2.modeling", reason="detectron2 is not installed")
pytestmark = pytest.mark.detectron2

CONFIGS = Path(__file__).parents[3] / "configs" / "detection"
TINY = (
    "SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 4 SOLVER.STEPS (3,) DATALOADER.NUM_WORKERS 0 "
    "INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 MODEL.RPN.POST_NMS_TOPK_TEST 10 "
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0 TEST.EVAL_PERIOD 2 TRANSFER.DRAW_DETECTIONS 0"
).split()


PATCHES_OF_8 = (
    *("TRANSFER.VIT.PATCH_SIZE", "8", "MODEL.RPN.IN_FEATURES", "['p1','p2','p3','p4','p5']"),
    *("MODEL.ROI_HEADS.IN_FEATURES", "['p1','p2','p3','p4']"),
)


@pytest.mark.parametrize(
    ("config", "more"),
    [
        ("digits_voc.yaml", ()),
        ("digits_coco.yaml", ()),
        ("digits_keypoints.yaml", ()),
        ("digits_vitdet.yaml", ()),
        ("digits_vitdet.yaml", PATCHES_OF_8),
    ],
)
def test_record_and_a_model_that_both_engines_read(
    digits: Path, tmp_path: Path, config: str, more: tuple[str, ...]
) -> None:
    from transfer.detection.task import DetectionTask
    from transfer.training.files import read_model
    from transfer.trials.command import evaluate_request
    from transfer.trials.loop import run_trials
    from transfer.trials.task import Request

    task = DetectionTask()
    request = Request(
        config, "random", str(tmp_path / "run"), engine="detectron2", overrides=(*TINY, *more)
    )
    (path,) = run_trials(task, task.prepare(request))
    record = json.loads(path.read_text())
    assert record["protocol"]["engine"] == "detectron2"
    assert len((path.parent / "metrics.json").read_text().splitlines()) >= 1
    scores = {}
    model = str(path.parent / "model_final.pth")
    classes = ("digit",) if "keypoints" in config else tuple("0123456789")
    assert read_model(Path(model)).classes == classes
    for engine in ("detectron2", "torchvision"):
        output = tmp_path / engine
        request = Request(config, model, str(output), engine=engine, overrides=(*TINY, *more))
        evaluate_request(task, request)
        results = output / "inference" / "coco_instances_results.json"
        scores[engine] = json.loads(results.read_text())
    assert scores["detectron2"] == scores["torchvision"], "boxes, scores and masks, bit for bit"
    assert scores["detectron2"]


LVIS = (
    *("DATASETS.TRAIN", "('lvis_v1_train',)", "DATASETS.TEST", "('lvis_v1_val',)"),
    *("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
    *("DATALOADER.REPEAT_THRESHOLD", "0.9", "TEST.DETECTIONS_PER_IMAGE", "300"),
    *("MODEL.ROI_HEADS.NUM_CLASSES", "6"),
)
CITYSCAPES = (
    *("DATASETS.TRAIN", "('cityscapes_fine_instance_seg_train',)"),
    *("DATASETS.TEST", "('cityscapes_fine_instance_seg_val',)"),
    *("MODEL.ROI_HEADS.NUM_CLASSES", "8"),
)


@pytest.mark.parametrize("kind", ["lvis", "cityscapes"])
def test_lvis_and_cityscapes_train_and_score_alike(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From official layouts: a record of each engine, and equal boxes, scores, masks and metrics of
    one model on both."""
    from tests.transfer.cityscapes_files import write_polygons
    from tests.transfer.lvis_files import lvis_content, write_lvis
    from transfer.detection.task import DetectionTask
    from transfer.trials.command import evaluate_request
    from transfer.trials.loop import run_trials
    from transfer.trials.task import Request

    pytest.importorskip("shapely")
    if importlib.util.find_spec("lvis") is None:
        pytest.skip("lvis is not installed")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for split, count in (("train", 6), ("val", 4)):
        if kind == "lvis":
            write_lvis(tmp_path, split, lvis_content(split, count, seed=count))
        else:
            write_polygons(tmp_path, split, count, seed=count)
    task, words = DetectionTask(), (*TINY, *(LVIS if kind == "lvis" else CITYSCAPES))
    scored, found = {}, {}
    for engine in ("detectron2", "torchvision"):
        asked = Request(
            "digits_coco.yaml", "random", str(tmp_path / engine), engine=engine, overrides=words
        )
        (path,) = run_trials(task, task.prepare(asked))
        record = json.loads(path.read_text())
        assert record["protocol"]["engine"] == engine
        scored[engine] = set(record["metrics"])
        model = str(tmp_path / "detectron2/trial_0/model_final.pth")
        output = tmp_path / f"scored_{engine}"
        again = Request("digits_coco.yaml", model, str(output), engine=engine, overrides=words)
        once_more = evaluate_request(task, again)
        assert once_more is not None
        results = output / "inference" / "coco_instances_results.json"
        found[engine] = json.loads(results.read_text()), once_more.metrics
    assert scored["detectron2"] == scored["torchvision"]
    assert ("segm/APr" in scored["detectron2"]) == (kind == "lvis")
    assert found["detectron2"][0] == found["torchvision"][0] != []
    np.testing.assert_equal(found["detectron2"][1], found["torchvision"][1])


@pytest.mark.parametrize("classes", [10, 3])
def test_both_engines_start_from_the_same_detector(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int
) -> None:
    """Every parameter and buffer before the first step, new predictors included."""
    import torch

    from pretrain.data.preprocess import Preprocess
    from transfer.detection import detectron2_engine
    from transfer.detection.config import load_detection_config
    from transfer.detection.task import DetectionTask
    from transfer.detection.torchvision_engine import engine as ours
    from transfer.training import build
    from transfer.training import files as model_files
    from transfer.trials.loop import run_trials
    from transfer.trials.task import Request

    words = ("MODEL.ROI_HEADS.NUM_CLASSES", str(classes))
    torch.manual_seed(7)
    state = ours.make_detector(load_detection_config("digits_coco", words), Preprocess())
    facts = {"preprocess": Preprocess(), "architecture": {}, "seconds": 1.0}
    path = model_files.write_model(tmp_path, state.state_dict(), iteration=0, **facts)

    class Stopped(Exception):
        """Before the first step."""

    started = {}

    def note(engine: str):
        def stop(trainer: object, *args: object, **kwargs: object) -> None:
            model = trainer.model if engine == "detectron2" else trainer
            started[engine] = {k: v.clone() for k, v in model.state_dict().items()}
            raise Stopped

        return stop

    monkeypatch.setattr(detectron2_engine.Trainer, "train", note("detectron2"))
    monkeypatch.setattr(build, "train", note("torchvision"))
    for engine in ("detectron2", "torchvision"):
        output = str(tmp_path / engine)
        request = Request("digits_coco", str(path), output, engine=engine, overrides=tuple(TINY))
        with pytest.raises(Stopped):
            run_trials(DetectionTask(), DetectionTask().prepare(request))
    theirs, found = started["detectron2"], started["torchvision"]
    assert {k for k in theirs if not k.startswith("pixel_")} == set(found)
    assert all(torch.equal(theirs[name], value) for name, value in found.items())
    fresh = [name for name, value in state.state_dict().items() if value.shape != found[name].shape]
    assert bool(fresh) == (classes == 3) and all("predictor" in name for name in fresh)
    rest = set(found) - {name for name in found if "predictor" in name and classes == 3}
    for name in rest:
        assert torch.equal(found[name], state.state_dict()[name]), name


def test_plain_detectron2_takes_every_config(digits: Path) -> None:
    from detectron2.config import get_cfg
    from detectron2.data import DatasetCatalog, build_detection_train_loader
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage

    from transfer.detection.detectron2_plugin import register_datasets
    from transfer.detection.torchvision_engine.architectures import is_timm

    for path in sorted(CONFIGS.glob("*.yaml")):
        cfg = get_cfg()
        cfg.merge_from_file(str(path))
        cfg.MODEL.DEVICE = "cpu"
        # Detectron2 has no ConvNets of timm, so it reads such a config but cannot build it.
        if path.stem.startswith("digits") and not is_timm(cfg):
            register_datasets(cfg)
            assert len(DatasetCatalog.get(cfg.DATASETS.TRAIN[0])) == 8
            cfg.DATALOADER.NUM_WORKERS = 0
            batch = next(iter(build_detection_train_loader(cfg)))
            with EventStorage():
                losses = build_model(cfg)(batch)
            assert ("loss_mask" in losses) == cfg.MODEL.MASK_ON
            assert ("loss_keypoint" in losses) == cfg.MODEL.KEYPOINT_ON


def test_a_vits_weights_reach_both_engines(tmp_path: Path) -> None:
    """The .pkl through Detectron2's checkpointer, the weights through ours: the same backbone."""
    import torch
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_model

    from transfer.checkpoints.read import read_weights
    from transfer.checkpoints.writers import write_weights
    from transfer.detection.config import load_detection_config
    from transfer.detection.detectron2_engine import to_detectron2
    from transfer.detection.torchvision_engine.detector import DetectorSpec
    from transfer.detection.torchvision_engine.load import load_backbone

    cfg = load_detection_config("digits_vitdet.yaml")
    weights = read_weights("random", backbone="vit_tiny_patch16_224", seed=1)
    write_weights(weights, tmp_path / "vit.pkl")
    theirs = build_model(to_detectron2(cfg, tmp_path, ""))
    DetectionCheckpointer(theirs).load(str(tmp_path / "vit.pkl"))
    ours = DetectorSpec.from_config(cfg).build()
    report = load_backbone(ours, weights)
    state = theirs.state_dict()
    assert len(report.matched) == 3 + 12 * 12 and not report.unexpected
    for name in report.matched:
        assert torch.equal(state[name], ours.state_dict()[name]), name


def test_plain_detectron2_follows_the_recipe(digits: Path, tmp_path: Path) -> None:
    """RecipeTrainer in a user's own script: AdamW with a rate per layer, jittered squares."""
    from detectron2.config import get_cfg

    from transfer.detection.detectron2_plugin import register_datasets
    from transfer.detection.detectron2_recipe import RecipeTrainer

    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / "digits_vitdet.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path)])
    cfg.merge_from_list(["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2"])
    cfg.merge_from_list(["DATALOADER.NUM_WORKERS", "0", "SOLVER.STEPS", "(1,)"])
    cfg.DATASETS.TEST = ()  # Detectron2 has no evaluator of such a set
    register_datasets(cfg)
    trainer = RecipeTrainer(cfg)
    assert type(trainer.optimizer).__name__ == "AdamW"
    rates = {group["initial_lr"] for group in trainer.optimizer.param_groups}
    assert min(rates) == pytest.approx(cfg.SOLVER.BASE_LR * 0.7**13) and len(rates) == 14
    shapes = [tuple(item["image"].shape[1:]) for item in next(iter(trainer.data_loader))]
    assert all(max(shape) <= 128 for shape in shapes)
    trainer.train()
    assert (tmp_path / "model_final.pth").is_file()


@pytest.mark.parametrize(
    "name",
    ["voc_mscn", "voc_fpn", "coco_mscn", "coco_mscn_fpn_4conv1fc_1x", "coco_vitdet_mae"],
)
def test_protocols_build_the_same_model_on_both_engines(name: str) -> None:
    """Names and shapes of every tensor, normed convolution heads included."""
    import torch
    from detectron2.modeling import build_model

    from transfer.detection.config import load_detection_config
    from transfer.detection.detectron2_engine import to_detectron2
    from transfer.detection.torchvision_engine.detector import DetectorSpec

    cfg = load_detection_config(name)
    theirs = to_detectron2(cfg, Path("."), "").clone()
    theirs.defrost()
    theirs.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        ours = DetectorSpec.from_config(cfg).build()
    with torch.device("cpu" if name == "coco_vitdet_mae" else "meta"):  # Detectron2's ViT needs it
        models = build_model(theirs), ours
    shapes = [{k: tuple(v.shape) for k, v in model.state_dict().items()} for model in models]
    assert shapes[0] == shapes[1]


def test_a_part_is_the_same_in_plain_detectron2(all_digits: Path) -> None:
    from detectron2.config import get_cfg
    from detectron2.data import DatasetCatalog

    from transfer.datasets.registry import open_sets
    from transfer.detection.detectron2_plugin import register_datasets

    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / "digits_coco.yaml"))
    name, shot = "coco:digits_coco:train@50%", "coco:digits_coco:train@1shot"
    pair = "coco:digits_coco/annotations/instances_test.json:digits_coco/test"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, cfg.SEED = (name, shot), (pair,), 3
    register_datasets(cfg)
    found = [item["file_name"] for item in DatasetCatalog.get(pair)]
    assert found == [s.file_name for s in open_sets(["coco:digits_coco:test"]).samples]
    theirs = [item["image_id"] for item in DatasetCatalog.get(name)]
    assert theirs == [sample.image_id for sample in open_sets([name]).samples]
    assert len(theirs) == 12
    theirs = [(d["image_id"], len(d["annotations"])) for d in DatasetCatalog.get(shot)]
    drawn = open_sets([shot], draw=3).samples
    assert theirs == [(sample.image_id, len(sample.instances)) for sample in drawn]
    assert sum(count for _, count in theirs) == 10


def test_mapped_images_boxes_and_rates_are_detectron2s(digits: Path) -> None:
    from detectron2.data import detection_utils, transforms
    from detectron2.solver import build_lr_scheduler

    from transfer.datasets.registry import open_sets
    from transfer.detection.config import load_detection_config
    from transfer.detection.data.transforms import Geometry, read_image
    from transfer.detection.detectron2_engine import to_detectron2
    from transfer.training.build import make_schedule

    dataset = open_sets(["coco:digits_coco:train"])
    for sample in dataset.samples[:3]:
        pixels = detection_utils.read_image(sample.file_name, format="BGR")
        np.testing.assert_array_equal(pixels, read_image(sample.file_name, "BGR"))
        chain = transforms.TransformList(
            [transforms.ResizeTransform(128, 128, 100, 150), transforms.HFlipTransform(150)]
        )
        geometry = Geometry(128, 128, 100, 150, True)
        np.testing.assert_array_equal(chain.apply_image(pixels), geometry.image(pixels))
        boxes = np.array([i.box for i in sample.instances])
        theirs = np.minimum(chain.apply_box(boxes).clip(min=0), [150, 100, 150, 100])
        np.testing.assert_array_equal(theirs, geometry.boxes(boxes))

    import torch

    cfg = load_detection_config("voc_mscn.yaml")
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = build_lr_scheduler(to_detectron2(cfg, Path("."), ""), optimizer)
    ours = make_schedule(cfg)
    for iteration in range(300):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(ours.factor(iteration), rel=1e-12)
        optimizer.step()
        scheduler.step()


def test_sampled_order_is_detectron2s() -> None:
    import itertools

    from detectron2.data.common import AspectRatioGroupedDataset
    from detectron2.data.samplers import TrainingSampler

    from transfer.training.sampler import GroupedBatches

    sizes = [(3, 4) if i % 3 else (4, 4) for i in range(11)]
    items = (
        {"height": sizes[i][0], "width": sizes[i][1], "index": i}
        for i in TrainingSampler(11, seed=5)
    )
    theirs = itertools.islice(iter(AspectRatioGroupedDataset(items, 4)), 20)
    ours = GroupedBatches([w > h for h, w in sizes], batch_size=4, seed=5)
    for expected, found in zip(theirs, iter(ours)):
        assert [item["index"] for item in expected] == [index for _, index in found]


def test_voc_scores_are_detectron2s(tmp_path: Path) -> None:
    from detectron2.evaluation.pascal_voc_evaluation import voc_ap

    from transfer.detection.evaluation.voc import average_precision

    rng = np.random.default_rng(0)
    for metric in (2007, 2012):
        for _ in range(20):
            hits = np.cumsum(rng.random(40) < 0.5)
            recall, precision = hits / 30.0, hits / np.arange(1.0, 41.0)
            theirs = voc_ap(recall, precision, metric == 2007)
            assert average_precision(recall, precision, metric) == pytest.approx(theirs, abs=1e-12)
