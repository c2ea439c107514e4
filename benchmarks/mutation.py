"""Checks that the tests notice small faults: mutants of the code on which all numbers depend.

mutmut (the extra `mutation`) changes one operator, number, name or argument at a time and runs the
tests that reach it. A seeded sample of the mutants of each part is tried in a copy of the tree; the
working tree is never changed:

    python -m benchmarks.mutation --output benchmarks/results/mutation.json
    python -m benchmarks.mutation masking losses --mutants 20

mutmut leaves decorated functions as they are, and most losses have a decorator. In the copy these
functions are therefore plain, with a name that ends in `_undecorated`, and the line after one calls
the decorator.

Mutants of texts in a `raise` are left out, because people read messages and no code uses them. A
mutant that survives is shown with its lines; docs/guarantees.md says why those of the stored result
survive.
"""

from __future__ import annotations

import argparse
import ast
import copy
import difflib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.result_file import write_result
from pretrain.common.config import CHECKOUT
from pretrain.common.errors import InputError

NOTHING = "no.such.mutant"
UNDECORATED = "_undecorated"
SURVIVED, UNREACHED, TIMEOUTS = (0,), (33, 34), (36, 24, -24, 152, 255)
CHECKPOINTS, RESULTS = "tests/transfer/checkpoints", "tests/transfer/results"


@dataclass(frozen=True)
class Part:
    """Files that are mutated, and the tests that must notice it."""

    code: tuple[str, ...]
    tests: tuple[str, ...]


PARTS = {
    "masking": Part(("pretrain/data/masking.py",), ("tests/pretrain/data/test_masking.py",)),
    "losses": Part(
        tuple(
            f"pretrain/losses/{name}.py"
            for name in ("assignment", "precision", "reconstruction", "redundancy", "similarity")
        ),
        ("tests/pretrain/losses",),
    ),
    "conversion": Part(
        ("transfer/checkpoints/names/resnet.py", "transfer/checkpoints/names/other_frameworks.py"),
        (f"{CHECKPOINTS}/names", f"{CHECKPOINTS}/test_key_lists.py"),
    ),
    "evaluation": Part(
        tuple(
            f"transfer/detection/evaluation/{name}.py"
            for name in ("coco", "coco_matches", "voc", "pr_curves")
        ),
        ("tests/transfer/detection/evaluation",),
    ),
    "statistics": Part(
        ("transfer/results/statistics.py", "transfer/results/pooled.py"),
        (f"{RESULTS}/test_statistics.py", f"{RESULTS}/test_pooled.py"),
    ),
    "identity": Part(
        ("pretrain/data/fingerprint.py", "transfer/results/group.py"),
        ("tests/pretrain/data/test_fingerprint.py", f"{RESULTS}/test_group.py"),
    ),
    "unpickler": Part(
        tuple(
            f"transfer/checkpoints/readers/{name}.py"
            for name in ("unpickle", "plain_calls", "numpy_pickle")
        ),
        tuple(
            f"{CHECKPOINTS}/readers/{name}.py"
            for name in (
                "test_hostile_calls",
                "test_numpy_pickle",
                "test_plain_calls",
                "test_unpickle",
            )
        ),
    ),
}


def try_part(part: Part, tree: Path, number: int, seed: int) -> dict[str, Any]:
    """Tries a sample of a part's mutants in a copy of the tree; returns counts and survivors."""
    _configure(part, tree)
    for file in part.code:
        (tree / file).write_text(undecorated((tree / file).read_text()))
    shutil.rmtree(tree / "mutants", ignore_errors=True)
    _mutmut(tree, [NOTHING])  # makes all mutants, and finds the tests that reach them
    if not _codes(part, tree):
        raise InputError(f"mutmut made no mutant of {part.code[0]}; see its output above")
    functions = _functions(part, tree)
    plain = {name: _without_messages(node) for name, node in functions.items()}
    candidates = sorted(
        name for name in _codes(part, tree) if plain[name] != plain[_original(name)]
    )
    chosen = random.Random(seed).sample(candidates, min(number, len(candidates)))
    _mutmut(tree, chosen)
    codes = _codes(part, tree)
    kinds = Counter(_kind(codes[name]) for name in chosen)
    left = sorted(name for name in chosen if _kind(codes[name]) in ("survived", "unreached"))
    caught = kinds["caught"] + kinds["timeout"]
    return {
        "seed": seed,
        "mutants": len(codes),
        "candidates": len(candidates),
        "tried": len(chosen),
        "caught": caught,
        "share": round(caught / max(len(chosen), 1), 3),
        **{kind: kinds[kind] for kind in ("timeout", "survived", "unreached")},
        "survivors": {
            name: _difference(functions[_original(name)], functions[name]) for name in left
        },
    }


