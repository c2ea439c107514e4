"""What happens to each key of a weights file. Each key is counted (`KeyAccount`) as one of three
kinds:

- *used*: it has a canonical name, and its tensor is a part of the backbone;
- *dropped*: a rule of the file's format says what it is (`KeyFormat.drops`: a projector, a head);
- *unexplained*: an error that names it. Nothing is left out silently.

A tensor that the backbone needs and that the file lacks, or has in a different shape, is the same
error. A file of a known format with unexplained keys is tried a second time as `generic`
(`find_explained`), which reads it if it holds exactly one complete known trunk.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from pretrain.backbones.resnet import BACKBONES
from pretrain.common.errors import InputError
from transfer.checkpoints.formats.find_format import what_else
from transfer.checkpoints.formats.generic import GENERIC, copies_note, widened
from transfer.checkpoints.formats.key_format import Found
from transfer.checkpoints.formats.ours import OURS
from transfer.checkpoints.formats.refused_networks import NAME_IT
from transfer.checkpoints.networks.architectures import (
    Split,
    expected_shapes,
    nearest_backbone,
    shorten,
    whole,
)
from transfer.checkpoints.weights import COUNTER, KeyAccount


class SortedKeys(NamedTuple):
    """Holds the account of all keys, the canonical tensors of those that are used, and their
    backbone.
    """

    account: KeyAccount
    state: dict[str, Tensor]
    backbone: str


def find_explained(found: Found, source: str, where: str) -> tuple[Found, SortedKeys | None]:
    """Returns the file in its format, or as `generic` if the format leaves keys unexplained.

    Args:
        source: the format that the user asked for. Only "auto" tries a second time, and not for
            files of our own.
        where: how messages name the file.

    Returns:
        the file, and its sorted keys if they have been sorted: what the file says about itself is
        looked at before its keys if the format is certain.

    Raises:
        InputError: the keys are those of a network that is known and not read.
    """
    if source != "auto" or found.format in OURS or found.format.name == GENERIC.name:
        return _with_copies(found), None
    try:
        keys = sort_keys(found, where)
    except InputError as error:
        wider = widened(found)
        if wider is None and (hint := what_else(found.content)):
            reason = str(error).removeprefix(f"{where}: ")
            raise InputError(f"{reason}; {hint}") from error
        return _with_copies(replace(wider or found, notes=found.notes)), None
    noted = _with_copies(found)
    return noted, keys._replace(account=replace(keys.account, notes=noted.notes))


def sort_keys(found: Found, where: str) -> SortedKeys:
    """Counts every key of the file as used, dropped or unexplained.

    Raises:
        InputError: unexplained keys, an incomplete backbone or an unknown one, or tensors that
            cannot be weights (quantised, sparse, without values).
    """
    dropped: dict[str, list[str]] = defaultdict(list)
    foreign: list[str] = []
    state: dict[str, Tensor] = {}
    layout = found.layout
    for name, tensor in found.tensors.items():
        rule = found.format.dropped_by(name)
        canonical = found.canonical(name)
        if rule:
            dropped[rule].append(name)
        elif canonical is None:
            foreign.append(name)
        else:
            _check_values_there(name, tensor, where)
            state[canonical] = layout.convert(canonical, tensor)
    used = tuple(found.source_name(name) for name in state)
    state |= layout.adds
    named = (found.backbone, 1.0) if found.backbone else None
    backbone, likeness = named or nearest_backbone(state, layout.split)
    if likeness < (0.25 if layout.fills else 0.5):
        raise InputError(
            f"{where}: no known backbone has these {len(state)} tensors"
            f" ({shorten(list(state) + foreign)}); nearest is {backbone}"
        )
    filled = _fill(state, backbone, layout.fills) + len(layout.adds)
    expected = check_complete(state, backbone, where, foreign, found.source_name, layout.split)
    rules = {rule: tuple(keys) for rule, keys in dropped.items()}
    account = KeyAccount(used, rules, expected - filled, found.notes)
    joined = layout.join(state)
    tensors = {name: _canonical_tensor(name, joined[name], where) for name in joined}
    return SortedKeys(account, tensors, backbone)


def check_complete(
    state: Mapping[str, Tensor],
    backbone: str,
    where: str,
    foreign: Sequence[str] = (),
    source_name: Callable[[str], str] = str,
    split: Split = whole,
) -> int:
    """Compares names and shapes with the architecture; returns the expected number of tensors.

    BN's counters are all there (torch wrote them) or all absent (old torch, FrozenBN files).

    Args:
        state: canonical names.
        foreign: source names that have no canonical name.
        source_name: returns the file's own name for a canonical one, for the message.
        split: see `names.layouts.Layout`.

    Raises:
        InputError: names the missing, the wrong-shaped and the foreign tensors.
    """
    counters = any(name.endswith(COUNTER) for name in state)
    wanted = split(expected_shapes(backbone, counters))
    missing = [source_name(name) for name in wanted if name not in state]
    shaped = [
        f"{source_name(name)} {tuple(state[name].shape)} instead of {shape}"
        for name, shape in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    extra = [*foreign, *(source_name(name) for name in state if name not in wanted)]
    faults = {"missing": missing, "wrong shape": shaped, "unexplained": extra}
    if any(faults.values()):
        parts = [f"{len(keys)} {kind}: {shorten(keys)}" for kind, keys in faults.items() if keys]
        remedy = f"; if it is a different network of timm's, {NAME_IT}"
        raise InputError(
            f"{where}: not a complete {backbone} ({len(wanted)}): {'; '.join(parts)}"
            + (remedy if backbone in BACKBONES and _lacks_a_part(state, wanted) else "")
        )
    return len(wanted)


def _lacks_a_part(state: Mapping[str, Tensor], wanted: Iterable[str]) -> bool:
    """Returns whether a whole block is missing, or the statistics of all batch norms: then it is a
    network of its own, such as timm's resnet26 or resnet50_gn, rather than a damaged file.
    """
    return any(set(map(part, wanted)) - set(map(part, state)) for part in (_block, _statistics))


def _block(name: str) -> str:
    """Returns `layer1.2` for a tensor of that block, "" for one outside the blocks."""
    found = re.match(r"layer\d+\.\d+(?=\.)", name)
    return found.group() if found else ""


def _statistics(name: str) -> bool:
    return name.endswith((".running_mean", ".running_var"))


def _with_copies(found: Found) -> Found:
    """Adds a note on which of several copies of the trunk is read."""
    return replace(found, notes=(*found.notes, *copies_note(found)))


def _fill(state: dict[str, Tensor], backbone: str, fills: Mapping[str, float]) -> int:
    """Adds the tensors that a layout leaves out; returns how many."""
    added = 0
    for name, shape in expected_shapes(backbone, counters=False).items() if fills else ():
        leaf = name.rpartition(".")[2]
        value = fills.get(name, fills.get(leaf))
        if value is not None and name not in state:
            state[name] = torch.full(shape, value)
            added += 1
    return added


def _check_values_there(name: str, tensor: Tensor, where: str) -> None:
    """Raises InputError for a tensor of the trunk that is sparse or has a shape only."""
    if tensor.is_meta:
        raise InputError(
            f"{where}: {name} has no values (device meta): the network was saved before its "
            "weights were loaded; save it again"
        )
    if tensor.layout != torch.strided:
        raise InputError(f"{where}: {name} is a sparse tensor; save its to_dense()")


def _canonical_tensor(name: str, tensor: Tensor, where: str) -> Tensor:
    if name.endswith(COUNTER) and not tensor.is_quantized:
        return tensor.detach().to(torch.int64).contiguous()
    if not tensor.is_floating_point():
        raise InputError(
            f"{where}: {name} is {tensor.dtype}, not floating point; give the network in "
            "floating point (quantised networks are not supported)"
        )
    return tensor.detach().to(torch.float32).contiguous()
