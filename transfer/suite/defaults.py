"""Every key of a suite config, with its default."""

from __future__ import annotations

from fvcore.common.config import CfgNode


def suite_defaults() -> CfgNode:
    """A fresh CfgNode of a suite's defaults."""
    cfg = CfgNode()
    # Pretraining runs, each a config name or {name, config, overrides: [KEY, VALUE, ...]}; their
    # checkpoints are converted to Detectron2's format with proof, and join CHECKPOINTS.
    cfg.PRETRAIN = []
    # Weights that exist: {name, weights}; `random` is untrained. --checkpoint adds more.
    cfg.CHECKPOINTS = []
    # {name, command: det | cls, config, overrides: [...], trials: 1, checkpoints: [names] (all)}.
    # A learning-rate sweep is a task with the override TRANSFER.LR_SWEEP.RATES: a protocol of its
    # own, which the records name.
    cfg.TASKS = []
    return cfg
