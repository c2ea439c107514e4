"""Seconds that scoring takes: ours compared with pycocotools and with Detectron2's evaluators.

The input is the size of a random test set (seeded). The output is a dict of builtins with the
seconds of each evaluator, ratios within a repetition, and the differences of the metrics. All start
from detections in memory, with masks as run lengths, and read the annotations themselves.

    python benchmarks/evaluate.py --sizes 500 5000 --output FILE

shows how the cost of COCO's evaluators grows with the test set: the seconds of one run and the peak
memory, each in a separate process.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import logging
import pickle
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import seconds
from benchmarks.coco_start import measured, peak_mib
from benchmarks.detections import random_coco, random_voc
from benchmarks.result_file import write_result
from benchmarks.timing import Work, interleaved
from transfer.datasets.samples import DetectionSet
from transfer.detection.evaluation.coco import FAST
from transfer.detection.evaluation.predictions import Predictions, to_coco_results
from transfer.detection.evaluation.score import score

Metrics = dict[str, float]
COCO_OURS, COCO_FAST = "coco, ours", f"coco, ours with {FAST}"
COCO_ALONE, COCO_DETECTRON2 = "coco, pycocotools alone", "coco, detectron2"
VOC_OURS, VOC_DETECTRON2 = "voc, ours", "voc, detectron2"
RATIOS = [
    (COCO_OURS, COCO_ALONE),
    (COCO_FAST, COCO_ALONE),
    (COCO_OURS, COCO_DETECTRON2),
    (COCO_FAST, COCO_DETECTRON2),
    (VOC_OURS, VOC_DETECTRON2),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 5000], help="test images")
    parser.add_argument(
        "--together", action="store_true", help="run the evaluators at the same time, not in turn"
    )
    parser.add_argument("--output", type=Path, help="JSON file of the result")
    args = parser.parse_args()
    rows = [row for images in args.sizes for row in growth(images, args.together)]
    if args.output:
        write_result(args.output, {"rows": rows})


@dataclass(frozen=True)
class Options:
    """images: number of test images. per_image: detections of each. classes: number of classes."""

    images: int
    repetitions: int
    per_image: int = 100
    classes: int = 20


def run(options: Options) -> dict[str, Any]:
    """Measures every evaluator that is importable."""
    found: dict[str, Metrics] = {}
    shape = (options.images, options.per_image, options.classes)
    with tempfile.TemporaryDirectory(prefix="bench_") as scratch:
        folder = Path(scratch)
        works = coco_works(*random_coco(folder / "coco", *shape), folder, found)
        works.update(voc_works(*random_voc(folder / "voc", *shape), folder, found))
        samples = interleaved(works, 0.0, options.repetitions)
    result = seconds.result(
        samples,
        RATIOS,
        unit="evaluation",
        options=asdict(options),
        config={"images": options.images, "detections per image": options.per_image},
        device="cpu",
    )
    return {**result, "largest difference in percent points": differences(found)}


def growth(images: int, together: bool) -> list[dict[str, Any]]:
    """Returns a row for each of COCO's evaluators at this number of test images."""
    with tempfile.TemporaryDirectory(prefix="bench_") as scratch:
        folder = Path(scratch)
        names = measured(_write_detections, folder, Options(images, 1))["evaluators"]

        def row(name: str) -> dict[str, Any]:
            found = {"images": images, "evaluator": name} | measured(_alone, folder, name)
            print(json.dumps(found), flush=True)
            return found

        with ThreadPoolExecutor(len(names) if together else 1) as threads:
            return list(threads.map(row, names))


def _write_detections(folder: Path, options: Options) -> dict[str, Any]:
    """Writes the test set with its detections, once for all evaluators."""
    shape = (options.images, options.per_image, options.classes)
    made = random_coco(folder / "coco", *shape)
    with (folder / "detections.pickle").open("wb") as file:
        pickle.dump(made, file, protocol=pickle.HIGHEST_PROTOCOL)
    return {"evaluators": list(coco_works(*made, folder, {}))}


def _alone(folder: Path, name: str) -> dict[str, Any]:
    """Returns the cost of one evaluator, and the metrics that it found."""
    with (folder / "detections.pickle").open("rb") as file:
        dataset, predictions = pickle.load(file)
    found: dict[str, Metrics] = {}
    output = folder / name.replace(" ", "_")  # another evaluator may run at the same time
    work = coco_works(dataset, predictions, output, found)[name]
    before = peak_mib()
    sample = work(0.0)
    return {
        "wall_s": round(1 / sample.images_per_second, 2),
        "cpu_s": round(sample.cpu_ms / 1000, 2),
        "peak_mib": peak_mib(),
        "peak_mib_before": before,
        **{key: found[name][key] for key in ("bbox/AP", "segm/AP")},
    }


def differences(found: dict[str, Metrics]) -> dict[str, float]:
    """Returns the largest difference of a metric to that of our evaluator, per other evaluator."""
    largest = {}
    for name, metrics in found.items():
        ours = found[COCO_OURS if name.startswith("coco") else VOC_OURS]
        # A metric that is NaN (no object of a size) is left out: it differs from itself.
        pairs = [(ours[key], metrics[key]) for key in metrics if ours[key] == ours[key]]
        largest[name] = max(abs(a - b) for a, b in pairs)
    return largest


