"""Reads config files from strangers: a file in, plain values out; nothing in it runs code.

`yaml.dump` of a config object writes Python's tags (`!!python/object/new:fvcore...CfgNode`,
`!!python/tuple`), `pickle.dump` its class. The values below them are taken, the classes are not
looked up. What only code could turn into a value (`!!python/object/apply:eval`) becomes an `Inert`,
which names the tag.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PYTHON = "tag:yaml.org,2002:python/"
ITEMS = "dictitems"  # where a tagged mapping keeps the entries of a subclass of dict


@dataclass(frozen=True, repr=False)
class Inert:
    """What a file has in place of a value: an expression that is not run."""

    tag: str

    def __repr__(self) -> str:
        return f"`!!python/{self.tag}`, which is code and is not run"


def read_config_file(path: Path) -> Any:
    """The values of a config file: YAML, or a pickle of nested configs.

    Raises:
        OSError, UnicodeDecodeError, yaml.YAMLError, pickle.UnpicklingError: not readable.
    """
    content = path.read_bytes()
    if content[:1] == b"\x80":  # of a pickle of protocol 2 or above; no text begins so
        try:
            return _plain(_Unpickler(io.BytesIO(content)).load())
        except Exception as error:  # a damaged pickle raises nearly anything
            raise pickle.UnpicklingError(str(error) or type(error).__name__) from error
    return read_safe_yaml(content.decode("utf-8-sig"))


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
        mapping = loader.construct_mapping(node, deep=True)
        if tag.startswith("object/new:") and isinstance(mapping.get(ITEMS), dict):
            return mapping[ITEMS]
        return mapping if tag == "dict" or tag.startswith("object:") else Inert(tag)
    assert isinstance(node, yaml.ScalarNode)  # YAML has no fourth kind of node
    text = loader.construct_scalar(node)
    if tag in ("str", "unicode"):
        return text
    if tag in ("int", "long", "float", "bool", "none"):
        return yaml.load(text, Loader=yaml.SafeLoader)
    return Inert(tag)


_Loader.add_multi_constructor(PYTHON, _tagged)


class _Node(dict):
    """Replaces a config's class; only the entries of its state are read."""

    def __setstate__(self, state: Any) -> None:
        """See the class."""


class _Unpickler(pickle.Unpickler):
    """Builds containers alone; every class that holds entries becomes a `_Node`."""

    def find_class(self, module: str, name: str) -> Any:
        """A `_Node` for a config's class, whatever its module; nothing is imported."""
        if name in ("CfgNode", "CN", "Config", "ConfigDict", "OrderedDict"):
            return _Node
        if module in ("builtins", "__builtin__") and name in ("set", "frozenset", "dict"):
            return {"set": set, "frozenset": frozenset, "dict": dict}[name]
        raise pickle.UnpicklingError(f"a pickle that asks for {module}.{name} is not read")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value))
    return value
