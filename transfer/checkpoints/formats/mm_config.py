"""Reads the config that OpenMMLab's runners store in a checkpoint, as nested dicts.

It is stored as a mapping or as text. The text is Python (`cfg.pretty_text`, or `cfg.text` with the
files' names between the files), more rarely YAML or JSON. It is read as a syntax tree and nothing
in it is run: assignments, `dict(...)` calls, lists and constants have a value, everything else is
None.
Sources: mmcv 1.x runner/checkpoint.py and utils/config.py, mmengine runner/runner.py.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from pretrain.common.safe_yaml import has_inert, read_safe_yaml

PLACES = (
    ("meta", "cfg"),
    ("meta", "config"),
    ("message_hub", "runtime_info", "cfg"),
    ("cfg",),
    ("config",),
)
_FILE_NAME = re.compile(r"\S+\.(py|ya?ml|json)", re.IGNORECASE)
_CONSTANTS = {"true": True, "false": False, "null": None}
DEPTH = 30  # values nested deeper are not read


def stored_config(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the first readable config in a file, as nested dicts; empty if there is none."""
    for place in PLACES:
        value: Any = content
        for key in place:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, (str, Mapping)) and (config := parse_config(value)):
            return config
    return {}


def parse_config(value: str | Mapping[str, Any]) -> dict[str, Any]:
    """Returns the nested dicts of a config's text; empty if the text is not a config."""
    if isinstance(value, Mapping):
        return dict(value)
    lines = [line for line in value.splitlines() if not _FILE_NAME.fullmatch(line.strip())]
    text = "\n".join(lines)
    for parse in (_python, read_safe_yaml):
        try:
            found = parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError, yaml.YAMLError):
            continue
        if isinstance(found, dict) and found and not has_inert(found):
            return found
    return {}


def mappings(value: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """Yields every mapping inside a config, outer ones before inner ones."""
    if depth > DEPTH:
        return
    if isinstance(value, Mapping):
        yield value
    inner = value.values() if isinstance(value, Mapping) else value
    for one in inner if isinstance(value, (Mapping, list, tuple)) else ():
        yield from mappings(one, depth + 1)


def _python(text: str) -> dict[str, Any]:
    body = ast.parse(text).body
    if len(body) == 1 and isinstance(body[0], ast.Expr):  # one dict, as str(dict) or JSON writes it
        return _value(body[0].value, {})
    known: dict[str, Any] = {}
    for statement in body:
        if isinstance(statement, ast.Assign):
            value = _value(statement.value, known)
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    known[target.id] = _over(known.get(target.id), value)
    return known


def _over(base: Any, value: Any) -> Any:
    """Returns a file's value merged over that of its `_base_`, as mmcv does."""
    if not (isinstance(base, Mapping) and isinstance(value, Mapping)) or value.get("_delete_"):
        return value
    return {**base, **{key: _over(base.get(key), one) for key, one in value.items()}}


def _value(node: ast.AST, known: Mapping[str, Any]) -> Any:
    """Returns a node's value; None unless it is a constant, a container, or the name of one."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return known.get(node.id, _CONSTANTS.get(node.id))
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(one, known) for one in node.elts]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _value(node.operand, known)
        return -number if isinstance(number, (int, float)) else None
    if isinstance(node, ast.BinOp):
        return _computed(node, known)
    pairs: list[tuple[Any, ast.AST]] = []
    if isinstance(node, ast.Dict):
        pairs = [(key and _value(key, known), value) for key, value in zip(node.keys, node.values)]
    elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("dict", "ConfigDict"):
        pairs = [(word.arg, word.value) for word in node.keywords]
    else:
        return None
    return _joined(pairs, known)


def _joined(pairs: list[tuple[Any, ast.AST]], known: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a dict of pairs; a pair without a key is a dict that is unpacked, `**other`."""
    joined: dict[str, Any] = {}
    for key, node in pairs:
        value = _value(node, known)
        if key is not None:
            joined[str(key)] = value
        elif isinstance(value, Mapping):
            joined |= value
    return joined


def _computed(node: ast.BinOp, known: Mapping[str, Any]) -> float | None:
    """Returns the value of a product or quotient of numbers: people write `0.485 * 255`."""
    left, right = _value(node.left, known), _value(node.right, known)
    if not all(isinstance(side, (int, float)) for side in (left, right)):
        return None
    if isinstance(node.op, ast.Mult):
        return left * right
    return left / right if isinstance(node.op, ast.Div) and right else None