def coco_works(
    dataset: DetectionSet, predictions: list[Predictions], folder: Path, found: dict[str, Metrics]
) -> dict[str, Work]:
    """Boxes and masks in COCO's layout; each work leaves its metrics in `found`."""

    def ours(name: str, evaluator: str) -> Work:
        def work() -> None:
            found[name] = score(
                dataset,
                predictions,
                folder=folder / "out",
                with_masks=True,
                coco_evaluator=evaluator,
            )[0]

        return seconds.once(work)

    def alone() -> None:
        found[COCO_ALONE] = pycocotools_alone(dataset, predictions)

    works = {COCO_OURS: ours(COCO_OURS, "pycocotools"), COCO_ALONE: seconds.once(alone)}
    if importlib.util.find_spec(FAST) is not None:
        works[COCO_FAST] = ours(COCO_FAST, FAST)
    if importlib.util.find_spec("detectron2") is not None:
        works[COCO_DETECTRON2] = detectron2_coco(dataset, predictions, folder, found)
    return works


def voc_works(
    dataset: DetectionSet, predictions: list[Predictions], folder: Path, found: dict[str, Metrics]
) -> dict[str, Work]:
    """Boxes in VOC's layout."""
    from transfer.datasets.voc import read_voc

    def ours() -> None:
        # Detectron2's evaluator reads the annotations, too.
        samples = read_voc(folder / "voc", "test", dataset.classes)
        again = DetectionSet("x", "voc", samples, dataset.classes, dataset.category_ids)
        found[VOC_OURS] = score(again, predictions, folder=folder / "out", with_masks=False)[0]

    works = {VOC_OURS: seconds.once(ours)}
    if importlib.util.find_spec("detectron2") is not None:
        works[VOC_DETECTRON2] = detectron2_voc(dataset, predictions, folder / "voc", found)
    return works


def pycocotools_alone(dataset: DetectionSet, predictions: list[Predictions]) -> Metrics:
    """AP of boxes and masks as pycocotools' own demo computes it."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    metrics = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(dataset.annotation_file))
        for kind in ("bbox", "segm"):
            results = to_coco_results(predictions, dataset.category_ids)
            if kind == "segm":  # with a box, sizes would go by the box's area
                results = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
            evaluation = COCOeval(truth, truth.loadRes(results), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            metrics[f"{kind}/AP"] = 100 * float(evaluation.stats[0])
    return metrics


def detectron2_coco(
    dataset: DetectionSet, predictions: list[Predictions], folder: Path, found: dict[str, Metrics]
) -> Work:
    """COCOEvaluator, starting from detections: its own conversion of masks is not counted."""
    from detectron2.evaluation import COCOEvaluator

    from transfer.detection.detectron2_plugin import register

    register("bench_coco", dataset)
    logging.getLogger("detectron2").setLevel(logging.ERROR)
    output = str(folder / "detectron2")
    evaluator = COCOEvaluator("bench_coco", ("bbox", "segm"), False, output_dir=output)
    contiguous = range(len(dataset.classes))
    text = json.dumps([[p.image_id, to_coco_results([p], contiguous)] for p in predictions])

    def prepare() -> None:  # it changes its predictions in place
        pairs = json.loads(text)
        evaluator._predictions = [{"image_id": i, "instances": results} for i, results in pairs]

    def work() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            metrics = evaluator.evaluate()
        found[COCO_DETECTRON2] = {f"{kind}/AP": metrics[kind]["AP"] for kind in ("bbox", "segm")}

    return seconds.once(work, prepare)


def detectron2_voc(
    dataset: DetectionSet, predictions: list[Predictions], folder: Path, found: dict[str, Metrics]
) -> Work:
    """PascalVOCDetectionEvaluator, which goes through text and the XML files."""
    import torch
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import PascalVOCDetectionEvaluator, pascal_voc_evaluation
    from detectron2.structures import Boxes, Instances

    from transfer.detection.detectron2_plugin import register

    register("bench_voc", dataset)
    MetadataCatalog.get("bench_voc").set(dirname=str(folder), split="test", year=2007)
    inputs = [{"image_id": p.image_id} for p in predictions]
    outputs = []
    for p in predictions:
        instances = Instances((1000, 1000))
        instances.pred_boxes = Boxes(torch.from_numpy(p.boxes))
        instances.scores, instances.pred_classes = map(torch.from_numpy, (p.scores, p.classes))
        outputs.append({"instances": instances})

    def work() -> None:
        evaluator = PascalVOCDetectionEvaluator("bench_voc")
        evaluator.reset()
        evaluator.process(inputs, outputs)
        metrics = evaluator.evaluate()["bbox"]
        found[VOC_DETECTRON2] = {f"bbox/{name}": value for name, value in metrics.items()}
        # It caches the XML files, but the next repetition has to read them again.
        pascal_voc_evaluation.parse_rec.cache_clear()

    return seconds.once(work)


if __name__ == "__main__":
    main()
