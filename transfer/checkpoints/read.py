"""Reads any supported weights file into canonical `Weights`, with an account of every key.

`formats/` recognises the file, `unmatched_keys.py` sorts its keys, and what the file, its place and
its `transfer` facts say is joined here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.backbones.resnet import BACKBONES
from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.attention_heads import given_heads, heads_of
from transfer.checkpoints.build import build_trunk
from transfer.checkpoints.files import RANDOM, Source, source_stem
from transfer.checkpoints.formats.find_format import find_format
from transfer.checkpoints.formats.huggingface_vit import HUGGING_FACE_VITS
from transfer.checkpoints.formats.key_format import RELEASED, Found
from transfer.checkpoints.formats.ours import OURS
from transfer.checkpoints.networks.architectures import is_read, named_look_alike
from transfer.checkpoints.networks.convnext import said_of
from transfer.checkpoints.networks.timm_convnets import is_timm_convnet
from transfer.checkpoints.odd_values import check_values
from transfer.checkpoints.opened import OpenedWeights, as_opened
from transfer.checkpoints.provenance import Facts
from transfer.checkpoints.readers.raw import RawFile
from transfer.checkpoints.unmatched_keys import find_explained, sort_keys
from transfer.checkpoints.weights import (
    COUNTER,
    KeyAccount,
    Weights,
    check_facts,
    default_name,
    make_provenance,
    parse_facts,
)


@dataclass(frozen=True)
class Reading:
    """Holds weights together with their source, which the proof needs.

    Attributes:
        file: the local file; found: its format, and its unchanged names and tensors.
    """

    weights: Weights
    file: Path
    found: Found


def read_weights(
    path: str | Path | OpenedWeights,
    source: str = "auto",
    backbone: str | None = None,
    seed: int = 0,
    trust: bool = False,
    prefix: str | None = None,
    num_heads: int | None = None,
) -> Weights:
    """Reads the trunk of any supported file.

    `print(weights.account.lines())` says what happened to every key of the file, and
    `weights.warnings` what you should know before you trust the weights.

    Args:
        path: a file, a folder that save_pretrained wrote, a URL, "timm:resnet50.a1_in1k",
            "torchvision:resnet50/IMAGENET1K_V2" or "hf-hub:org/name", opened already or not; or
            "random": the untrained backbone (`backbone` and `seed` say which).
        source: a format of `formats.all_formats.FORMATS`, or "auto" to detect it from the content.
        backbone: what the weights must be; None takes what the file holds. A network of timm that
            its tensors do not identify is read if this or the file names it.
        trust: reads pickles without restrictions, which can run code from the file.
        prefix: prefix of the trunk's names; the file is then read as format `generic`.
        num_heads: number of a ViT's attention heads, which its tensors do not show; None takes what
            the file states, or else the usual number of its width.

    Raises:
        InputError: unreadable, unknown, incomplete, or with keys that no rule explains.

    Example:
        >>> import torch, torchvision, transfer
        >>> torch.save(torchvision.models.resnet18().state_dict(), "resnet18.pth")
        >>> weights = transfer.read_weights("resnet18.pth")
        >>> weights.backbone, weights.preprocess.channel_order, len(weights.sha256)
        ('resnet18', 'RGB', 64)
        >>> weights.account.lines()[0]
        '120 of 120 expected tensors used'
    """
    opened = as_opened(path, trust)
    if opened.is_random:
        return random_weights(backbone, seed)
    return read(opened, source, backbone, prefix=prefix, num_heads=num_heads).weights


def random_weights(backbone: str | None, seed: int) -> Weights:
    """Returns an untrained backbone, drawn from a seed; torch's global generator is not changed.

    Raises:
        InputError: the backbone is missing or unknown.
    """
    if backbone is None:
        raise InputError(
            "weights 'random' need a backbone; name one, such as BACKBONE.NAME resnet50"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = build_trunk(backbone, {}).state_dict()
    known = {"name": f"random_{backbone}", "source": RANDOM, "method": RANDOM, "epochs": 0}
    provenance = make_provenance(**known, pretrain_seed=seed)
    return Weights(state, backbone, Preprocess(), provenance, proof=RANDOM)


def read(
    path: str | Path | OpenedWeights,
    source: str = "auto",
    backbone: str | None = None,
    trust: bool = False,
    prefix: str | None = None,
    num_heads: int | None = None,
) -> Reading:
    """Works like `read_weights` for a file or a remote source, but returns the source as well.

    Raises InputError for the same files.
    """
    opened = as_opened(path, trust)
    path, place, raw = opened.source, opened.place, opened.raw
    try:
        travelling = parse_facts(raw.facts)
        named = _named(raw, place, travelling, backbone)
        found, keys = find_explained(find_format(raw, source, prefix, named), source, path)
        facts = found.format.beside(place.file, found.format.facts(found.content))
        facts = _with_place(facts, place)
        if travelling is not None:
            facts = _merge(facts, travelling)
        check_facts(facts.known, facts.architecture, facts.backbone)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    _check_declared(facts.backbone, path)
    account, state, name = keys or sort_keys(found, path)
    _check_agrees(facts.backbone, name, path)
    if backbone is not None and backbone != name:
        raise InputError(f"{path} is a {name}, but a {backbone} is needed")
    warnings = (*facts.warnings, *_casts(found.tensors, account), *said_of(found.layout.fills))
    warnings = (*warnings, *check_values(state, path))
    said = facts.backbone is not None or found.format.evidence == RELEASED
    if not said and named is None and backbone is None:
        warnings = (*warnings, *_look_alike(path, name))
    known = {"source": found.format.name, "file_sha256": raw.sha256, **facts.known}
    provenance = make_provenance(**known)
    stated = (travelling or {}).get("sha256")
    # Only the converter states it, after its proof; a file of our own does not need a conversion.
    proof = "converted" if stated else "own" if found.format in OURS else "none"
    architecture, lines = _with_heads(facts, found, place, name, state, num_heads, path)
    warnings = (*warnings, *lines)
    weights = Weights(
        state, name, facts.preprocess, provenance, account, warnings, architecture, proof
    )
    provenance["name"] = provenance["name"] or default_name(weights, path)
    if stated not in (None, weights.sha256):
        raise InputError(
            f"{path}: its facts belong to different weights (sha256 {str(stated)[:16]}, found "
            f"{weights.sha256[:16]}); convert the original file again"
        )
    return Reading(weights, raw.path, found)


def _with_heads(
    facts: Facts,
    found: Found,
    place: Source,
    backbone: str,
    state: Mapping[str, Tensor],
    given: int | None,
    path: str,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns the architecture with a ViT's number of attention heads, and a warning about it."""
    architecture = dict(facts.architecture)
    number = architecture.get("num_heads") if given is None else given
    if number is not None:
        try:
            return architecture | given_heads(backbone, number), ()
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    if found.format in OURS or facts.known.get("source") == OURS[0].name:
        return architecture, ()
    named = place.backbone is not None or found.format in HUGGING_FACE_VITS
    method = facts.known.get("method")
    heads, warnings = heads_of(backbone, state, found.format.name, method, named)
    return architecture | heads, warnings


