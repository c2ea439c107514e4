"""Cityscapes: its layout, its classes, its scores against the official script, a run."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pretrain.common.errors import InputError
from tests.transfer.cityscapes_files import HEIGHT, WIDTH, write_cityscapes
from transfer.datasets.cityscapes_labels import LABELS_OF_CLASSES
from transfer.datasets.numbered_pixels import read_instances
from transfer.results.record import read_record
from transfer.results.replicates import Replicates, read_replicates
from transfer.segmentation import cityscapes
from transfer.segmentation.cityscapes import (
    CLASSES,
    COUNTED,
    GROUPED,
    draw_cityscapes,
    summarize_cityscapes,
    weighted_pixels,
)
from transfer.segmentation.config import load_segmentation_config
from transfer.segmentation.data import SemanticSet, open_sets
from transfer.segmentation.evaluation import confusion, summarize
from transfer.segmentation.task import SegmentationTask
from transfer.trials.loop import run_trials
from transfer.trials.task import Request


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SemanticSet:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_cityscapes(tmp_path, "val", 5)
    return open_sets(["cityscapes_fine_sem_seg_val"])


def predicted_maps(data: SemanticSet, seed: int = 0) -> list[np.ndarray]:
    """Class numbers (H, W): the truth with many pixels drawn at random."""
    rng = np.random.default_rng(seed)
    found = []
    for sample in data.samples:
        mask, drawn = sample.mask(), rng.integers(0, 19, (HEIGHT, WIDTH))
        keep = (mask != 255) & (rng.random(mask.shape) < 0.7)
        found.append(np.where(keep, mask, drawn).astype(np.uint8))
    return found


def counted(data: SemanticSet, maps: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    matrices, weighted = [], []
    for sample, found in zip(data.samples, maps):
        assert sample.instance_name is not None
        matrices.append(confusion(sample.mask(), found, 19))
        weighted.append(weighted_pixels(read_instances(sample.instance_name), found))
    return np.stack(matrices), np.stack(weighted)


def test_the_official_layout(data: SemanticSet, tmp_path: Path) -> None:
    assert data.classes == CLASSES and len(CLASSES) == 19
    assert [s.image_id for s in data.samples] == sorted(s.image_id for s in data.samples)
    assert open_sets([f"cityscapes:{tmp_path}/cityscapes:val"]).samples == data.samples
    sample = data.samples[0]
    ids = np.asarray(Image.open(sample.mask_name))
    expected = {label.id: k for k, label in enumerate(LABELS_OF_CLASSES)}
    for number, found in zip(ids.flat, sample.mask().flat):
        assert found == expected.get(int(number), 255)


def slow_scores(data: SemanticSet, maps: list[np.ndarray]) -> dict[str, dict[str, float]]:
    """Computed as the official script defines it, pixel by pixel of each object."""
    hits, misses, false = ({} for _ in range(3))  # type: dict[str, float]
    pairs = []
    for sample, found in zip(data.samples, maps):
        assert sample.instance_name is not None
        instances = np.asarray(Image.open(sample.instance_name)).astype(int)
        pairs += list(zip(sample.mask().flat, found.flat))
        for one in set(instances[instances > 1000].tolist()):
            named = [label for label in LABELS_OF_CLASSES if label.id == one // 1000]
            if not named:
                continue
            (label,) = named
            called = [LABELS_OF_CLASSES[k] for k in found[instances == one]]
            weight = label.size / len(called)
            for key, right in (
                (label.name, [c.name == label.name for c in called]),
                (label.category, [c.category == label.category for c in called]),
            ):
                hits[key] = hits.get(key, 0.0) + weight * sum(right)
                misses[key] = misses.get(key, 0.0) + weight * (len(right) - sum(right))
    for number, call in pairs:
        if number == 255:
            continue
        true, called_label = LABELS_OF_CLASSES[number], LABELS_OF_CLASSES[call]
        if true.name != called_label.name:
            false[called_label.name] = false.get(called_label.name, 0.0) + 1
        if true.category != called_label.category:
            false[called_label.category] = false.get(called_label.category, 0.0) + 1
    names = ([CLASSES[k] for k in COUNTED], GROUPED)
    return {
        metric: {
            key: 100 * hits[key] / (hits[key] + misses[key] + false.get(key, 0.0))
            for key in keys
            if key in hits
        }
        for metric, keys in zip(("sem_seg/iIoU", "sem_seg/iIoU_sup"), names)
    }


def test_instance_scores_by_a_loop(data: SemanticSet) -> None:
    maps = predicted_maps(data)
    metrics, per_class = summarize_cityscapes(*counted(data, maps))
    for metric, expected in slow_scores(data, maps).items():
        found = {k: v for k, v in per_class[metric].items() if k in expected}
        assert found == pytest.approx(expected) and len(expected) > 1
        everything = [v for v in per_class[metric].values() if not math.isnan(v)]
        assert metrics[metric] == pytest.approx(np.mean(everything))


def test_the_truth_is_100(data: SemanticSet) -> None:
    maps = [np.where(s.mask() == 255, 0, s.mask()) for s in data.samples]
    matrices, weighted = counted(data, maps)
    metrics, _ = summarize_cityscapes(matrices, weighted)
    assert summarize(matrices.sum(axis=0), CLASSES)[0]["sem_seg/mIoU"] == 100
    assert metrics == pytest.approx(dict.fromkeys(cityscapes.NAMES, 100.0))


def test_draws_are_the_scores_of_copied_images(data: SemanticSet) -> None:
    matrices, weighted = counted(data, predicted_maps(data, 1))
    drawn = Replicates.draw([s.image_id for s in data.samples], 3)
    found = draw_cityscapes(matrices, weighted, drawn)
    for draw in range(3):
        rows = np.repeat(np.arange(len(matrices)), drawn.weights[:, draw + 1])
        full = summarize_cityscapes(matrices, weighted)[1]
        part = summarize_cityscapes(matrices[rows], weighted[rows])[1]
        for metric, values in part.items():
            each = [full[metric][k] if math.isnan(v) else v for k, v in values.items()]
            assert found[metric][draw + 1] == pytest.approx(np.nanmean(each))


def test_against_the_official_script(
    data: SemanticSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is installed; its version 2.3.0 uses a name that NumPy 2.4 does not have."""
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    name = "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling"
    official: Any = pytest.importorskip(name, exc_type=ImportError)
    ids = np.array([label.id for label in LABELS_OF_CLASSES], np.uint8)
    maps, files = predicted_maps(data, 2), []
    for sample, found in zip(data.samples, maps):
        files.append(str(tmp_path / f"{sample.image_id}.png"))
        Image.fromarray(ids[found]).save(files[-1])
    official.args.JSONOutput, official.args.quiet = False, True
    truth = [sample.mask_name for sample in data.samples]
    expected = official.evaluateImgLists(files, truth, official.args)
    matrices, weighted = counted(data, maps)
    metrics, per_class = summarize_cityscapes(matrices, weighted)
    metrics |= summarize(matrices.sum(axis=0), CLASSES)[0]
    for ours, theirs in (
        ("mIoU", "averageScoreClasses"),
        ("iIoU", "averageScoreInstClasses"),
        ("IoU_sup", "averageScoreCategories"),
        ("iIoU_sup", "averageScoreInstCategories"),
    ):
        assert metrics[f"sem_seg/{ours}"] == pytest.approx(100 * expected[theirs], abs=1e-9)
    labels = importlib.import_module("cityscapesscripts.helpers.labels").name2label
    for k, label in enumerate(LABELS_OF_CLASSES):
        known = labels[label.name]
        assert (known.id, known.trainId, known.category) == (label.id, k, label.category)
        assert label.size == official.args.avgClassSize.get(label.name, 0.0)


