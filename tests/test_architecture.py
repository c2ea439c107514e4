"""Rules of the code base: allowed imports, sizes, docstrings, and a quick --help."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE_FILES = sorted([*ROOT.glob("pretrain/**/*.py"), *ROOT.glob("transfer/**/*.py")])
TOOLS = sorted(ROOT.glob("tools/[!_]*.py"))
ALL_FILES = [*PACKAGE_FILES, *TOOLS]
BENCHMARKS = sorted(ROOT.glob("benchmarks/*.py"))
FROM_PRETRAIN = ("common", "backbones", "data", "optim")
# Packages that all tasks use, and what of `transfer` each may import: no task.
FLOORS = {
    "training": ("training", "checkpoints", "datasets"),
    "trials": ("trials", "checkpoints", "results"),
}
TABLE_OF_TASKS = (
    "transfer.trials.tasks"  # names all tasks, and imports them when they are asked for
)
# The modules in which a function may take a config. All other code takes typed values, but for a
# spec's `from_config`, which is beside the module that the spec describes.
CONFIG_READERS = {
    # What a config is: loading, defaults, roles of keys, checks.
    "pretrain.common.config",
    "pretrain.common.config_values",
    "pretrain.common.roles",
    "pretrain.engine.checks",
    "pretrain.roles",
    "transfer.classification.defaults",
    "transfer.detection.config",
    "transfer.detection.config_checks",
    "transfer.detection.roles",
    "transfer.detection.torchvision_engine.architectures",
    "transfer.segmentation.config",
    "transfer.suite.config",
    # What makes the parts of a run from it.
    "pretrain.data.build",
    "pretrain.engine.footprint",
    "pretrain.engine.run",
    "pretrain.entry.views",
    "pretrain.methods.build",
    "pretrain.visual.run",
    "transfer.classification.features.formats",
    "transfer.classification.protocols.knn",
    "transfer.classification.protocols.kshot",
    "transfer.classification.protocols.linear",
    "transfer.classification.protocols.logistic",
    "transfer.classification.protocols.robustness",
    "transfer.classification.protocols.protocol",
    "transfer.classification.protocols.svm",
    "transfer.classification.protocols.train_on_crops",
    "transfer.classification.task",
    "transfer.detection.engine",
    "transfer.detection.fine_tuning",
    "transfer.detection.footprint",
    "transfer.detection.lr_sweep",
    "transfer.detection.scaling",
    "transfer.detection.show",
    "transfer.detection.task",
    "transfer.detection.torchvision_engine.engine",
    "transfer.detection.weights.detector_file",
    "transfer.detection.weights.scored_detector",
    "transfer.detection.weights.starting_weights",
    "transfer.entry.detector",
    "transfer.segmentation.show",
    "transfer.segmentation.task",
    "transfer.segmentation.training",
    "transfer.training.build",
    "transfer.trials.task",
    # The other engine, whose classes take Detectron2's config.
    "transfer.detection.detectron2_engine",
    "transfer.detection.detectron2_plugin",
    "transfer.detection.detectron2_recipe",
    "transfer.detection.detectron2_vit",
    # What compares configs, or says what a run of one would do.
    "transfer.doctor.run",
    "transfer.report.configs",
    "transfer.suite.check",
    "transfer.suite.earlier",
    "transfer.suite.gpu_needs",
    "transfer.suite.plan",
    "transfer.trials.earlier",
    # Scripts.
    "benchmarks.detect",
    "benchmarks.floors",
    "benchmarks.ladder",
    "benchmarks.probe",
    "benchmarks.run",
    "benchmarks.trivial",
    "tools.bench",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"{path}:{node.lineno}: relative import; write the full name")
    return found


def functions(path: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def arrows(path: Path) -> list[int]:
    """Returns the lines of comments and docstrings that have an arrow in place of a verb."""
    with tokenize.open(path) as file:
        tokens = tokenize.generate_tokens(file.readline)
        texts = [
            (token.start[0] + number, line)
            for token in tokens
            if token.type == tokenize.COMMENT or token.string.startswith('"""')
            for number, line in enumerate(token.string.split("\n"))
        ]
    return [number for number, line in texts if re.search(r"\s<?->(\s|$)|\u2192", line)]


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=module_name)
def test_import_rules(path: Path) -> None:
    name = module_name(path)
    for target in imports(path):
        head, _, rest = target.partition(".")
        assert head != "tools", f"{name} imports {target}: nothing imports tools"
        if name.startswith("pretrain"):
            assert head != "transfer", f"{name} imports {target}: pretrain never imports transfer"
        if name.startswith("transfer") and head == "pretrain" and rest:
            allowed = rest.split(".")[0] in FROM_PRETRAIN
            assert allowed, f"{name} imports {target}: transfer may use {FROM_PRETRAIN} only"
        floor = name.split(".")[1] if name.startswith("transfer.") else ""
        if floor in FLOORS and head == "transfer" and rest and name != TABLE_OF_TASKS:
            allowed = rest.split(".")[0] in FLOORS[floor]
            assert allowed, f"{name} imports {target}: {floor} may use {FLOORS[floor]} of transfer"
        if head == "detectron2":
            stem = path.stem.startswith("detectron2_") and path.parent.name == "detection"
            assert stem, f"{name} imports detectron2; only transfer/detection/detectron2_*.py may"


