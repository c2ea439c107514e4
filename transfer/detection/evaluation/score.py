"""Scores the predictions of a test set by the evaluator for the layout of the set.

Metrics and AP per class are in percent. `coco_instances_results.json` and `pr_curves.json` are
written into the given folder, and `replicates.json` if it is requested.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transfer.datasets.cityscapes_labels import INSTANCES, truth_of
from transfer.datasets.samples import DetectionSet
from transfer.detection.evaluation.cityscapes import evaluate_cityscapes
from transfer.detection.evaluation.coco import KEYPOINTS, MOST, evaluate_coco
from transfer.detection.evaluation.lvis import evaluate_lvis
from transfer.detection.evaluation.pr_curves import PrecisionRecall
from transfer.detection.evaluation.predictions import Predictions, write_results
from transfer.detection.evaluation.voc import evaluate_voc
from transfer.results.replicates import Replicates

RESULTS_FILE = "coco_instances_results.json"


class Scores(NamedTuple):
    """Holds the scores, `metrics` {name: percent} and `per_class` {metric: {class: percent}}.

    The AP of a class or a size that no object has is NaN.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]


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
    oks_sigmas: Sequence[float] = (),
    draws: int = 0,
) -> Scores:
    """Returns (metrics, per_class); writes results and precision-recall curves into `folder`.

    `max_detections` above 100 is COCO's maximum of an image and class, above 300 LVIS's of an image
    (TEST.DETECTIONS_PER_IMAGE).
    `oks_sigmas`: a number for each keypoint; (): keypoints are not scored.
    `draws` above 0 also writes that many bootstrap replicates of each metric there.
    """
    replicates = Replicates.draw(_ids(dataset), draws) if draws else None
    pr_curves = PrecisionRecall()
    scores = scores_of(
        dataset,
        predictions,
        write_results(folder / RESULTS_FILE, predictions, dataset),
        with_masks=with_masks,
        voc_metric=voc_metric,
        voc_exact=voc_exact,
        coco_evaluator=coco_evaluator,
        max_detections=max_detections,
        oks_sigmas=oks_sigmas,
        replicates=replicates,
        pr_curves=pr_curves,
    )
    pr_curves.write(folder)
    if replicates is not None:
        replicates.check(scores.metrics)
        replicates.write(folder)
    return scores


def scores_of(
    dataset: DetectionSet,
    predictions: Sequence[Predictions],
    results: Sequence[dict[str, Any]],
    *,
    with_masks: bool,
    voc_metric: int = 2007,
    voc_exact: bool = False,
    coco_evaluator: str = "auto",
    max_detections: int = MOST,
    oks_sigmas: Sequence[float] = (),
    replicates: Replicates | None = None,
    pr_curves: PrecisionRecall | None = None,
) -> Scores:
    """Returns what `score` returns, but writes nothing.

    Args:
        results: the predictions in COCO's result format, by which a COCO or LVIS set is scored; a
            VOC set is scored by the `predictions`.
    """
    if dataset.layout == "voc":
        return Scores(
            *evaluate_voc(
                dataset,
                predictions,
                metric=voc_metric,
                exact=voc_exact,
                replicates=replicates,
                pr_curves=pr_curves,
            )
        )
    if dataset.layout == "cityscapes":
        files = {s.image_id: truth_of(s.file_name, INSTANCES) for s in dataset.samples}
        return Scores(*evaluate_cityscapes(files, results))
    assert dataset.annotation_file is not None, "a COCO test set is one file"
    if dataset.layout == "lvis":
        return Scores(
            *evaluate_lvis(
                dataset.annotation_file,
                results,
                kinds=("bbox", "segm") if with_masks else ("bbox",),
                classes=dict(zip(dataset.category_ids, dataset.classes)),
                image_ids=_ids(dataset),
                max_detections=max_detections,
                replicates=replicates,
                pr_curves=pr_curves,
            )
        )
    kinds = ["bbox", *(["segm"] if with_masks else []), *([KEYPOINTS] if oks_sigmas else [])]
    return Scores(
        *evaluate_coco(
            dataset.annotation_file,
            results,
            kinds=kinds,
            classes=dict(zip(dataset.category_ids, dataset.classes)),
            image_ids=_ids(dataset),
            evaluator=coco_evaluator,
            max_detections=max_detections,
            oks_sigmas=oks_sigmas,
            replicates=replicates,
            pr_curves=pr_curves,
        )
    )


def _ids(dataset: DetectionSet) -> list[int | str]:
    return [sample.image_id for sample in dataset.samples]
