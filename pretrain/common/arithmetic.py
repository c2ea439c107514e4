"""The value of an arithmetic expression in a config file: a text in, numbers and lists out.

Detectron2's RetinaNet writes its anchors as an expression for Python's `eval`. Only what such lists
need is computed: numbers, the four operations and powers, lists, and a list made of another one.
The only names are those of the lists' own items; there are no calls and no attributes.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

MOST_CHARACTERS, MOST_STEPS, LARGEST = 1000, 5000, 1e15
OPERATIONS: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def evaluate(text: str) -> Any:
    """Returns the value of the expression.

    Raises ValueError for anything that is not such arithmetic, or too much of it.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError("the expression is too long")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"not an expression: {error}") from error
    return _Evaluation().value(tree.body, {})


class _Evaluation:
    def __init__(self) -> None:
        self.steps = 0

    def value(self, node: ast.expr, names: Mapping[str, Any]) -> Any:
        """Of a node, where `names` are those of the lists' items."""
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise ValueError("the expression takes too many steps")
        if isinstance(node, ast.Constant) and not isinstance(node.value, bool):
            return _bounded(_number(node.value))
        if isinstance(node, ast.Name) and node.id in names:
            return names[node.id]
        if isinstance(node, (ast.List, ast.Tuple)):
            return [self.value(item, names) for item in node.elts]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -_number(self.value(node.operand, names))
        if isinstance(node, ast.BinOp):
            return self._operation(node, names)
        if isinstance(node, ast.ListComp):
            return self._list_of(node, names)
        raise ValueError(f"{type(node).__name__} is not arithmetic")

    def _operation(self, node: ast.BinOp, names: Mapping[str, Any]) -> float:
        left, right = (_number(self.value(side, names)) for side in (node.left, node.right))
        try:
            if isinstance(node.op, ast.Pow):
                # It is computed with floats: a power of whole numbers could fill the memory.
                power = math.pow(left, right)
                whole = isinstance(left, int) and isinstance(right, int) and right >= 0
                return _bounded(int(power) if whole and abs(power) < LARGEST else power)
            if type(node.op) in OPERATIONS:
                return _bounded(OPERATIONS[type(node.op)](left, right))
        except ArithmeticError as error:
            raise ValueError(str(error)) from error
        raise ValueError(f"{type(node.op).__name__} is not among the operations")

    def _list_of(self, node: ast.ListComp, names: Mapping[str, Any]) -> list[Any]:
        first, *others = node.generators
        if others or first.ifs or first.is_async or not isinstance(first.target, ast.Name):
            raise ValueError("a list is made of one other list, by the name of its items")
        items = self.value(first.iter, names)
        if not isinstance(items, list):
            raise ValueError("a list must be made of a list")
        return [self.value(node.elt, {**names, first.target.id: item}) for item in items]


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)):
        raise ValueError("operations are on numbers")
    return value


def _bounded(value: float) -> float:
    if not abs(value) <= LARGEST:
        raise ValueError(f"a number above {LARGEST:g}")
    return value