def test_no_import_cycles() -> None:
    """Imports inside functions and under TYPE_CHECKING count: they hide a cycle, and keep it."""
    known = {module_name(path): path for path in [*ALL_FILES, *BENCHMARKS]}
    graph = {
        name: {target for target in imports(path) if target in known}
        for name, path in known.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' -> '.join((*trail, name))}"
        if name not in done:
            for target in sorted(graph[name] - {name}):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def takes_a_config(path: Path) -> bool:
    """Whether a function other than `from_config`, or a field of a class, holds a config."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            if getattr(node, "name", "") == "from_config":
                continue
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        else:
            given = []
        fields = node.body if isinstance(node, ast.ClassDef) else []
        notes = [part.annotation for part in given if part.annotation is not None]
        notes += [part.annotation for part in fields if isinstance(part, ast.AnnAssign)]
        named = any(part.arg == "cfg" for part in given)
        if named or any("CfgNode" in ast.unparse(note) for note in notes):
            return True
    return False


def test_only_the_listed_modules_read_a_config() -> None:
    files = {module_name(path): path for path in [*ALL_FILES, *BENCHMARKS]}
    readers = {name for name, path in files.items() if takes_a_config(path)}
    others = sorted(readers - CONFIG_READERS)
    assert not others, f"{others} take a config: pass typed values, or a spec with a `from_config`"
    assert not CONFIG_READERS - readers, f"listed without need: {CONFIG_READERS - readers}"


def test_a_reader_of_configs_is_found(tmp_path: Path) -> None:
    codes = {
        "def f(cfg): ...": True,
        "f = lambda cfg: cfg": True,
        "def f(given: CfgNode | None): ...": True,
        "class A:\n    config: CfgNode": True,
        "class A:\n    def from_config(cls, cfg: CfgNode): ...": False,
        "def f(width: int): ...": False,
    }
    for code, expected in codes.items():
        (tmp_path / "code.py").write_text(code)
        assert takes_a_config(tmp_path / "code.py") is expected, code


@pytest.mark.parametrize("path", ALL_FILES, ids=module_name)
def test_sizes_and_docstrings(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), f"{path}: a module says what is in it"
    assert text.count("\n") <= 500, f"{path}: more than 500 lines"
    for function in functions(path):
        lines = function.end_lineno - function.lineno + 1
        assert lines <= 80, f"{path}:{function.lineno}: {function.name} has {lines} lines"


@pytest.mark.parametrize("path", [*ALL_FILES, *BENCHMARKS], ids=module_name)
def test_docstrings_and_comments_have_verbs_not_arrows(path: Path) -> None:
    found = arrows(path)
    assert not found, f"{path}: lines {found}: write what is returned, or 'by name: ...'"


def test_an_arrow_is_found(tmp_path: Path) -> None:
    code = '''"""Names -> shapes."""
def f(x: int) -> str:
    """(N, D) ->
    (N,)."""
    return "a -> b"  # name -> size
PAIRS = {}  # by name: size
'''
    (tmp_path / "code.py").write_text(code)
    assert arrows(tmp_path / "code.py") == [1, 3, 5]


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=module_name)
def test_parameters_are_typed(path: Path) -> None:
    for function in functions(path):
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
        assert not bare, f"{path}:{function.lineno}: {function.name}: untyped {bare}"


@pytest.mark.parametrize("path", TOOLS, ids=module_name)
def test_help_is_quick_and_loads_no_torch(path: Path) -> None:
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{path.name}', '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(path)!r}, run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules, 'imports torch before it is needed'\n"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    seconds = time.monotonic() - start
    assert done.returncode == 0, done.stderr
    assert "example" in done.stdout
    assert seconds < 10, f"--help took {seconds:.1f} s"  # generous: CI machines are busy


def test_durations_come_from_a_clock_that_is_never_set() -> None:
    """time.time() names moments only: in the files that say when they were written."""
    moments = {"pretrain/common/progress.py", "transfer/suite/view.py"}
    folders = ("pretrain", "transfer", "tools")
    found = {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"\btime\.time\(|from time import .*\btime\b|utcnow\(", path.read_text())
    }
    assert found == moments
