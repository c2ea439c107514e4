"""Arithmetic of config files is computed, and nothing else is."""

from __future__ import annotations

import pytest

from pretrain.common.arithmetic import evaluate
from pretrain.common.safe_yaml import has_inert, read_safe_yaml

ANCHORS = "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"


def test_anchors_of_retinanet() -> None:
    expected = [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in (32, 64, 128, 256, 512)]
    assert evaluate(ANCHORS) == expected
    text = f'SIZES: !!python/object/apply:eval ["{ANCHORS}"]'
    assert read_safe_yaml(text) == {"SIZES": expected}


@pytest.mark.parametrize(
    ("text", "value"),
    [("2**10", 1024), ("7 / 2", 3.5), ("[-1, 2 - 3]", [-1, -1]), ("2**-1", 0.5)],
)
def test_expressions(text: str, value: object) -> None:
    assert evaluate(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "().__class__",
        "x",
        "'a' * 9",
        "[1] * 9",
        "9**9**9",
        "1/0",
        "10**999",
        "(-1)**0.5",
        "True",
        "1j",
        "[x for x in [1] if x]",
        "[y for x in [1] for y in [x]]",
        "lambda: 1",
        "1 if 1 else 2",
        "[" * 500,
        "1+" * 600 + "1",
        "[[[[x for x in L] for L in [[1, 2]]] for M in [1]] for N in 5]",
        "[[[a for a in [1,2,3,4,5,6,7,8,9,0]] for b in [1,2,3,4,5,6,7,8,9,0]] for c in "
        "[[d for d in [1,2,3,4,5,6,7,8,9,0]] for e in [1,2,3,4,5,6,7,8,9,0]]] + 1",
        "",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(ValueError):
        evaluate(text)
    quoted = text.replace("'", "''")
    assert has_inert(read_safe_yaml(f"A: !!python/object/apply:eval ['{quoted}']"))


def test_too_many_steps() -> None:
    ten = "[1,2,3,4,5,6,7,8,9,0]"
    with pytest.raises(ValueError, match="too many steps"):
        evaluate(f"[[[[a for a in {ten}] for b in {ten}] for c in {ten}] for d in {ten}]")
