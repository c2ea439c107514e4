"""Any supported weights file in, canonical `Weights` with an account of every key out."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pretrain.backbones.resnet import BACKBONES, build_resnet
from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.architectures import check_complete, nearest_backbone, shorten
from transfer.checkpoints.formats import KeyFormat, find_format
from transfer.checkpoints.provenance import Facts
from transfer.checkpoints.readers.raw import open_file
from transfer.checkpoints.sanity import check_values
from transfer.checkpoints.weights import (
    COUNTER,
    KeyAccount,
    Weights,
    default_name,
    make_provenance,
    parse_facts,
)

RANDOM = "random"


@dataclass(frozen=True)
class Reading:
    """Weights beside the source they came from, which the proof needs.

    Attributes:
        tensors: the source's own names and tensors, untouched.
    """

    weights: Weights
    format: KeyFormat
    tensors: dict[str, Tensor]


def read_weights(
    path: str,
    source: str = "auto",
    backbone: str | None = None,
    seed: int = 0,
    trust: bool = False,
) -> Weights:
    """Reads the trunk of any supported file.

    Args:
        path: a file, or "random": the untrained backbone (`backbone` and `seed` say which).
        source: a format of `formats.FORMATS`, or "auto" to detect it from the content.
        backbone: what the weights must be; None takes what the file holds.
        trust: reads pickles without restrictions, which can run code from the file.

    Raises:
        InputError: unreadable, unknown, incomplete, or with keys that no rule explains.
    """
    if path == RANDOM:
        return random_weights(backbone, seed)
    return read(path, source, backbone, trust).weights


def random_weights(backbone: str | None, seed: int) -> Weights:
    """The untrained backbone, drawn from a seed; torch's global generator is left as it was.

    Raises:
        InputError: no or an unknown backbone.
    """
    if backbone is None:
        raise InputError("weights 'random' need a backbone; name one, such as resnet50")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = build_resnet(backbone).state_dict()
    known = {"name": f"random_{backbone}", "source": RANDOM, "method": RANDOM, "epochs": 0}
    provenance = make_provenance(**known, pretrain_seed=seed)
    return Weights(state, backbone, Preprocess(), provenance)


def read(
    path: str, source: str = "auto", backbone: str | None = None, trust: bool = False
) -> Reading:
    """Like `read_weights` for a file, keeping the source beside the result."""
    raw = open_file(path, trust)
    try:
        entry, tensors = find_format(raw, source)
        facts = entry.facts(raw.content)
        travelling = parse_facts(raw.facts)
        if travelling is not None:
            facts = _merge(facts, travelling)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if facts.backbone is not None and facts.backbone not in BACKBONES:
        raise InputError(
            f"{path} is a {facts.backbone}; only ResNets are read: {', '.join(BACKBONES)}"
        )
    account, state = _sort_keys(entry, tensors, facts.backbone, str(path))
    found, _ = nearest_backbone(state)
    if backbone is not None and backbone != found:
        raise InputError(f"{path} is a {found}, where a {backbone} is wanted")
    warnings = (*facts.warnings, *_casts(tensors, account), *check_values(state, str(path)))
    known = {"source": entry.name, "file_sha256": raw.sha256, **facts.known}
    provenance = make_provenance(**known)
    weights = Weights(state, found, facts.preprocess, provenance, account, warnings)
    provenance["name"] = provenance["name"] or default_name(weights, raw.path)
    stated = (travelling or {}).get("sha256")
    if stated not in (None, weights.sha256):
        raise InputError(
            f"{path}: its facts are of other weights (sha256 {str(stated)[:16]}, found "
            f"{weights.sha256[:16]}); convert the original file again"
        )
    return Reading(weights, entry, tensors)


def _merge(facts: Facts, travelling: dict[str, Any]) -> Facts:
    """Facts that travel with a file win over what its format makes known."""
    stated = {k: v for k, v in travelling.get("provenance", {}).items() if v is not None}
    preprocess, warnings = facts.preprocess, facts.warnings
    if "preprocess" in travelling:
        preprocess, warnings = Preprocess.from_dict(travelling["preprocess"]), ()
    backbone = travelling.get("backbone") or facts.backbone
    return Facts(preprocess, {**facts.known, **stated}, backbone, warnings)


def _sort_keys(
    entry: KeyFormat, tensors: dict[str, Tensor], declared: str | None, where: str
) -> tuple[KeyAccount, dict[str, Tensor]]:
    """Gives every source key its fate: used, dropped by a rule, or unexplained (an error)."""
    dropped: dict[str, list[str]] = defaultdict(list)
    foreign: list[str] = []
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        rule = entry.dropped_by(name)
        canonical = entry.canonical(name)
        if rule:
            dropped[rule].append(name)
        elif canonical is None:
            foreign.append(name)
        else:
            state[canonical] = tensor
    backbone, likeness = nearest_backbone(state)
    if likeness < 0.5:
        raise InputError(
            f"{where}: no known backbone has these {len(state)} tensors"
            f" ({shorten(list(state) + foreign)}); nearest is {backbone}"
        )
    expected = check_complete(state, backbone, where, foreign, entry.source_name)
    if declared is not None and declared != backbone:
        raise InputError(f"{where} says it is a {declared}, but its tensors are a {backbone}'s")
    used = tuple(entry.source_name(name) for name in state)
    account = KeyAccount(used, {rule: tuple(keys) for rule, keys in dropped.items()}, expected)
    return account, {name: _canonical_tensor(name, state[name], where) for name in state}


def _canonical_tensor(name: str, tensor: Tensor, where: str) -> Tensor:
    if name.endswith(COUNTER):
        return tensor.detach().to(torch.int64).contiguous()
    if not tensor.is_floating_point():
        raise InputError(f"{where}: {name} is {tensor.dtype}, not floating point")
    return tensor.detach().to(torch.float32).contiguous()


def _casts(tensors: dict[str, Tensor], account: KeyAccount) -> tuple[str, ...]:
    """A warning where the source's numbers were not float32."""
    kinds = {str(tensors[name].dtype) for name in account.used if not name.endswith(COUNTER)}
    other = sorted(kinds - {"torch.float32"})
    return (f"weights stored as {', '.join(other)} became float32",) if other else ()
