"""Predictions of a whole test set -> metrics, by the evaluator that the set's layout asks for.

In: a DetectionSet and its Predictions. Out: metrics and AP per class in percent, and
`coco_instances_results.json` in the given folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transfer.datasets.samples import DetectionSet
from transfer.detection.evaluation.coco import evaluate_coco
from transfer.detection.evaluation.predictions import Predictions, write_results
from transfer.detection.evaluation.voc import evaluate_voc

RESULTS_FILE = "coco_instances_results.json"

Scores = tuple[dict[str, float], dict[str, dict[str, float]]]


def score(
    dataset: DetectionSet,
    predictions: Sequence[Predictions],
    *,
    folder: Path,
    with_masks: bool,
    voc_metric: int = 2007,
    voc_exact: bool = False,
    coco_evaluator: str = "auto",
) -> Scores:
    """(metrics, per_class); the results are written below `folder` first."""
    results = write_results(folder / RESULTS_FILE, predictions, dataset)
    if dataset.layout == "voc":
        return evaluate_voc(dataset, predictions, metric=voc_metric, exact=voc_exact)
    assert dataset.annotation_file is not None, "a COCO test set is one file"
    return evaluate_coco(
        dataset.annotation_file,
        results,
        kinds=("bbox", "segm") if with_masks else ("bbox",),
        classes=dict(zip(dataset.category_ids, dataset.classes)),
        image_ids=[sample.image_id for sample in dataset.samples],
        evaluator=coco_evaluator,
    )
