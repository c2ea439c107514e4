"""Reads a config file of detection or segmentation: a name and overrides in, one merged config out.

A file may be one that Detectron2 ships, or the `config.yaml` that its trainer dumped: keys that
this project does not have are read as well, held against `upstream_keys.py`, and left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.common.config import flat, load_config
from pretrain.common.errors import InputError
from pretrain.common.findings import warn_once
from pretrain.common.safe_yaml import has_inert
from transfer.detection.defaults import make_defaults
from transfer.detection.upstream_keys import ABSENT, NO_EFFECT_DEFAULTS, SAME_AS_DEFAULT

FOLDER = "detection"  # below configs/
FOREIGN = {**ABSENT, **NO_EFFECT_DEFAULTS}  # Detectron2's keys that `make_defaults` does not have


def all_defaults() -> CfgNode:
    """`make_defaults()` and the other keys of Detectron2, at its defaults."""
    cfg = make_defaults()
    for key, value in FOREIGN.items():
        *parents, last = key.split(".")
        node = cfg
        for parent in parents:
            node = node.setdefault(parent, CfgNode())
        node[last] = value
    return cfg


def load_merged(
    name: str,
    overrides: Sequence[str] = (),
    only: Mapping[str, Any] | None = None,
    one_of: Mapping[str, Collection[Any]] | None = None,
) -> CfgNode:
    """The merged, frozen config of a file or a name below configs/; values are not checked.

    A negative SEED of a file, which is unseeded in Detectron2, is read as 0 with a warning.

    Args:
        only: keys with the one value that they may have.
        one_of: keys with their known values; named only beside other keys that are refused.

    Raises:
        InputError: unknown keys, all at once; and all keys of Detectron2 at values that are not
            supported, all at once.
    """
    cfg = load_config(name, all_defaults(), overrides, folder=FOLDER, keep_inert=True)
    _check_only(cfg, {**ABSENT, **(only or {})}, one_of or {}, name)
    cfg = _without(cfg, FOREIGN)
    if cfg.SEED < 0 and "SEED" not in overrides[::2]:
        warn_once(f"{name}: SEED {cfg.SEED}, unseeded in Detectron2, is read as 0")
        cfg.SEED = 0
    cfg.freeze()
    return cfg


def _check_only(
    cfg: CfgNode, only: Mapping[str, Any], one_of: Mapping[str, Collection[Any]], name: str
) -> None:
    """Raises InputError for all keys that are not at the one value they may have, or are code."""
    values = flat(cfg)
    found = []
    for key, wanted in flat(dict(only)).items():
        value = values.pop(key)
        if value != wanted and value not in SAME_AS_DEFAULT.get(key, ()):
            foreign = key in ABSENT
            told = "a key of Detectron2 that is not supported here" if foreign else "not supported"
            found.append(f"{key} {value!r} is {told}; the only value: {wanted!r}")
    for key, value in values.items():
        if has_inert(value):
            found.append(f"{key} is {value}; write its value")
    if found:
        for key, known in one_of.items():
            if values[key] not in known:
                listed = ", ".join(map(str, known))
                found.append(f"{key} {values[key]!r} is not supported; known: {listed}")
        raise InputError(f"{name}: {'. Also: '.join(found)}")


def _without(cfg: CfgNode, keys: Mapping[str, Any]) -> CfgNode:
    """A mutable copy without the keys, and without the sections that they alone filled."""
    copy = cfg.clone()
    copy.defrost()
    for key in keys:
        *parents, last = key.split(".")
        nodes = [copy]
        for parent in parents:
            nodes.append(nodes[-1][parent])
        del nodes[-1][last]
        for parent, above, node in reversed(list(zip(parents, nodes, nodes[1:]))):
            if not node:
                del above[parent]
    return copy
