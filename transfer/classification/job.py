"""What the trials of a classification protocol share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from transfer.checkpoints.weights import Weights
from transfer.classification.crops import ImageTransform
from transfer.classification.features.extract import Extracted
from transfer.classification.splits import Split
from transfer.trials.task import Job, Trial


@dataclass
class KeptFeatures:
    """The features of the trial before, which serve the next one if its weights are the same."""

    extracted: Extracted | None = None


@dataclass(frozen=True)
class ClassificationJob(Job[Split]):
    """Everything that the trials share.

    Attributes:
        transform: how a test image becomes a crop; a training image too if features are used.
        device: of features and of training.
        identity: the protocol's sha256.
        drawn: for protocols that draw training images: seed of a trial -> numbers of its images.
        kept: what one trial leaves to the next.
    """

    transform: ImageTransform
    device: torch.device
    identity: str
    drawn: Mapping[int, np.ndarray] = field(default_factory=dict)
    kept: KeptFeatures = field(default_factory=KeptFeatures)

    def begin_folder(self, trial: Trial, weights: Weights) -> None:
        """Marks a trial's folder as this run's; called once the images are known to be readable."""
        trial.log_to_folder()
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.SEED, cfg.OUTPUT_DIR = trial.seed, str(trial.folder)
        trial.write_config(cfg, weights)
