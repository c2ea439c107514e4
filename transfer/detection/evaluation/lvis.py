"""LVIS average precision of boxes and masks, by the package `lvis`.

{"bbox/AP", "bbox/AP50", "bbox/AP75", "bbox/APs", "bbox/APm", "bbox/APl", "bbox/APr", "bbox/APc",
"bbox/APf", "segm/..."} and AP per class, in percent; r, c and f are the means over the rare, common
and frequent classes. The evaluation is federated: a detection counts only in images that show its
class or are known not to, and is not an error if an image does not have all objects of its class
annotated. As in Detectron2 (evaluation/lvis_evaluation.py), 300 detections of an image are scored,
and masks without their boxes, so a mask's area decides whether it is small, medium or large. No
detections give AP 0; a size, class or group that no object has is NaN (the package's -1).

Legend: K classes, A area ranges, T thresholds of IoU, W draws.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from transfer.datasets.annotation_values import Id, as_id
from transfer.datasets.lvis import NEGATIVE, NOT_EXHAUSTIVE, read_lvis
from transfer.detection.evaluation.coco_truth import Truth, percent, read_truth, rows_of_kind
from transfer.detection.evaluation.lvis_library import import_lvis
from transfer.detection.evaluation.pr_curves import PrecisionRecall
from transfer.results.replicates import Replicates
from transfer.results.reweighted import keep_classes, reweighted_ap

MOST = 300  # number of detections of an image that LVIS's metrics use


class Part(NamedTuple):
    """Names the part of the scores whose mean is a metric: rows of thresholds, the place of an area
    range, and that of a frequency group (None: all classes).
    """

    thresholds: slice = slice(None)
    area: int = 0
    group: int | None = None


NAMES = {
    "AP": Part(),
    "AP50": Part(slice(0, 1)),
    "AP75": Part(slice(5, 6)),
    "APs": Part(area=1),
    "APm": Part(area=2),
    "APl": Part(area=3),
    "APr": Part(group=0),
    "APc": Part(group=1),
    "APf": Part(group=2),
}


def evaluate_lvis(
    annotation_file: Path,
    results: Sequence[dict[str, Any]],
    *,
    kinds: Sequence[str],
    classes: Mapping[Id, str],
    image_ids: Sequence[Id] | None = None,
    max_detections: int = MOST,
    replicates: Replicates | None = None,
    pr_curves: PrecisionRecall | None = None,
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Returns (metrics, per_class) in percent; the arguments are those of `evaluate_coco`. If
    `max_detections` is above 300, that many detections of an image are used; a smaller number has
    no effect.

    Raises InputError for an annotation file that cannot be scored, or a missing package.
    """
    library = import_lvis()
    content = read_lvis(annotation_file)
    truth = read_truth(annotation_file, classes, content=content)
    annotated = _as_lvis(library.LVIS, _federated(truth, content))
    numbers = truth.image_numbers(truth.images if image_ids is None else image_ids)
    found = truth.results(results)
    names = [classes[key] for key in truth.categories]
    metrics: dict[str, float] = {}
    per_class: dict[str, dict[str, float]] = {}
    for kind in kinds:
        evaluation = library.LVISEval(
            annotated, _found(library, annotated, found, kind, max(max_detections, MOST)), kind
        )
        evaluation.params.img_ids = numbers
        evaluation.run()
        metrics.update({f"{kind}/{name}": percent(evaluation.results[name]) for name in NAMES})
        precision = evaluation.eval["precision"][:, :, :, 0]
        means = precision.mean(axis=(0, 1))  # all values of a class without objects are -1
        per_class[f"{kind}/AP"] = dict(zip(names, map(percent, means.tolist())))
        if replicates is not None:
            ids = [truth.images[number - 1] for number in evaluation.params.img_ids]
            table = 100.0 * keep_classes(ap_table(evaluation, replicates, ids))
            replicates.add({f"{kind}/{n}": values for n, values in _means(evaluation, table)})
        if pr_curves is not None:
            pr_curves.add(kind, precision, names)
    return metrics, per_class


