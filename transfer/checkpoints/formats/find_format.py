"""Finds a file's format: the first one of the table that fits, or the one that is asked for."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, TypeGuard

from pretrain.common.errors import InputError
from pretrain.common.lookup import find
from transfer.checkpoints.formats.all_formats import FORMATS
from transfer.checkpoints.formats.generic import GENERIC, find_generic, flatten, trunks
from transfer.checkpoints.formats.key_format import Found, match
from transfer.checkpoints.formats.refused_networks import made_from, refuse_networks
from transfer.checkpoints.formats.timm_convnets import NAMED, find_named
from transfer.checkpoints.formats.unwrap import unwrap
from transfer.checkpoints.readers.not_weights import zero3_remedy
from transfer.checkpoints.readers.raw import RawFile


def find_format(
    raw: RawFile, source: str = "auto", prefix: str | None = None, backbone: str | None = None
) -> Found:
    """Returns the format of a file, detected or forced, with its flat tensors.

    Args:
        source: "auto", or a name of `FORMATS`.
        prefix: the trunk's prefix; if it is given, the file is read as format `generic`.
        backbone: the name of a network for which `timm_convnets.is_timm_convnet` is true, if one is
            known.

    Raises:
        InputError: unknown source, no format fits, or the tensors are none.
    """
    _refuse_zero3(raw)
    if prefix is not None and source not in ("auto", GENERIC.name):
        raise InputError(f"--prefix is for the format {GENERIC.name}, not for {source}")
    auto = prefix is None and source == "auto"
    if backbone is not None and prefix is None and source in ("auto", NAMED.name):
        plain = unwrap(raw.content)
        if raw.kind in NAMED.kinds and (found := find_named(plain.content, backbone)) is not None:
            return replace(found, notes=(*plain.notes(), *found.notes))
    refused = _refusal(_all_names(raw.content)) if auto else None
    if refused is not None:
        return _beside_refused(raw, refused)
    if prefix is None and source != GENERIC.name and (found := _by_table(raw, source)):
        return found
    if prefix is not None or source in ("auto", GENERIC.name):
        plain = unwrap(raw.content, keep_first=False)
        found = find_generic(raw.content, plain.content, prefix, other=_other(raw) is not None)
        if found is not None:
            return replace(found, notes=plain.notes())
    wanted_text = (
        "in none of the known formats" if source == "auto" else f"not in {source}'s format"
    )
    raise InputError(f"{wanted_text}: {_describe(raw)}")


def _refusal(names: Collection[str]) -> InputError | None:
    """Returns why a network with these names is not read, if it only looks like a known one."""
    try:
        refuse_networks(names)
    except InputError as error:
        return error
    return None


def _beside_refused(raw: RawFile, refused: InputError) -> Found:
    """Returns the complete trunk of a file that has a refused network in a different place.

    Raises:
        InputError: `refused` if the file has no such trunk, otherwise why the trunk is refused.
    """
    plain = unwrap(raw.content, keep_first=False)
    try:
        found = find_generic(raw.content, plain.content, None, other=True)
    except InputError as error:
        tensors = flatten(plain.content)
        whole = tuple(one.prefix for one in trunks(tensors) if one.part == 1)
        if whole and not _refusal([name for name in tensors if name.startswith(whole)]):
            raise error from refused
        raise refused from error
    if found is None or _refusal([n for n in found.tensors if n.startswith(found.prefix)]):
        raise refused
    return replace(found, notes=plain.notes())


def _refuse_zero3(raw: RawFile) -> None:
    """Raises InputError for one process's file of DeepSpeed's ZeRO 3, whose tensors are empty."""
    module = raw.content.get("module")
    tensors = [v for v in module.values() if hasattr(v, "numel")] if _is_map(module) else []
    floats = [tensor for tensor in tensors if tensor.dim() or not tensor.numel()]
    empty = bool(floats) and not any(tensor.numel() for tensor in floats)
    state = raw.content.get("optimizer_state_dict")
    if empty or (_is_map(state) and {"zero_stage", "partition_count"} & state.keys()):
        raise InputError(f"it is {zero3_remedy(raw.path)}")


def _is_map(value: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)


def _by_table(raw: RawFile, source: str) -> Found | None:
    """Returns the first format of the table that fits."""
    if source == "auto":
        wanted = [entry for entry in FORMATS.values() if not entry.forced]
    else:
        wanted = [find(source, FORMATS, "source")]
    wanted = [e for e in wanted if raw.kind in e.kinds and e is not GENERIC]
    for keep_first in (True, False):
        plain = unwrap(raw.content, keep_first)
        if not keep_first and not plain.removed:
            break
        for entry in wanted:
            if (found := match(entry, plain.content)) is not None:
                return replace(found, notes=plain.notes())
    return None


def _all_names(content: Mapping[str, Any], depth: int = 2) -> list[str]:
    """Returns the names in a file and in the mappings in it, down to a depth."""
    names = [str(name) for name in content]
    inner = [value for value in content.values() if isinstance(value, Mapping)]
    return names + [n for value in inner if depth for n in _all_names(value, depth - 1)]


_OTHERS = (
    (
        r"(.*\.)?layer\d\.\d+\.shortcut\.0\.weight",
        "a ResNet for small images (lightly's ResNetGenerator, SupContrast on CIFAR)",
    ),
    (
        r"(.*\.)?3\.0\.conv1\.weight",
        "a ResNet without pooling after its stem, for small images (SimCLR for CIFAR)",
    ),
    (r"(.*\.)?embeddings\.(cls_token|patch_embeddings\..*)", "a ViT of Hugging Face transformers"),
    (r"(.*\.)?encoder\.layers\.encoder_layer_\d.*", "torchvision's ViT"),
    (r"trainable_variables_list/.*", "a TensorFlow SavedModel, whose names are numbers"),
    (r"conv1_w", "Caffe2's, of a different network or damaged"),
    (r"(module\.)?encoder1\..*", "CMC's two half networks"),
    (r"(.*\.)?fc_norm\..*", "a part of a ViT that was fine-tuned on the mean of its patches"),
)


def _describe(raw: RawFile) -> str:
    """Returns what the file looks like, for the message."""
    other = _no_network(raw.content) or made_from(_all_names(raw.content)) or _other(raw)
    if other is not None:
        return other
    inner_key, inner = _inner(raw.content)
    names = [str(name) for name in raw.content]
    more = f", below {inner_key} {', '.join(list(map(str, inner))[:3])}" if inner else ""
    return f"its keys begin {', '.join(names[:4]) or '(none)'}{more}{_alone(raw)}"


def _other(raw: RawFile) -> str | None:
    """Returns what kind of unsupported file it is; None if it is not of a known kind."""
    if raw.content.get("type") in ("shard", "shard_list", "slice", "slice_list"):
        return "a part of a VISSL checkpoint in shards; consolidate it with VISSL first"
    what = _other_network(raw.content)
    return what and f"its keys look like {what}"


def what_else(content: Mapping[str, Any]) -> str | None:
    """Returns what a file without a format holds: an unsupported network, or a changed one."""
    if made := made_from(_all_names(content)):
        return made
    what = _other_network(content)
    return what and f"its keys look like {what}"


def _other_network(content: Mapping[str, Any]) -> str | None:
    """Returns the known, but unsupported network that has a file's names; None for all others."""
    below = [*map(str, content), *map(str, _inner(content)[1])]
    for pattern, what in _OTHERS:
        if any(re.fullmatch(pattern, name) for name in below):
            return what
    return None


