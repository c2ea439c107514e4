"""Loads, merges, checks and completes configs of detection and segmentation; a protocol's identity.

A file may be one of ours, one that Detectron2 ships, or the `config.yaml` that its trainer dumped:
keys that this project does not have are read as well, compared with `upstream_keys.py`, and left
out. Three sources complete a config: the data set (number of classes), the weights (pixel
statistics, channel order, stride) and the command (output, seed). Each `with_*` function returns a
new frozen config; the protocol's identity is that of the config before the weights' facts enter, so
that checkpoints can be compared under one protocol.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fvcore.common.config import CfgNode

from pretrain.common.config import flat, load_config
from pretrain.common.config_values import Items, declare_lists, declared_lists
from pretrain.common.errors import InputError
from pretrain.common.findings import warn_once
from pretrain.common.safe_yaml import has_inert
from pretrain.data.preprocess import Preprocess
from transfer.datasets.checks_before_training import check_masks, check_trainable
from transfer.datasets.keypoint_checks import check_keypoints
from transfer.detection.config_checks import NAMES, check, value_of
from transfer.detection.defaults import make_defaults
from transfer.detection.roles import ROLES
from transfer.detection.torchvision_engine.architectures import is_timm, is_vit
from transfer.detection.torchvision_engine.meta_architectures import NUM_CLASSES, find_spec
from transfer.detection.upstream_keys import ABSENT, NO_EFFECT_DEFAULTS, ONLY, SAME_AS_DEFAULT

if TYPE_CHECKING:
    from transfer.datasets.samples import DetectionSet

logger = logging.getLogger(__name__)

FOLDER = "detection"  # below configs/
FOREIGN = {**ABSENT, **NO_EFFECT_DEFAULTS}  # Detectron2's keys that `make_defaults` does not have


def load_detection_config(
    name: str, overrides: Sequence[str] = (), *, needs_data: bool = True
) -> CfgNode:
    """Returns the merged, frozen, checked config of a file or a name below configs/.

    Raises InputError for unknown keys and for values that this project does not support.

    Args:
        needs_data: False: DATASETS.TEST may be empty, since no data set is scored.
    """
    cfg = load_merged(name, overrides, ONLY, NAMES)
    check(cfg, name, needs_data=needs_data)
    return cfg


def all_defaults() -> CfgNode:
    """Returns `make_defaults()` and all other keys of Detectron2, at its defaults."""
    cfg = make_defaults()
    for key, value in FOREIGN.items():
        *parents, last = key.split(".")
        node = cfg
        for parent in parents:
            node = node.setdefault(parent, CfgNode())
        node[last] = value
    declare_lists(cfg, {**declared_lists(cfg), "TEST.EXPECTED_RESULTS": Items(object)})
    return cfg


def load_merged(
    name: str,
    overrides: Sequence[str] = (),
    only: Mapping[str, Any] | None = None,
    one_of: Mapping[str, Collection[Any]] | None = None,
) -> CfgNode:
    """Returns the merged, frozen config of a file or a name below configs/; values are not checked.

    A negative SEED of a file, which is unseeded in Detectron2, is read as 0 with a warning.

    Args:
        only: keys with the one value that they may have.
        one_of: keys with their known values; named only if other keys are refused too.

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
    """Raises InputError for all keys that do not have the only value they may have, or are code."""
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
    """Returns a mutable copy without the keys, and without sections that are then empty."""
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


def default_weights(name: str, overrides: Sequence[str] = ()) -> str:
    """Returns the weights that MODEL.WEIGHTS of a config names, for a command without --weights.

    Raises InputError if it names nothing.
    """
    found = load_merged(name, overrides).MODEL.WEIGHTS
    if not found:
        raise InputError(
            f"--weights is missing, and MODEL.WEIGHTS of {name} is empty: give a checkpoint, or "
            "`random`"
        )
    return found


def protocol_name(cfg: CfgNode, config: str) -> str:
    """Returns the name of the protocol in records: TRANSFER.PROTOCOL, or the config file's stem."""
    return cfg.TRANSFER.PROTOCOL or Path(config).stem


def protocol_sha256(cfg: CfgNode) -> str:
    """Returns the identity of the protocol as 64 hexadecimal digits."""
    return ROLES.sha256(cfg)


def backbone_name(cfg: CfgNode) -> str:
    """Returns the trunk's name in pretrain.backbones, or timm's, e.g. "resnet50"."""
    return find_spec(cfg.MODEL.META_ARCHITECTURE).from_config(cfg).backbone_name


