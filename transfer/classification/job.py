"""What a command asked for, and what its trials share."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from fvcore.common.config import CfgNode

from transfer.classification.crops import ImageTransform
from transfer.classification.splits import Split


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    protocol: str  # the config file's stem names the protocol
    weights: str  # a file, or "random"
    output: str
    name: str | None = None
    trials: int = 1
    resume: bool = False
    overrides: tuple[str, ...] = ()
    first_trial: int = 0  # those before it are another command's
    config: str = ""  # the config file itself, for whether the overrides shorten it


@dataclass(frozen=True)
class Job:
    """Everything that the trials share."""

    cfg: CfgNode
    request: Request
    train: Split
    test: Split
    transform: ImageTransform
    device: torch.device
    identity: str  # the protocol's: sha256 of the config without what moves no number
    drawn: dict[int, np.ndarray] = field(default_factory=dict)  # kshot: seed -> rows of `train`
