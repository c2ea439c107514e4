"""The runner of mutants: which are tried, how an outcome is counted; without running mutmut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import mutation
from pretrain.common.config import CHECKOUT

CODE = """
def x_f__mutmut_orig(a, b=1):
    if a < 0:
        raise ValueError("a is negative")
    return a + b
def x_f__mutmut_1(a, b=1):
    if a <= 0:
        raise ValueError("a is negative")
    return a + b
def x_f__mutmut_2(a, b=1):
    if a < 0:
        raise ValueError(None)
    return a + b
def x_f__mutmut_3(a, b=2):
    if a < 0:
        raise ValueError("a is negative")
    return a + b
"""
PART = mutation.Part(("place/code.py",), ("tests",))


def test_the_files_of_the_parts_exist() -> None:
    for part in mutation.PARTS.values():
        assert all((CHECKOUT / path).exists() for path in (*part.code, *part.tests))


def test_messages_are_left_out_and_what_is_missed_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place of mutmut: the first call makes the mutants, the second runs the chosen ones."""
    names, runs = [f"place.code.x_f__mutmut_{number}" for number in (1, 2, 3)], []

    def mutmut(tree: Path, chosen: list[str]) -> None:
        runs.append(chosen)
        folder = tree / "mutants" / "place"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "code.py").write_text(CODE)
        codes = {name: 0 if name.endswith("3") else 1 for name in names}
        kept = codes if len(runs) == 2 else dict.fromkeys(names)
        (folder / "code.py.meta").write_text(json.dumps({"exit_code_by_key": kept}))

    (tmp_path / "place").mkdir()
    (tmp_path / "place/code.py").write_text(CODE.replace("def x_f__mutmut_orig", "@cache\ndef f"))
    monkeypatch.setattr(mutation, "_mutmut", mutmut)
    found = mutation.try_part(PART, tmp_path, 50, 0)
    assert "f = cache(f_undecorated)" in (tmp_path / "place/code.py").read_text()
    assert runs[0] == [mutation.NOTHING] and sorted(runs[1]) == [names[0], names[2]]
    assert (found["mutants"], found["tried"], found["caught"]) == (3, 2, 1)
    assert found["survivors"] == {names[2]: ["-def f(a, b=1):", "+def f(a, b=2):"]}


DECORATED = """
def twice(f):
    return lambda *a: 2 * f(*a)


@twice
@twice
def one(a):
    @twice
    def inner(f):
        return f + 1

    return inner(a)


class Class:
    def __init__(self, a):
        self.a = a

    @property
    def both(self):
        return 2 * self.a

    @classmethod
    def made(cls):
        return cls(
            7
        )
"""


def test_decorated_functions_become_plain_ones_that_do_the_same() -> None:
    plain = mutation.undecorated(DECORATED)
    before, after = {}, {}
    exec(DECORATED, before)
    exec(plain, after)
    assert before["one"](3) == after["one"](3) == 32
    assert after["one_undecorated"](3) == 8
    assert after["Class"].made().both == before["Class"].made().both == 14
    kept = [line.strip() for line in plain.splitlines() if line.lstrip().startswith("@")]
    assert kept == ["@twice", "@classmethod"], "in a function, and what mutmut knows"
    assert mutation.undecorated(plain) == plain


@pytest.mark.parametrize(
    ("code", "kind"),
    [(0, "survived"), (None, "survived"), (33, "unreached"), (36, "timeout"), (1, "caught")],
)
def test_outcomes(code: int | None, kind: str) -> None:
    assert mutation._kind(code) == kind