def undecorated(source: str) -> str:
    """Returns the same module with `f = decorator(f_undecorated)` in place of each decorated
    function.

    Classmethods and staticmethods, which mutmut knows, and functions in functions stay.
    """
    lines = source.splitlines(keepends=True)
    tree = ast.parse(source)
    places: list[ast.AST] = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    functions = [
        node
        for place in places
        for node in ast.iter_child_nodes(place)
        if isinstance(node, ast.FunctionDef)
    ]
    for node in sorted(functions, key=lambda node: node.lineno, reverse=True):
        decorators = [ast.unparse(one) for one in node.decorator_list]
        if not decorators or decorators[0] in ("classmethod", "staticmethod"):
            continue
        assert node.end_lineno is not None
        begin = node.decorator_list[0].lineno - 1
        call = "".join(f"{one}(" for one in decorators) + node.name + UNDECORATED
        lines.insert(
            node.end_lineno, f"{' ' * node.col_offset}{node.name} = {call}{')' * len(decorators)}\n"
        )
        head = lines[node.lineno - 1]
        lines[node.lineno - 1] = head.replace(node.name, node.name + UNDECORATED, 1)
        del lines[begin : node.lineno - 1]
    return "".join(lines)


def _kind(code: int | None) -> str:
    """Returns what a mutant's exit code means; a mutant that was not run counts as survived."""
    if code is None or code in SURVIVED:
        return "survived"
    if code in UNREACHED:
        return "unreached"
    return "timeout" if code in TIMEOUTS else "caught"


def _configure(part: Part, tree: Path) -> None:
    lists = {
        "paths_to_mutate": part.code,
        "tests_dir": part.tests,
        "also_copy": sorted(path.name for path in tree.iterdir() if path.name != "mutants"),
    }
    text = (CHECKOUT / "setup.cfg").read_text() + "\n[mutmut]\n"
    for key, values in lists.items():
        text += f"{key} =\n" + "".join(f"    {value}\n" for value in values)
    (tree / "setup.cfg").write_text(text)


def _mutmut(tree: Path, names: Sequence[str]) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1", *names]
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode and NOTHING not in names:
        print(done.stdout.decode(errors="replace")[-2000:], file=sys.stderr)


def _codes(part: Part, tree: Path) -> dict[str, int | None]:
    """Returns the exit code of the tests for each mutant; None: not tried."""
    codes: dict[str, int | None] = {}
    for file in part.code:
        meta = tree / "mutants" / f"{file}.meta"
        if meta.exists():
            codes |= json.loads(meta.read_text())["exit_code_by_key"]
    return codes


def _functions(part: Part, tree: Path) -> dict[str, ast.FunctionDef]:
    """Returns the functions of all mutants by name, and the originals (`..._orig`)."""
    found = {}
    for file in part.code:
        module = file.removesuffix(".py").replace("/", ".")
        for node in ast.walk(ast.parse((tree / "mutants" / file).read_text())):
            if isinstance(node, ast.FunctionDef) and "__mutmut_" in node.name:
                name, node.name = node.name, "f"  # so that only the mutation differs
                found[f"{module}.{name}"] = node
    return found


def _original(name: str) -> str:
    return f"{name.rpartition('_')[0]}_orig"


class _WithoutMessages(ast.NodeTransformer):
    """Takes the arguments of errors that are raised."""

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:  # noqa: N802 (ast's name)
        if isinstance(node.exc, ast.Call):
            node.exc.args, node.exc.keywords = [], []
        return node


def _without_messages(function: ast.FunctionDef) -> str:
    return ast.dump(_WithoutMessages().visit(copy.deepcopy(function)))


def _difference(before: ast.FunctionDef, after: ast.FunctionDef) -> list[str]:
    """Returns the changed lines, `-` before and `+` after."""
    texts = (ast.unparse(node).splitlines() for node in (before, after))
    lines = difflib.unified_diff(*texts, n=0, lineterm="")
    return [line for line in lines if line[:3] not in ("---", "+++") and line[0] in "+-"]


def _copied_tree(folder: Path) -> Path:
    """Copies the files that git tracks or would add."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=CHECKOUT, stdout=subprocess.PIPE, check=True).stdout
    for name in filter(None, names.decode().split("\0")):
        if (CHECKOUT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, folder / name)
    return folder


def _kept(output: Path) -> dict[str, Any]:
    """Returns the parts that the file already has."""
    parts: dict[str, Any] = json.loads(output.read_text())["parts"] if output.exists() else {}
    return parts


def main() -> None:
    """Tries the parts that are named (all), prints a table, and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--mutants", type=int, default=50, help="mutants of each part (50)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample (0)")
    parser.add_argument("--output", type=Path, help="JSON file, which keeps its other parts")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        tree = _copied_tree(Path(folder))
        for name in args.parts or PARTS:
            found[name] = one = try_part(PARTS[name], tree, args.mutants, args.seed)
            print(f"{name:12s} {one['caught']:4d} of {one['tried']:4d} caught", flush=True)
            for mutant, lines in one["survivors"].items():
                print(f"    {mutant}\n" + "\n".join(f"        {line}" for line in lines))
    tried, caught = (sum(one[key] for one in found.values()) for key in ("tried", "caught"))
    print(f"{caught} of {tried} caught ({100 * caught / max(tried, 1):.0f} %)")
    if args.output:
        write_result(args.output, {"parts": {**_kept(args.output), **found}})


if __name__ == "__main__":
    main()
