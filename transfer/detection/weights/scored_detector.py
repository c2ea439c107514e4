"""A trained detector that is scored without training: does it fit the config, and the data?

`--eval-only` completes the config by what the detector's file says, and reads the test set in the
order of the detector's classes, without the training set if that is possible.
"""

from __future__ import annotations

from collections.abc import Sequence

from fvcore.common.config import CfgNode

from pretrain.common.errors import InputError
from pretrain.common.findings import warn_once
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.names.vit import VITDET
from transfer.checkpoints.opened import OpenedWeights
from transfer.datasets.registry import class_names, locate, open_sets
from transfer.detection.config import with_preprocess
from transfer.detection.torchvision_engine.engine import make_detector
from transfer.detection.torchvision_engine.load import load_model
from transfer.detection.weights.detector_file import (
    compare_beside,
    named_classes,
    shown_classes,
    stated_input,
    warn_of_unnamed,
)
from transfer.detection.weights.starting_weights import count_positions
from transfer.training.files import read_model


def with_detector(cfg: CfgNode, source: OpenedWeights, config_name: str) -> CfgNode:
    """Returns the config completed by the facts of the complete detector in a file.

    Raises InputError if the file is not a detector, or not the config's: Detectron2 itself would
    only warn of tensors that have a different shape, and predict with untrained ones.
    """
    model = read_model(source)
    stated = stated_input(model, source.file, cfg)
    compare_beside(source.file, cfg)
    positions = count_positions(model.state, VITDET)
    cfg = with_preprocess(cfg, stated.preprocess, stated.architecture, positions)
    try:
        load_model(make_detector(cfg, model.preprocess or Preprocess()), model.state)
    except InputError as error:
        raise InputError(
            f"{source} does not fit {config_name}: {error}; use the config of its training"
        ) from None
    return cfg


def classes_to_score(cfg: CfgNode, source: OpenedWeights) -> tuple[str, ...]:
    """Returns the names of the classes of a model in its own order, compared with those of the
    data.

    They are those in the model's file or in the config next to it. If neither names them, they are
    TRANSFER.CLASSES, or those of the training set, or, with a warning, those of
    the test set.

    Raises:
        InputError: the file is not a detector; or the data has different classes than the model,
            with both lists.
    """
    file = str(source.file)
    theirs = named_classes(read_model(source), source.file)
    by_hand, tests = tuple(cfg.TRANSFER.CLASSES), ", ".join(cfg.DATASETS.TEST)
    if theirs is None:
        classes = by_hand or _of_data(cfg)
        warn_of_unnamed(file, classes)
        return classes
    if by_hand:
        order_of(file, theirs, "TRANSFER.CLASSES", by_hand, complete=True)
    return order_of(file, theirs, tests, _of_split(cfg, theirs), complete=False)


def order_of(
    model: str, theirs: Sequence[str], data: str, ours: Sequence[str], *, complete: bool
) -> tuple[str, ...]:
    """Returns the order in which a model's data must be read: the model's own.

    Warns, once in a process, if the data has a different one.

    Args:
        model, data: how messages name them.
        theirs, ours: the names, each in its own order.
        complete: whether the data must have every class of the model; a test set may lack some.

    Raises:
        InputError: the names differ; the message has both lists.
    """
    unknown = set(ours) - set(theirs)
    if unknown or (complete and len(ours) != len(theirs)):
        raise InputError(
            f"the classes of {model} ({shown_classes(theirs)}) are not those of {data} "
            f"({shown_classes(ours)}); give the data that it was trained for, or rename the "
            "classes there"
        )
    present = [name for name in theirs if name in ours]
    if present != list(ours):
        warn_once(
            f"the classes of {data} ({shown_classes(ours)}) are in a different order than those of "
            f"{model} ({shown_classes(theirs)}); they are mapped by name"
        )
    return tuple(theirs)


def _of_split(cfg: CfgNode, theirs: Sequence[str]) -> Sequence[str]:
    """Returns the classes of the test set in its own order.

    A VOC folder has neither an order of its own nor a list: its names are those of all its files,
    and the test split may not use all of them.
    """
    names = class_names(cfg.DATASETS.TEST)
    if locate(cfg.DATASETS.TEST[0]).layout != "voc":
        return names
    samples = open_sets(cfg.DATASETS.TEST, names).samples
    used = {names[instance.category] for sample in samples for instance in sample.instances}
    return [name for name in dict.fromkeys((*theirs, *names)) if name in used]


def _of_data(cfg: CfgNode) -> tuple[str, ...]:
    """Returns the training set's classes if it is there, otherwise the test set's."""
    try:
        return class_names(cfg.DATASETS.TRAIN) if cfg.DATASETS.TRAIN else _of_test(cfg)
    except InputError:
        return _of_test(cfg)


def _of_test(cfg: CfgNode) -> tuple[str, ...]:
    classes = class_names(cfg.DATASETS.TEST)
    warn_once(
        f"DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)} cannot be found, so the classes are taken from"
        f" {', '.join(cfg.DATASETS.TEST)} ({shown_classes(classes)})"
    )
    return classes
