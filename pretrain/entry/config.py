"""Loads a pretraining config for Python: a name and changes in, a checked config out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.common.config import load_config as load_merged
from pretrain.common.config import override_words
from pretrain.defaults import get_defaults
from pretrain.engine.checks import check_config


def load_config(
    name: str | Path, overrides: Mapping[str, Any] | Sequence[Any] = (), num_processes: int = 1
) -> CfgNode:
    """Returns the merged, checked and frozen config of a pretraining run; no data is opened.

    Args:
        name: a path, or the name of a shipped config such as "mscn_r50.yaml".
        overrides: keys with their values, {"SOLVER.EPOCHS": 200}, or the KEY VALUE words of the
            command line.
        num_processes: that will share the batch.

    Raises:
        InputError: no such config, an unknown key with the names it may have meant, or values that
            do not fit each other.

    Example:
        >>> import pretrain
        >>> cfg = pretrain.load_config("mscn_r50.yaml", {"SOLVER.EPOCHS": 200})
        >>> cfg.METHOD.NAME, cfg.SOLVER.EPOCHS, cfg.VIEWS.SIZE  # pixels
        ('mscn', 200, 224)
    """
    cfg = load_merged(str(name), get_defaults(), override_words(overrides), "pretrain")
    check_config(cfg, num_processes)
    return cfg
