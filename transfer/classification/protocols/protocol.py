"""What a classification protocol is: a check of a config and its data, and the score of a trial.

A check opens the data sets and raises an error for anything that the protocol cannot use, before
anything is computed. A score is the result of one trial, either on cached features or of a network
that the protocol trains. Both read the config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from fvcore.common.config import CfgNode

from pretrain.common.errors import InputError
from transfer.checkpoints.weights import Weights
from transfer.classification.crops import ImageTransform
from transfer.classification.defaults import reads
from transfer.classification.features.extract import Extracted, Features
from transfer.classification.score import Score
from transfer.classification.splits import Split, open_object_splits, open_splits
from transfer.classification.trained_head import HeadOfTrial
from transfer.trials.task import Job, Trial


@dataclass
class KeptFeatures:
    """Holds the features of the previous trial, which the next trial uses if its weights are the
    same.
    """

    extracted: Extracted | None = None


@dataclass(frozen=True)
class ClassificationJob(Job[Split]):
    """Holds everything that all trials share.

    Attributes:
        transform: how a test image becomes a crop; also a training image if features are used.
        device: device of feature extraction and of training.
        identity: the protocol's sha256.
        drawn: for protocols that draw training images: the indices of a trial's images, by its
            seed.
        kept: what one trial passes to the next.
        heads: for protocols of trained heads: those of the trials, as `Data` has them.
    """

    transform: ImageTransform
    device: torch.device
    identity: str
    drawn: Mapping[int, np.ndarray] = field(default_factory=dict)
    kept: KeptFeatures = field(default_factory=KeptFeatures)
    heads: Sequence[HeadOfTrial] = ()

    def begin_folder(self, trial: Trial, weights: Weights) -> None:
        """Marks a trial's folder as this run's; called once the images are known to be readable."""
        trial.log_to_folder()
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.SEED, cfg.OUTPUT_DIR = trial.seed, str(trial.folder)
        trial.write_config(cfg, weights, self)


@dataclass(frozen=True)
class Data:
    """Holds the images of a protocol's trials, as its check returns them.

    Attributes:
        train: the training images that the protocol uses, perhaps not all of DATASETS.TRAIN.
        test: the test images.
        identity: the config whose sha256 is the protocol's identity.
        drawn: for protocols that draw training images: the indices of a trial's images, by its
            seed.
        drawn_from: the images from which they are drawn; None: the protocol draws none.
        heads: for protocols of trained heads: that of each trial, by the trial's number.
    """

    train: Split
    test: Split
    identity: CfgNode
    drawn: Mapping[int, np.ndarray] = field(default_factory=dict)
    drawn_from: Split | None = None
    heads: Sequence[HeadOfTrial] = ()


# Opens and checks the data of a config for a number of trials; raises InputError. Without trials, a
# protocol of trained heads opens the images alone: a suite has yet to train the heads.
Check = Callable[[CfgNode, int], Data]


@dataclass(frozen=True)
class OnFeatures:
    """Is a protocol on cached features of a frozen backbone; only the first process scores it.

    Attributes:
        names: values of PROTOCOL.NAME.
        check: see `Check`.
        score: scores the features of the training and of the test images; the last argument is
            the trial's seed.
    """

    names: tuple[str, ...]
    check: Check
    score: Callable[[ClassificationJob, Features, Features, int], Score]


@dataclass(frozen=True)
class Training:
    """Is a protocol that trains a network on the images; all processes compute its score together.

    Attributes:
        names: values of PROTOCOL.NAME.
        check: see `Check`.
        score: trains from the weights of a trial and scores the result.
    """

    names: tuple[str, ...]
    check: Check
    score: Callable[[ClassificationJob, Trial, Weights], Score]


@dataclass(frozen=True)
class OfTrainedHead:
    """Is a protocol that trains nothing: it scores heads that an earlier run has trained.

    It extracts the features of the test images itself, and only these. All processes call it, but
    only the first one gets metrics.

    Attributes:
        names: values of PROTOCOL.NAME.
        check: see `Check`.
        score: scores the head of a trial on the features of its weights.
    """

    names: tuple[str, ...]
    check: Check
    score: Callable[[ClassificationJob, Trial, Weights], Score]


def check_shared_keys(cfg: CfgNode) -> None:
    """Raises InputError for bad values of the keys that all protocols have."""
    loader, images = cfg.DATALOADER, cfg.QUALITY.IMAGES
    if cfg.SEED < 0:
        raise InputError(f"SEED {cfg.SEED} must be 0 or more")
    if cfg.REPLICATES < 0:
        raise InputError(f"REPLICATES must be 0 or above, got {cfg.REPLICATES}")
    if images < 0:
        raise InputError(f"QUALITY.IMAGES {images} must be 0 (no features/*) or more")
    if cfg.PROTOCOL.GRAY and reads(cfg, "TRAIN"):
        raise InputError(
            f"PROTOCOL.GRAY True is only for protocols on frozen features, but {cfg.PROTOCOL.NAME} "
            "trains on random crops in colour; set it to False, or PROTOCOL.NAME to linear"
        )
    if loader.BATCH_SIZE < 1 or loader.NUM_WORKERS < 0:
        raise InputError(
            f"DATALOADER.BATCH_SIZE {loader.BATCH_SIZE} must be 1 or more, DATALOADER.NUM_WORKERS "
            f"{loader.NUM_WORKERS} 0 or more"
        )


def open_labelled(cfg: CfgNode) -> Data:
    """Opens the splits of a protocol on images with one label; raises InputError."""
    sets = cfg.DATASETS
    limits = (sets.LIMIT_PER_CLASS, sets.TEST_LIMIT_PER_CLASS)
    return Data(*open_splits(sets.TRAIN, sets.TEST, *limits), identity=cfg)


def open_objects(cfg: CfgNode) -> Data:
    """Opens the splits of a protocol on images with several labels, the classes of their objects.

    Raises InputError, also for a limit of the images per class: an image counts for several.
    """
    sets = cfg.DATASETS
    for key in ("LIMIT_PER_CLASS", "TEST_LIMIT_PER_CLASS"):
        if sets[key]:
            raise InputError(
                f"DATASETS.{key} {sets[key]} is for images with one label each, but those of "
                f"{sets.TRAIN} have several; set it to 0, or name a list of fewer images, such as "
                "voc:FOLDER:SPLIT"
            )
    return Data(*open_object_splits(sets.TRAIN, sets.TEST), identity=cfg)


def check_counts(key: str, values: Sequence[float], what: str) -> None:
    """Raises InputError unless a key lists whole numbers of 1 or more; `what` names them."""
    if not values or not all(isinstance(value, int) and value >= 1 for value in values):
        raise InputError(f"{key} {tuple(values)} must list {what} of 1 or more")


def arrays(bank: Features, queries: Features) -> tuple[np.ndarray, ...]:
    """Returns values and labels of the training images, then of the test images, for sklearn."""
    return tuple(
        tensor.numpy() for part in (bank, queries) for tensor in (part.values.float(), part.labels)
    )
