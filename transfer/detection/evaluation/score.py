"""Scores the predictions of a test set by the evaluator that the set's layout asks for.

Metrics and AP per class are in percent. The given folder gets `coco_instances_results.json` and
`pr_curves.json`, on request with `replicates.json` beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transfer.datasets.samples import DetectionSet
from transfer.detection.evaluation.coco import MOST, evaluate_coco
from transfer.detection.evaluation.pr_curves import PrecisionRecall
from transfer.detection.evaluation.predictions import Predictions, write_results
from transfer.detection.evaluation.voc import evaluate_voc
from transfer.results.replicates import Replicates

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
    max_detections: int = MOST,
    draws: int = 0,
) -> Scores:
    """(metrics, per_class); results and precision-recall curves are written into `folder`.

    `max_detections` above 100 is COCO's maximum of an image and class (TEST.DETECTIONS_PER_IMAGE).
    `draws` above 0 also writes that many bootstrap replicates of each metric there.
    """
    ids = [sample.image_id for sample in dataset.samples]
    replicates = Replicates.draw(ids, draws) if draws else None
    pr_curves = PrecisionRecall()
    results = write_results(folder / RESULTS_FILE, predictions, dataset)
    if dataset.layout == "voc":
        scores = evaluate_voc(
            dataset,
            predictions,
            metric=voc_metric,
            exact=voc_exact,
            replicates=replicates,
            pr_curves=pr_curves,
        )
    else:
        assert dataset.annotation_file is not None, "a COCO test set is one file"
        scores = evaluate_coco(
            dataset.annotation_file,
            results,
            kinds=("bbox", "segm") if with_masks else ("bbox",),
            classes=dict(zip(dataset.category_ids, dataset.classes)),
            image_ids=ids,
            evaluator=coco_evaluator,
            max_detections=max_detections,
            replicates=replicates,
            pr_curves=pr_curves,
        )
    pr_curves.write(folder)
    if replicates is not None:
        replicates.check(scores[0])
        replicates.write(folder)
    return scores
