"""Which classes a trained detector is scored on, without its training set if that is possible.

In: a config and a whole detector's file. Out: the names of the classes in the detector's order.
"""

from __future__ import annotations

from collections.abc import Sequence

from fvcore.common.config import CfgNode

from pretrain.common.errors import InputError
from pretrain.common.findings import warn_once
from transfer.checkpoints.opened import OpenedWeights
from transfer.datasets.registry import class_names, locate, open_sets
from transfer.detection.weights.class_names import order_of, shown, warn_of_unnamed
from transfer.detection.weights.config_beside import named_classes
from transfer.training.files import read_model


def classes_to_score(cfg: CfgNode, source: OpenedWeights) -> tuple[str, ...]:
    """The names of the classes of a model in its own order, held against those of the data.

    They are those in the model's file or in the config beside it. Where neither names them, they
    are taken to be TRANSFER.CLASSES, else those of the training set, else, with a warning, those of
    the test set.

    Raises:
        InputError: no detector; or the data has other classes than the model, with both lists.
    """
    file = source.file
    theirs = named_classes(read_model(source), file)
    by_hand, tests = tuple(cfg.TRANSFER.CLASSES), ", ".join(cfg.DATASETS.TEST)
    if theirs is None:
        classes = by_hand or _of_data(cfg)
        warn_of_unnamed(str(file), classes)
        return classes
    if by_hand:
        order_of(str(file), theirs, "TRANSFER.CLASSES", by_hand, whole=True)
    return order_of(str(file), theirs, tests, _of_split(cfg, theirs), whole=False)


def _of_split(cfg: CfgNode, theirs: Sequence[str]) -> Sequence[str]:
    """The classes of the test set in its own order.

    A VOC folder has neither an order of its own nor a list: its names are those of all its files,
    of which the test split may not use some.
    """
    names = class_names(cfg.DATASETS.TEST)
    if locate(cfg.DATASETS.TEST[0]).layout != "voc":
        return names
    samples = open_sets(cfg.DATASETS.TEST, names).samples
    used = {names[instance.category] for sample in samples for instance in sample.instances}
    return [name for name in dict.fromkeys((*theirs, *names)) if name in used]


def _of_data(cfg: CfgNode) -> tuple[str, ...]:
    """The training set's classes if it is there, else the test set's."""
    try:
        return class_names(cfg.DATASETS.TRAIN) if cfg.DATASETS.TRAIN else _of_test(cfg)
    except InputError:
        return _of_test(cfg)


def _of_test(cfg: CfgNode) -> tuple[str, ...]:
    classes = class_names(cfg.DATASETS.TEST)
    warn_once(
        f"DATASETS.TRAIN {tuple(cfg.DATASETS.TRAIN)} is not there: the classes are those of "
        f"{', '.join(cfg.DATASETS.TEST)} ({shown(classes)})"
    )
    return classes