def _no_network(content: Mapping[str, Any]) -> str | None:
    """Returns what a file without a network's tensors holds; None if it may hold a network."""
    if flatten(content):
        return None
    states = [key for key, value in content.items() if _is_map(value) and "param_groups" in value]
    if "param_groups" in content or states:
        what = "only the state of an optimizer, no network"
    else:
        what = "no tensors with names"
    keys = ", ".join(map(str, list(content)[:4])) or "none"
    return f"it holds {what} (its keys: {keys}); give the file that has the network's weights"


def _inner(content: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Returns the first mapping that is large enough to be a network's, and its key."""
    for key, value in content.items():
        if isinstance(value, Mapping) and len(value) > 4:
            return str(key), value
    return "", {}


def _alone(raw: RawFile) -> str:
    """Returns three statements of Python that save a torch file's backbone alone."""
    if raw.kind != "torch":
        return ""
    key, inner = _inner(raw.content)
    names = [str(name) for name in inner or raw.content]
    head = next((name.partition(".")[0] + "." for name in names if "." in name), "backbone.")
    below = f"[{key!r}]" if inner else ""
    return (
        "; if a known backbone is inside, save it alone, with the right key and prefix: "
        f"import torch; state = torch.load({raw.path.name!r}, map_location='cpu'){below}; "
        f"torch.save({{k.removeprefix({head!r}): v for k, v in state.items() "
        f"if k.startswith({head!r})}}, 'backbone.pth')"
    )
