"""The reference of config keys: each key with default, role, unit and its comment.

The files of defaults are run once more with a config node that remembers the line that set each of
its keys, so that the comments need no second copy.
"""

from __future__ import annotations

import ast
import re
import runpy
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

from fvcore.common.config import CfgNode

from docs.generate.markdown_table import NOTICE, code, prose, table
from pretrain import roles as pretrain_roles
from pretrain.common.roles import Role, Roles
from transfer.classification import defaults as classification
from transfer.detection import roles as detection_roles

ROOT = Path(__file__).resolve().parents[2]
LINES = "_lines_of_keys"
ROLE_NOTE = """
The column **role** says what a key affects:

- *protocol*: the key changes the results. Two values are two protocols, which a report never
  averages, and a pretraining run can be resumed only with the same value. "If used" means that this
  is true only for configs in which the key has an effect.
- *data*: the value follows from the data sets.
- *weights*: the value is replaced by what the checkpoint states.
- *machine*: the key says where a run is made, and how fast.
- *watching*: the key says what is shown, kept or measured in addition to the result.
- *trial*: the key says which of several trials this is.

If a YAML file has an unknown key or a value of a different type, the command ends with an error
that names the file, the key and similar keys. The texts are the comments of {file}. If the unit is
empty, the value has no unit, or the text gives it.
"""
UNITS = (
    ("px", r"px|pixels?"),
    ("GiB", r"GiB"),
    ("iterations", r"iterations?"),
    ("epochs", r"epochs?"),
    ("steps", r"steps"),
    ("images", r"images"),
    ("tokens", r"tokens?"),
    ("channels", r"channels?"),
    ("strides", r"strides"),
    ("share, 0 to 1", r"shares?"),
)
BY_NAME = (
    ("probability, 0 to 1", r"_PROB$"),
    ("epochs", r"EPOCHS$"),
    ("iterations", r"(_ITERS?|_PERIOD)$"),
    ("steps", r"_STEPS$"),
    ("images", r"(^IMAGES|BATCH_SIZE|_LIMIT)$"),
    ("px", r"(MIN_SIZE|MAX_SIZE)_(TRAIN|TEST)$"),
)
FIRST_WORDS = 3
LONGEST_NUMBER = 8  # characters; 4/3 is shown as 1.33333


class RecordingNode(CfgNode):
    """A config node that remembers which line of which file set each key."""

    def __setattr__(self, name: str, value: Any) -> None:
        frame: FrameType = sys._getframe(1)
        self.__dict__.setdefault(LINES, {})[name] = (frame.f_code.co_filename, frame.f_lineno)
        super().__setattr__(name, value)


@dataclass(frozen=True)
class Comments:
    """The comments of a Python file, by the line of the statement that they belong to."""

    path: Path

    @cached_property
    def lines(self) -> list[str]:
        """The file's lines."""
        return self.path.read_text(encoding="utf-8").splitlines()

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return ast.parse("\n".join(self.lines))

    @cached_property
    def statements(self) -> dict[int, ast.Assign]:
        """The assignment that each line belongs to."""
        found = [node for node in ast.walk(self.tree) if isinstance(node, ast.Assign)]
        return {n: node for node in found for n in range(node.lineno, _end(node) + 1)}

    @cached_property
    def comments(self) -> dict[int, str]:
        """The comment on each line that has one."""
        tokens = tokenize.generate_tokens(iter([f"{line}\n" for line in self.lines]).__next__)
        found = [token for token in tokens if token.type == tokenize.COMMENT]
        return {token.start[0]: token.string.lstrip("# ") for token in found}

    def of(self, line: int) -> str:
        """Returns the comment lines right above the statement at a line, then those behind it."""
        statement = self.statements[line]
        first, last = statement.lineno, _end(statement)
        above: list[str] = []
        for text in reversed(self.lines[: first - 1]):
            if not text.strip().startswith("#"):
                break
            above.insert(0, text.strip().lstrip("# "))
        beside = [self.comments.get(number, "") for number in range(first, last + 1)]
        upper, lower = " ".join(above), " ".join(filter(None, beside))
        if upper and lower and not upper.endswith((".", ":", ";")):
            upper += ";"
        return f"{upper} {lower}".strip()

    def docstring(self, line: int) -> str:
        """Returns the docstring of the function that the statement calls for its value, in one
        line.
        """
        name = getattr(getattr(self.statements[line].value, "func", None), "id", "")
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return " ".join((ast.get_docstring(node) or "").split())
        return ""