def with_data(cfg: CfgNode, train_set: DetectionSet) -> CfgNode:
    """Sets NUM_CLASSES from the data for `voc:` and `coco:` names; for others a mismatch is an
    error.

    Also raises InputError if the data set has no masks or keypoints but they are required, if its
    masks have a different form than MASK_FORMAT says, and if no image has an object to train on.
    """
    cfg = with_num_classes(cfg, len(train_set.classes), cfg.DATASETS.TRAIN)
    check_trainable(train_set)
    if cfg.MODEL.KEYPOINT_ON:
        check_keypoints(train_set, mirrored=cfg.INPUT.RANDOM_FLIP == "horizontal")
    if cfg.MODEL.MASK_ON:
        check_masks(train_set, "annotate or remove them, or set MODEL.MASK_ON False")
    if cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon" and train_set.has_run_lengths():
        raise InputError(
            f"some masks of {train_set.name} are run lengths, not polygons; set INPUT.MASK_FORMAT "
            "bitmask"
        )
    return cfg


def with_num_classes(cfg: CfgNode, found: int, names: Sequence[str]) -> CfgNode:
    """Sets NUM_CLASSES to `found`; for built-in data sets a mismatch is an InputError.

    Args:
        names: names of the data sets that have these classes.
    """
    key = NUM_CLASSES[cfg.MODEL.META_ARCHITECTURE]
    wanted = value_of(cfg, key)
    builtin = [name for name in names if ":" not in name]
    if builtin and found != wanted:
        raise InputError(
            f"{key} is {wanted}, but {', '.join(builtin)} has {found} classes; set it to this"
        )
    if found == wanted:
        return cfg
    return changed(cfg, {key: found})


def with_preprocess(
    cfg: CfgNode,
    preprocess: Preprocess,
    architecture: Mapping[str, Any] = MappingProxyType({}),
    positions: int = 0,
) -> CfgNode:
    """Sets the pixel statistics and channel order of the weights, and where their bottlenecks
    stride.

    Args:
        architecture: see `transfer.checkpoints.weights.Weights`.
        positions: the shape of a ViT's `pos_embed` (1, positions, width).

    Warns if the config says something different: the weights decide, since they were trained so.
    """
    low, high = preprocess.value_range
    scale = 255.0 / (high - low)
    facts: dict[str, Any] = {
        "INPUT.FORMAT": preprocess.channel_order,
        "MODEL.PIXEL_MEAN": [round((mean - low) * scale, 6) for mean in preprocess.mean],
        "MODEL.PIXEL_STD": [round(std * scale, 6) for std in preprocess.std],
    }
    if is_vit(cfg):
        heads = architecture.get("num_heads", cfg.TRANSFER.VIT.HEADS)
        facts |= vit_facts(cfg, positions, heads)
    elif not is_timm(cfg):
        facts["MODEL.RESNETS.STRIDE_IN_1X1"] = bool(architecture.get("stride_in_1x1"))
    for key, value in facts.items():
        if value_of(cfg, key) != value:
            logger.warning(
                "%s %s of the config is replaced by %s, with which the weights were trained",
                key,
                value_of(cfg, key),
                value,
            )
    if architecture.get("padding"):
        logger.warning(
            "these weights were trained with TensorFlow's padding; but a detector pads as torch"
            " does, which changes their features a little (tools/convert_weights.py --check says"
            " how much)"
        )
    return changed(cfg, facts)


def vit_facts(cfg: CfgNode, positions: int, heads: int) -> dict[str, int]:
    """Returns the keys that a ViT's weights decide, with their values.

    Args:
        positions: number of positions of the weights' `pos_embed`, with the class token's.
    """
    side = math.isqrt(max(positions - 1, 0)) * cfg.TRANSFER.VIT.PATCH_SIZE
    return {"TRANSFER.VIT.PRETRAIN_IMAGE_SIZE": side, "TRANSFER.VIT.HEADS": heads}


def preprocess_of(cfg: CfgNode) -> Preprocess:
    """Returns what the config itself says about pixels, for weights that do not say it."""
    mean, std = tuple(cfg.MODEL.PIXEL_MEAN), tuple(cfg.MODEL.PIXEL_STD)
    return Preprocess(mean, std, cfg.INPUT.FORMAT, (0.0, 255.0))


def changed(cfg: CfgNode, values: Mapping[str, Any]) -> CfgNode:
    """Returns a frozen copy with some keys ("A.B.C") replaced."""
    copy = cfg.clone()
    copy.defrost()
    for key, value in values.items():
        *parents, last = key.split(".")
        node = copy
        for parent in parents:
            node = node[parent]
        node[last] = value
    copy.freeze()
    return copy