def _named(
    raw: RawFile, place: Source, travelling: Mapping[str, Any] | None, wanted: str | None
) -> str | None:
    """Returns the name of timm's network if the tensors do not identify it and something else
    does: the file's facts, its place, a checkpoint of ours or of timm's training, or the caller.
    """
    inside = (raw.content.get("backbone"), raw.content.get("arch"))
    for name in ((travelling or {}).get("backbone"), place.backbone, *inside, wanted):
        if isinstance(name, str) and is_timm_convnet(name):
            return name
    return None


def _with_place(facts: Facts, place: Source) -> Facts:
    """Adds the facts of a hub or a package, which take precedence over the format's facts."""
    known = {**facts.known, **place.known}
    architecture = {**facts.architecture, **place.architecture}
    facts = facts._replace(known=known, architecture=architecture)
    if place.backbone is not None and is_timm_convnet(place.backbone):
        facts = facts._replace(backbone=place.backbone)
    if place.preprocess is None:
        return facts
    # Warnings about the input are answered now; other warnings stay.
    warnings = tuple(line for line in facts.warnings if "preprocess" not in line)
    return facts._replace(preprocess=place.preprocess, warnings=warnings)


def _merge(facts: Facts, travelling: dict[str, Any]) -> Facts:
    """Adds the facts in a file, which take precedence over the facts of its format."""
    stated = {k: v for k, v in travelling.get("provenance", {}).items() if v is not None}
    preprocess, warnings = facts.preprocess, facts.warnings
    if "preprocess" in travelling:
        preprocess, warnings = Preprocess.from_dict(travelling["preprocess"]), ()
    backbone = travelling.get("backbone") or facts.backbone
    architecture = travelling.get("architecture") or facts.architecture
    return Facts(preprocess, {**facts.known, **stated}, backbone, warnings, architecture)


def _check_declared(backbone: str | None, path: str) -> None:
    if backbone is not None and not is_read(backbone) and not backbone.startswith("vit_"):
        raise InputError(
            f"{path} is a {backbone}; only ResNets, ViTs, ConvNeXts, RegNets and EfficientNets are "
            f"read: {', '.join(BACKBONES)}, vit_{{small,base,large}}_patch16_224 and the like, "
            "convnext_{tiny,...}, convnextv2_{tiny,...}, and timm's names"
        )


def _look_alike(path: str, found: str) -> tuple[str, ...]:
    """Returns a warning if only the file's name says that it is a different network of timm's."""
    other = named_look_alike(source_stem(path), found)
    if other is None:
        return ()
    return (
        f"the file's name says {other}, whose tensors have the names and shapes of a {found}'s, but"
        f" which computes something different: it is read as a {found}; if it is a {other}, give it"
        f' as timm:{other}, or as model.safetensors next to a config.json {{"architecture":'
        f' "{other}"}}, as timm\'s hub does',
    )


def _check_agrees(declared: str | None, found: str, path: str) -> None:
    known = declared is not None and (declared in BACKBONES or is_timm_convnet(declared))
    if known and declared != found:
        raise InputError(f"{path} says it is a {declared}, but its tensors are a {found}'s")


def _casts(tensors: dict[str, Tensor], account: KeyAccount) -> tuple[str, ...]:
    """Returns a warning if the source's numbers were not float32."""
    kinds = {str(tensors[name].dtype) for name in account.used if not name.endswith(COUNTER)}
    other = sorted(kinds - {"torch.float32"})
    return (f"weights stored as {', '.join(other)} were converted to float32",) if other else ()
