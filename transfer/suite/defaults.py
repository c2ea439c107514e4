"""Every key of a suite config, with its default."""

from __future__ import annotations

from fvcore.common.config import CfgNode


def suite_defaults() -> CfgNode:
    """Returns a new CfgNode with a suite's defaults."""
    cfg = CfgNode()
    # Pretraining runs, each a config name or {name, config, overrides: [KEY, VALUE, ...]}. Their
    # checkpoints are converted to Detectron2's format with proof, and are added to CHECKPOINTS.
    cfg.PRETRAIN = []
    # Existing weights: {name, weights}; `random` means untrained. --checkpoint adds more.
    cfg.CHECKPOINTS = []
    # {name, command: det | cls, config, overrides: [...], trials: 1, checkpoints: [names] (all),
    # head: a task}. A task with `head` scores, for each checkpoint, the heads that this task of the
    # protocol `linear` or `linear_crops` has trained (a robustness_*.yaml).
    # A learning-rate sweep is a task with the override TRANSFER.LR_SWEEP.RATES: a different
    # protocol, which the records name.
    cfg.TASKS = []
    return cfg