def ap_table(evaluation: Any, replicates: Replicates, image_ids: Sequence[Id]) -> np.ndarray:
    """Returns AP in [0, 1], float64 (K, A, T, W), under each of the replicates' weights; NaN in
    draws without an object.

    Args:
        evaluation: the package's, after `evaluate()`, whose matches are taken as they are.
        image_ids: the replicates' names of its `img_ids`.
    """
    params = evaluation.params
    images, areas = len(params.img_ids), len(params.area_rng)
    weights = replicates.weights[replicates.rows(image_ids)]
    table = np.full((len(params.cat_ids), areas, len(params.iou_thrs), weights.shape[1]), np.nan)
    for place in range(len(params.cat_ids) * areas):
        rows = evaluation.eval_imgs[place * images : (place + 1) * images]
        there = [(i, row) for i, row in enumerate(rows) if row is not None]
        objects = np.zeros(images, np.int64)
        for i, row in there:
            objects[i] = np.count_nonzero(row["gt_ignore"] == 0)
        if not objects.any():
            continue
        # by descending score, among equals by image, as the package sorts them
        order = np.argsort(-np.concatenate([row["dt_scores"] for _, row in there]), kind="stable")
        ignored, matched = (
            np.concatenate([row[key] for _, row in there], axis=1)[:, order].astype(bool)
            for key in ("dt_ignore", "dt_matches")
        )
        shown = np.repeat([i for i, _ in there], [len(row["dt_ids"]) for _, row in there])
        table[divmod(place, areas)] = reweighted_ap(
            shown[order], matched & ~ignored, ~ignored, objects, weights, params.rec_thrs
        )
    return table


def _means(evaluation: Any, table: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the metrics (W,) of (K, A, T, W); NaN if no class of a group has objects."""
    for name, part in NAMES.items():
        values = table[:, part.area, part.thresholds]
        if part.group is not None:
            values = values[evaluation.freq_groups[part.group]]
        values = values[~np.isnan(values[:, 0, 0])]
        yield name, values.mean(axis=(0, 1)) if len(values) else np.full(table.shape[-1], np.nan)


def _federated(truth: Truth, content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the objects under our ids, with the fields that LVIS adds to images and
    categories.
    """
    images = {as_id(entry["id"]): entry for entry in content["images"]}
    groups = {as_id(entry["id"]): entry["frequency"] for entry in content["categories"]}
    numbers: dict[Id | None, int] = dict(zip(truth.categories, count(1)))
    lists: Iterable[Mapping[str, list[Any]]] = (images[key] for key in truth.images)
    added = [
        {
            name: [number for one in entry[name] if (number := numbers.get(as_id(one)))]
            for name in (NEGATIVE, NOT_EXHAUSTIVE)
        }
        for entry in lists
    ]
    return {
        **truth.dataset,
        "images": [{**one, **more} for one, more in zip(truth.dataset["images"], added)],
        "categories": [
            {**one, "frequency": groups[key]}
            for one, key in zip(truth.dataset["categories"], truth.categories)
        ],
    }


def _as_lvis(library: type, dataset: dict[str, Any]) -> Any:
    """Returns an object of the package's LVIS, or LVISResults, that holds a parsed data set."""
    found: Any = object.__new__(library)
    found.logger = logging.getLogger("lvis")
    found.dataset = dataset
    found._create_index()
    return found


def _found(
    library: ModuleType, annotated: Any, results: Sequence[dict[str, Any]], kind: str, most: int
) -> Any:
    if not results:  # LVISResults fails on an empty list
        return _as_lvis(library.LVISResults, {**annotated.dataset, "annotations": []})
    return library.LVISResults(annotated, rows_of_kind(results, kind), max_dets=most)
