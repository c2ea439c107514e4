"""Describes a key format: where the tensors are, which prefix the trunk has, what is dropped.

A key without a rule is an error later. Patterns see a name without DDP's leading `module.`, which
files of one GPU lack.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.common.errors import InputError
from transfer.checkpoints.names.layouts import Layout, layout_of
from transfer.checkpoints.provenance import Facts, no_facts

Flat = Mapping[str, Any]

# Kinds of evidence: where a format's example in the tests comes from.
CLASS, TEXT, RELEASED = "model class", "description", "released file"
DDP = "module."


@dataclass(frozen=True)
class KeyFormat:
    """Describes one project's way of naming a trunk inside a file.

    Attributes:
        name: for `--source`; title: for people.
        evidence: what the tests' example was made from. CLASS: names and shapes from the project's
            own instantiated class; TEXT: its source, which we read; RELEASED: files that the
            project released, which the tests read.
        kinds: the containers (`RawFile.kind`) in which the format occurs.
        containers: paths to the mappings that hold the tensors; the first is the trunk's, and must
            be there; names in the others are prefixed by their path. An empty path is the file.
        prefixes: possible prefixes of the trunk's names; the first one that fits counts.
        layouts: possible layouts of the names after the prefix, keys of `names.layouts.LAYOUTS`;
            the first one that fits counts.
        needs, lacks: patterns that a name, and no name, of the first container matches in full.
        top: keys of the file that must be there.
        drops: by rule, the pattern that a dropped name matches in full.
        view: returns the content that `containers` and `facts` see, from the file's content.
        facts: returns what the content says about preprocessing and provenance.
        check: takes the content with `top`, and the first container; raises InputError for what is
            not read.
        beside: takes the file and the facts; returns the facts, completed by the file's name and by
            other files of its folder.
        forced: never detected, only by `--source`.
    """

    name: str
    title: str
    evidence: str
    kinds: tuple[str, ...] = ("torch", "safetensors")
    containers: tuple[tuple[str, ...], ...] = ((),)
    prefixes: tuple[str, ...] = ("",)
    layouts: tuple[str, ...] = ("canonical",)
    needs: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    top: tuple[str, ...] = ()
    drops: Mapping[str, str] = field(default_factory=dict)
    view: Callable[[Flat], Flat] = lambda content: content
    facts: Callable[[Flat], Facts] = no_facts
    check: Callable[[Flat], None] = lambda content: None
    beside: Callable[[Path, Facts], Facts] = lambda file, facts: facts
    forced: bool = False

    def dropped_by(self, name: str) -> str | None:
        """Returns the rule that drops a source name."""
        plain = without_ddp(name)
        for rule, pattern in self.drops.items():
            if re.fullmatch(pattern, plain):
                return rule
        return None


@dataclass(frozen=True)
class Found:
    """Describes a format found in a file.

    Attributes:
        content: the content as the format views it.
        prefix: the trunk's prefix in this file; tensors: all tensors by name, without the parts
            that wrappers put into names (`formats.unwrap`).
        notes: what was done to the names, printable lines.
        backbone: the network, if its name decides and not its tensors (`timm_convnets`).
    """

    format: KeyFormat
    content: Flat
    prefix: str
    layout: Layout
    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    backbone: str | None = None

    def canonical(self, name: str) -> str | None:
        """Returns the canonical name of a source name; None if the layout has none."""
        if not name.startswith(self.prefix):
            return None
        return self.layout.back(name[len(self.prefix) :])

    def source_name(self, canonical: str) -> str:
        """Returns the name that a canonical tensor has in the source."""
        return f"{self.prefix}{self.layout.forth(canonical) or canonical}"

    def trunk(self) -> dict[str, Tensor]:
        """Returns the tensors below the prefix, under the layout's names."""
        start = len(self.prefix)
        return {k[start:]: v for k, v in self.tensors.items() if k.startswith(self.prefix)}


def without_ddp(name: str) -> str:
    """Returns the name without DDP's wrapper."""
    return name[len(DDP) :] if name.startswith(DDP) else name


def match(entry: KeyFormat, content: Flat) -> Found | None:
    """Returns the format with its prefix, or None if the content has a different format.

    Raises:
        InputError: a file of the format that is not read, or one whose values are not tensors.
    """
    if any(key not in content for key in entry.top):
        return None
    content = entry.view(content)
    first = inside(content, entry.containers[0])
    if first is None:
        return None
    entry.check(content)
    names = [str(name) for name in first]
    plain = [without_ddp(name) for name in names]
    if not all(any(re.fullmatch(p, name) for name in plain) for p in entry.needs):
        return None
    if any(re.fullmatch(pattern, name) for name in plain for pattern in entry.lacks):
        return None
    for prefix, layout in _candidates(entry, names):
        if any(prefix + landmark in first for landmark in layout.landmarks):
            _check_landmarks(prefix, layout, first)
            return Found(entry, content, prefix, layout, _tensors(entry, content))
    return None


def inside(content: Any, path: tuple[str, ...]) -> Flat | None:
    """Returns the mapping at a path of keys; None if there is none."""
    for key in path:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content if isinstance(content, Mapping) and content else None


def with_ddp(*prefixes: str) -> tuple[str, ...]:
    """Returns each prefix after DDP's, then without it."""
    return tuple(f"{wrapper}{prefix}" for prefix in prefixes for wrapper in (DDP, ""))


def variant(entry: KeyFormat, name: str, **changes: Any) -> KeyFormat:
    """Returns a format that differs from a given one in a few fields."""
    return replace(entry, name=name, **changes)


def _candidates(entry: KeyFormat, names: list[str]) -> Iterator[tuple[str, Layout]]:
    for prefix in entry.prefixes:
        below = [name[len(prefix) :] for name in names if name.startswith(prefix)]
        if below:
            for layout in entry.layouts:
                yield prefix, layout_of(layout, below)


def _tensors(entry: KeyFormat, content: Flat) -> dict[str, Tensor]:
    """Returns the tensors of all containers; those of the first one under their own names."""
    tensors: dict[str, Tensor] = {}
    for place, path in enumerate(entry.containers):
        head = ".".join(path) + "." if place else ""
        for name, value in (inside(content, path) or {}).items():
            if not isinstance(name, str):
                if place:
                    continue
                kind = type(name).__name__
                raise InputError(f"the key {name!r} is a {kind}, not the name of a tensor")
            if not isinstance(value, Tensor):
                if place or _is_aside(value):
                    continue
                raise InputError(f"{name!r} is a {type(value).__name__}, not a tensor")
            tensors[f"{head}{name}"] = value
    return tensors


def _check_landmarks(prefix: str, layout: Layout, first: Flat) -> None:
    for name in (prefix + landmark for landmark in layout.landmarks):
        if not isinstance(first.get(name, torch.empty(0)), (Tensor, np.ndarray)):
            raise InputError(f"{name!r} is a {type(first[name]).__name__}, not a tensor")


def _is_aside(value: Any) -> bool:
    """Returns whether a value is what files keep besides tensors: a number, text or settings."""
    return value is None or isinstance(value, (bool, int, float, str, Mapping, np.generic))