def _end(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno


def pretraining_page() -> str:
    """Returns the keys of pretraining."""
    return _page("pretraining", "pretrain/defaults.py", "get_defaults", pretrain_roles.ROLES)


def detection_page() -> str:
    """Returns the keys of detection and semantic segmentation."""
    path = "transfer/detection/defaults.py"
    return _page("detection and segmentation", path, "make_defaults", detection_roles.ROLES)


def classification_page() -> str:
    """Returns the keys of classification."""
    path = "transfer/classification/defaults.py"
    return _page("classification", path, "get_defaults", classification.ROLES)


def _page(title: str, file: str, maker: str, roles: Roles) -> str:
    path = ROOT / file
    with mock.patch("fvcore.common.config.CfgNode", RecordingNode):
        cfg = runpy.run_path(str(path))[maker]()
    comments = Comments(path)
    top = ast.get_docstring(comments.tree) or ""
    parts = [f"# Config keys of {title}\n\n{top}\n{ROLE_NOTE.format(file=code(file))}"]
    plain = [name for name, value in cfg.items() if not isinstance(value, CfgNode)]
    parts.append("\n## Top level\n\n" + _rows(cfg, plain, "", comments, roles))
    for name, node in cfg.items():
        if isinstance(node, CfgNode):
            parts.append(_section(name, node, cfg, comments, roles))
    return NOTICE + "".join(parts)


def _section(name: str, node: CfgNode, cfg: CfgNode, comments: Comments, roles: Roles) -> str:
    notes = "".join(f"{note}\n\n" for note in _notes(name, node, cfg, comments))
    return f"\n## {name}\n\n{notes}" + _rows(node, list(node), f"{name}.", comments, roles)


def _notes(name: str, node: CfgNode, parent: CfgNode, comments: Comments) -> Iterator[str]:
    """Yields what is said of a node as a whole, and of the nodes below it."""
    line = _line(parent, name.rsplit(".", 1)[-1])
    said = " ".join(filter(None, (comments.of(line), comments.docstring(line)))) if line else ""
    if said:
        yield f"{code(name)}: {prose(said)}" if "." in name else prose(said)
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _notes(f"{name}.{key}", value, node, comments)


def _rows(node: CfgNode, keys: list[str], before: str, comments: Comments, roles: Roles) -> str:
    heads = ("key", "default", "role", "unit", "meaning, and source of the default")
    return table(heads, list(_leaves(node, keys, before, comments, roles)))


def _leaves(
    node: CfgNode, keys: list[str], before: str, comments: Comments, roles: Roles
) -> Iterator[tuple[str, ...]]:
    for key in keys:
        value, name = node[key], f"{before}{key}"
        if isinstance(value, CfgNode):
            yield from _leaves(value, list(value), f"{name}.", comments, roles)
            continue
        line = _line(node, key)
        said = comments.of(line) if line else ""
        yield code(name), code(_shown(value)), _role(name, roles), _unit(key, value, said), prose(
            said
        )


def _line(node: CfgNode, key: str) -> int | None:
    return node.__dict__.get(LINES, {}).get(key, (None, None))[1]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return repr(value) if len(repr(value)) <= LONGEST_NUMBER else f"{value:.6g}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_shown, value)) + ("," * (len(value) == 1)) + ")"
    return repr(value)


def _role(name: str, roles: Roles) -> str:
    entry = roles.entry(name)
    text = entry.role.value
    return f"{text}, if used" if entry.role is Role.PROTOCOL and entry.when else text


def _unit(key: str, value: Any, said: str) -> str:
    """Returns what a number counts: said in the comment's first words or as "in UNIT", else by the
    name.
    """
    numbers = value if isinstance(value, (tuple, list)) else (value,)
    if not numbers or any(isinstance(n, bool) or not isinstance(n, (int, float)) for n in numbers):
        return ""
    start = " ".join(said.split()[:FIRST_WORDS])
    for unit, pattern in UNITS:
        if re.search(rf"\b({pattern})\b", start) or re.search(rf"\bin ({pattern})\b", said):
            return unit
    return next((unit for unit, pattern in BY_NAME if re.search(pattern, key)), "")
