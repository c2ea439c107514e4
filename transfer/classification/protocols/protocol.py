"""What a classification protocol is: a check of a config and its data, and the score of a trial.

A check opens the data sets and refuses what the protocol cannot work with before anything is
computed. A score gets a trial, and cached features if the protocol works on them. Both read the
config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode

from pretrain.common.errors import InputError
from transfer.checkpoints.weights import Weights
from transfer.classification.crops import ImageTransform
from transfer.classification.features.extract import Features
from transfer.classification.score import Score
from transfer.classification.splits import Split, open_splits


@dataclass(frozen=True)
class Data:
    """The images of a protocol's trials, as its check left them.

    Attributes:
        train: the training images that the protocol uses, perhaps not all of DATASETS.TRAIN.
        test: the test images.
        identity: the config whose sha256 is the protocol's identity.
        drawn: for protocols that draw training images: seed of a trial -> numbers of its images.
    """

    train: Split
    test: Split
    identity: CfgNode
    drawn: Mapping[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """One trial of a protocol on one checkpoint.

    Attributes:
        cfg: the config as it is recorded.
        identity: the protocol's sha256.
        weights: of the backbone.
        train, test, drawn: see `Data`.
        transform: how a test image becomes a crop; a training image too if features are used.
        seed: of all that is drawn in this trial.
        folder: of the trial's files.
        resume: whether training continues from what is in the folder.
        begin_folder: marks the folder as this run's; called once the images are known to be read.
    """

    cfg: CfgNode
    identity: str
    weights: Weights
    train: Split
    test: Split
    transform: ImageTransform
    device: torch.device
    seed: int
    folder: Path
    resume: bool
    begin_folder: Callable[[], None]
    drawn: Mapping[int, np.ndarray] = field(default_factory=dict)


# Opens and checks the data of a config for a number of trials; raises InputError
Check = Callable[[CfgNode, int], Data]


@dataclass(frozen=True)
class OnFeatures:
    """A protocol on cached features of a frozen backbone, scored by the first process alone.

    Attributes:
        names: values of PROTOCOL.NAME.
        score: a trial, the features of the training and of the test images -> the result.
    """

    names: tuple[str, ...]
    check: Check
    score: Callable[[Trial, Features, Features], Score]


@dataclass(frozen=True)
class Training:
    """A protocol that trains a network on the images; every process takes part in its score."""

    names: tuple[str, ...]
    check: Check
    score: Callable[[Trial], Score]


def open_labelled(cfg: CfgNode) -> Data:
    """Opens the splits of a protocol on images with one label; raises InputError."""
    sets = cfg.DATASETS
    limits = (sets.LIMIT_PER_CLASS, sets.TEST_LIMIT_PER_CLASS)
    return Data(*open_splits(sets.TRAIN, sets.TEST, *limits), identity=cfg)


def check_counts(key: str, values: Sequence[float], what: str) -> None:
    """Raises InputError unless a key lists whole numbers of 1 or more; `what` says of what."""
    if not values or not all(isinstance(value, int) and value >= 1 for value in values):
        raise InputError(f"{key} {tuple(values)} must list {what} of 1 or more")


def arrays(bank: Features, queries: Features) -> tuple[np.ndarray, ...]:
    """Returns values and labels of the training images, then of the test images, for sklearn."""
    return tuple(
        tensor.numpy() for part in (bank, queries) for tensor in (part.values.float(), part.labels)
    )