def test_a_run_and_its_record(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, "train", 4)
    folder = write_cityscapes(tmp_path, "val", 3)
    overrides = (
        "SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 2 SOLVER.STEPS (1,) SOLVER.WARMUP_ITERS 0 "
        "DATALOADER.NUM_WORKERS 0 TRANSFER.SEMANTIC.CROP_SIZE 32 TRANSFER.DRAW_DETECTIONS 1 "
        f"DATASETS.TRAIN cityscapes:{folder}:train DATASETS.TEST cityscapes:{folder}:val"
    ).split()
    request = Request(
        "digits_fcn.yaml", "random", str(tmp_path / "run"), overrides=tuple(overrides)
    )
    task = SegmentationTask()
    (path,) = run_trials(task, task.prepare(request))
    record = read_record(path)
    assert {*cityscapes.NAMES, "sem_seg/mIoU"} <= set(record["metrics"])
    assert set(record["per_class"]["sem_seg/iIoU"]) == {CLASSES[k] for k in COUNTED}
    stored = read_replicates(path.parent / record["artifacts"]["replicates"])
    assert set(cityscapes.NAMES) <= set(stored.values)


def test_the_shipped_protocol() -> None:
    cfg = load_segmentation_config("cityscapes_fcn.yaml")
    assert cfg.TRANSFER.SEMANTIC.CROP_SIZE == 769 and cfg.TRANSFER.SEMANTIC.NUM_CLASSES == 19
    assert tuple(cfg.SOLVER.STEPS) == (63_000, 81_000) and cfg.SOLVER.BASE_LR == 0.01


def test_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    name = "cityscapes_fine_sem_seg_val"
    with pytest.raises(InputError, match="leftImg8bit/val is missing; expected .*gtFine/val"):
        open_sets([name])
    folder = write_cityscapes(tmp_path, "val", 3)
    for refused, message in (
        (["cityscapes:val"], "needs the form cityscapes:FOLDER:SPLIT"),
        (["cityscapes_fine_sem_seg_test"], "did you mean"),
        ([name, "voc_2012_sem_seg_val"], "mix layouts"),
    ):
        with pytest.raises(InputError, match=message):
            open_sets(refused)
    with pytest.raises(InputError, match="leave TRANSFER.CLASSES empty"):
        open_sets([name], ("road", "sky"))
    sample = open_sets([name]).samples[0]
    assert sample.instance_name is not None
    mask, instances = Path(sample.mask_name), Path(sample.instance_name)
    Image.fromarray(np.full((HEIGHT, WIDTH), 40, np.uint8)).save(mask)
    with pytest.raises(InputError, match="the number 40, but Cityscapes' label ids are 0 to 33"):
        sample.mask()
    instances.write_bytes(instances.read_bytes()[:80])
    with pytest.raises(InputError, match="cannot be read"):
        read_instances(str(instances))
    Image.new("RGB", (WIDTH, HEIGHT)).save(instances)
    with pytest.raises(InputError, match="has colours"):
        read_instances(str(instances))
    instances.unlink()
    with pytest.raises(InputError, match=r"files of labels are missing \(1: .*instanceIds.png\)"):
        open_sets([name])
    assert folder.is_dir()
