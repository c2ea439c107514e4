"""Reads YAML from strangers: text in, plain values out; no tag of the text runs code.

`yaml.dump` of a config object writes Python's tags (`!!python/object/new:fvcore...CfgNode`,
`!!python/tuple`). The values below them are taken, the classes are not looked up. What only code
could turn into a value (`!!python/object/apply:eval`) becomes an `Inert`, which names the tag.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

PYTHON = "tag:yaml.org,2002:python/"
ITEMS = "dictitems"  # where a tagged mapping keeps the entries of a subclass of dict


@dataclass(frozen=True, repr=False)
class Inert:
    """What stands in a file in place of a value: an expression that is not run."""

    tag: str

    def __repr__(self) -> str:
        return f"`!!python/{self.tag}`, which is code and is not run"


def read_safe_yaml(text: str) -> Any:
    """The values of a YAML text, with an `Inert` for each expression.

    Raises:
        yaml.YAMLError: not YAML, or a tag that is not Python's.
    """
    return yaml.load(text, Loader=_Loader)  # a SafeLoader


def has_inert(value: Any) -> bool:
    """Whether a value is an expression that was not run, or has one among its items."""
    if isinstance(value, dict):
        return any(map(has_inert, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(has_inert, value))
    return isinstance(value, Inert)


class _Loader(yaml.SafeLoader):
    """SafeLoader that keeps the values below Python's tags."""


def _tagged(loader: _Loader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        values = loader.construct_sequence(node, deep=True)
        return {"tuple": tuple, "list": list}.get(tag, lambda _: Inert(tag))(values)
    if isinstance(node, yaml.MappingNode):
        values = loader.construct_mapping(node, deep=True)
        if tag.startswith("object/new:") and isinstance(values.get(ITEMS), dict):
            return values[ITEMS]
        return values if tag == "dict" or tag.startswith("object:") else Inert(tag)
    text = loader.construct_scalar(node)
    if tag in ("str", "unicode"):
        return text
    if tag in ("int", "long", "float", "bool", "none"):
        return yaml.load(text, Loader=yaml.SafeLoader)
    return Inert(tag)


_Loader.add_multi_constructor(PYTHON, _tagged)
