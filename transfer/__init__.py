"""The transfer benchmark: checkpoints in, result records and one report out.

The Python entry, for notebooks and scripts; each name's own help has an example:

    read_weights       the backbone of any supported checkpoint, with an account of every key
    convert            a checkpoint in another layout, proven equal before it is written
    build_backbone     a torch module with these weights
    extract_features   the features of your images
    knn_score          how well neighbours in feature space have the same class
    draw_kernels       a picture of the first layer's kernels
    build_detector     a detector with a backbone, or a trained one, for your images
    evaluate           scores predictions on a COCO or VOC set
    run_protocol       one protocol on one checkpoint, as tools/train_cls.py and train_det.py do it
    read_records       the result records below some folders; `.frame()` is a pandas table
    make_report        the report of the records below some folders
    InputError         what bad input raises: one line with the remedy

Importing this package imports no torch; a name's module is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pretrain.common.lazy_names import lazy_names

if TYPE_CHECKING:
    from pretrain.common.errors import InputError
    from transfer.checkpoints.read import read_weights
    from transfer.entry.conversion import convert
    from transfer.entry.detector import build_detector
    from transfer.entry.evaluation import evaluate
    from transfer.entry.features import build_backbone, extract_features, knn_score
    from transfer.entry.kernels import draw_kernels
    from transfer.entry.protocols import make_report, run_protocol
    from transfer.results.read_records import read_records

__all__ = [
    "InputError",
    "build_backbone",
    "build_detector",
    "convert",
    "draw_kernels",
    "evaluate",
    "extract_features",
    "knn_score",
    "make_report",
    "read_records",
    "read_weights",
    "run_protocol",
]

PLACES = {
    "InputError": "pretrain.common.errors",
    "build_backbone": "transfer.entry.features",
    "build_detector": "transfer.entry.detector",
    "convert": "transfer.entry.conversion",
    "draw_kernels": "transfer.entry.kernels",
    "evaluate": "transfer.entry.evaluation",
    "extract_features": "transfer.entry.features",
    "knn_score": "transfer.entry.features",
    "make_report": "transfer.entry.protocols",
    "read_records": "transfer.results.read_records",
    "read_weights": "transfer.checkpoints.read",
    "run_protocol": "transfer.entry.protocols",
}

__getattr__, __dir__ = lazy_names(__name__, PLACES)
