"""Reads config files from unknown sources: a file in, plain values out. It never runs code.

`yaml.dump` of a config object writes Python's tags (`!!python/object/new:fvcore...CfgNode`,
`!!python/tuple`), and `pickle.dump` writes its class. The values below them are read, and the
classes are not looked up. If only code could make a value (`!!python/object/apply:...`), the result
is an `Inert`, which names the tag. Arithmetic, as of RetinaNet's anchors, is computed without
Python's `eval`.

A text of some kilobytes cannot unfold to something large: nesting and nodes are counted before
anything walks them, and the nodes of an alias (`*name`) are counted each time it is used. Dates and
bytes are not values of a config; they are refused like tags that are not Python's.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pretrain.common.arithmetic import evaluate
from pretrain.common.printable import shown
from pretrain.common.regular_file import read_regular
from pretrain.common.safe_json import MOST_WHOLE

MOST_BYTES = 1 << 19  # largest file; a shipped config has some thousand bytes
MOST_NODES, MOST_DEPTH = 50_000, 40
PYTHON = "tag:yaml.org,2002:python/"
ITEMS = "dictitems"  # key of a tagged mapping that has the entries of a subclass of dict


@dataclass(frozen=True, repr=False)
class Inert:
    """Is an expression that a file has in place of a value; it is not run."""

    tag: str

    def __repr__(self) -> str:
        return f"`!!python/{self.tag}`, which is code and is not run"


def read_config_file(path: Path) -> Any:
    """Returns the values of a config file: YAML, or a pickle of nested configs.

    Raises:
        OSError, UnicodeDecodeError, yaml.YAMLError, pickle.UnpicklingError: not readable.
    """
    content = read_regular(path, MOST_BYTES)
    if content[:1] == b"\x80":  # a pickle of protocol 2 or above; no text begins like this
        try:
            return _Plain().copy(_Unpickler(io.BytesIO(content)).load())
        except Exception as error:  # a damaged pickle raises nearly anything
            raise pickle.UnpicklingError(str(error) or type(error).__name__) from error
    return read_safe_yaml(content.decode("utf-8-sig"))


def read_safe_yaml(text: str) -> Any:
    """Returns the values of a YAML text, with an `Inert` for each expression.

    Raises:
        yaml.YAMLError: the text is not YAML, is too large, or has a date or a tag that is not
            Python's.
    """
    if len(text) > MOST_BYTES:
        raise yaml.YAMLError(
            f"a config may have at most {MOST_BYTES} characters, this one has {len(text)}"
        )
    try:
        return _Loader(text).get_single_data()
    except yaml.YAMLError:
        raise
    except Exception as error:  # the library converts 2020-99-99 without a check
        raise yaml.YAMLError(str(error) or type(error).__name__) from error


def has_inert(value: Any) -> bool:
    """Returns whether a value is an expression that was not run, or contains one."""
    if isinstance(value, dict):
        return any(map(has_inert, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(has_inert, value))
    return isinstance(value, Inert)


def has_odd_characters(text: str) -> bool:
    """Returns whether a text has characters that no name, path or value of a config has."""
    return any(c < " " and c not in "\n\t" or "\ud800" <= c <= "\udfff" for c in text)


class _Loader(yaml.SafeLoader):
    """A SafeLoader that keeps the values below Python's tags, and counts the composed nodes."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes, self._depth, self._deepest = 0, 0, 0
        # by anchor: the number of its nodes, and of their levels
        self._sizes: dict[str, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Returns the next node, if the limits are not exceeded."""
        event = self.peek_event()
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if anchor in self.anchors and anchor not in self._sizes:
                raise _refusal(f"the alias *{anchor} is part of what it repeats", event.start_mark)
            self._add(*self._sizes.get(str(anchor), (1, 1)), event.start_mark)
            return super().compose_node(parent, index)
        nodes, deepest = self._nodes, self._deepest
        self._deepest = self._depth
        self._add(1, 1, event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if anchor:
            self._sizes[anchor] = self._nodes - nodes, self._deepest - self._depth
        self._deepest = max(deepest, self._deepest)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping; YAML's library would keep the last value of a key that is there twice."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":  # a merge may be repeated
                continue
            if key.value in seen:
                text = f"the key {shown(key.value)} is there twice: write it once"
                raise _refusal(text, key.start_mark)
            seen.add(key.value)
        return node

    def _add(self, nodes: int, levels: int, mark: Any) -> None:
        self._nodes += nodes
        self._deepest = max(self._deepest, self._depth + levels)
        if self._nodes > MOST_NODES:
            raise _refusal(f"more than {MOST_NODES} values, aliases written out", mark)
        if self._deepest > MOST_DEPTH:
            raise _refusal(f"lists and mappings nested deeper than {MOST_DEPTH} levels", mark)

    def construct_scalar(self, node: yaml.Node) -> Any:
        """Returns the text of a scalar; refuses characters that no name, path or value has."""
        text = super().construct_scalar(node)  # type: ignore[arg-type]
        if has_odd_characters(text):
            raise _refusal(f"control characters in {shown(text)}", node.start_mark)
        return text

    def construct_whole(self, node: yaml.Node) -> int:
        """Returns an integer that an array can hold."""
        number = self.construct_yaml_int(node)  # type: ignore[arg-type]
        if not -MOST_WHOLE <= number < MOST_WHOLE:
            raise _refusal("a whole number of more than 64 bits", node.start_mark)
        return number

    def refuse(self, node: yaml.Node) -> Any:
        """Raises an error for a tag that a config cannot have."""
        kind = node.tag.rpartition(":")[2]
        value = f" {shown(node.value)}" if isinstance(node, yaml.ScalarNode) else ""
        remedy = "; put a text in quotes" if kind == "timestamp" else ""
        raise _refusal(
            f"a value of the kind {kind}{value}, which no key has{remedy}", node.start_mark
        )


def _refusal(text: str, mark: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, text, mark)


def _tagged(loader: _Loader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        values = loader.construct_sequence(node, deep=True)
        if tag == "object/apply:eval" and len(values) == 1 and isinstance(values[0], str):
            try:
                found = evaluate(values[0])
            except ValueError:
                return Inert(tag)
            return found if isinstance(found, list) else Inert(tag)  # no other is written so
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
        resolved = loader.resolve(yaml.ScalarNode, text, (True, False))
        return loader.construct_object(yaml.ScalarNode(resolved, text, node.start_mark))
    return Inert(tag)


_Loader.add_multi_constructor(PYTHON, _tagged)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)
for _kind in ("timestamp", "binary", "omap", "pairs"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.refuse)


class _Node(dict):
    """Replaces the class of a config; only the entries of its state are read."""

    def __setstate__(self, state: Any) -> None:
        """See the class."""


class _Unpickler(pickle.Unpickler):
    """Builds only containers; every class that has entries becomes a `_Node`."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns a `_Node` for a config's class of any module; nothing is imported."""
        if name in ("CfgNode", "CN", "Config", "ConfigDict", "OrderedDict"):
            return _Node
        if module in ("builtins", "__builtin__") and name in ("set", "frozenset", "dict"):
            return {"set": set, "frozenset": frozenset, "dict": dict}[name]
        raise pickle.UnpicklingError(f"a pickle that asks for {module}.{name} is not read")


class _Plain:
    """Copies the content of a pickle into plain containers, with the limits of a YAML text."""

    def __init__(self) -> None:
        self._nodes = 0

    def copy(self, value: Any, depth: int = 0) -> Any:
        """Returns the value; if containers share a value, it is counted and copied for each of
        them.
        """
        self._nodes += 1
        if self._nodes > MOST_NODES or depth > MOST_DEPTH:
            raise pickle.UnpicklingError(
                f"more than {MOST_NODES} values, or nested deeper than {MOST_DEPTH} levels"
            )
        if isinstance(value, dict):
            return {self.copy(key): self.copy(entry, depth + 1) for key, entry in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.copy(part, depth + 1) for part in value)
        if isinstance(value, int) and not -MOST_WHOLE <= value < MOST_WHOLE:
            raise pickle.UnpicklingError("a whole number of more than 64 bits")
        if isinstance(value, str) and has_odd_characters(value):
            raise pickle.UnpicklingError(f"control characters in {shown(value)}")
        return value
