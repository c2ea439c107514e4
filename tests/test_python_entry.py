"""`import pretrain` and `import transfer` are cheap, complete, documented; their examples run."""

from __future__ import annotations

import ast
import doctest
import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import pretrain
import transfer
from pretrain.common.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"pretrain": pretrain, "transfer": transfer}
NAMES = [
    (package, name)
    for package, module in PACKAGES.items()
    for name in module.__all__
    if name != "InputError"
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a few digits."""
    folder = tmp_path_factory.mktemp("entry")
    pretrain.make_digits(folder / "digits", classification=(100, 10, 10), scenes=(4, 2, 2))
    return folder


@pytest.mark.parametrize("package, name", NAMES)
def test_the_example_of_a_name_runs(
    package: str, name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = getattr(PACKAGES[package], name)
    (tmp_path / "digits").symlink_to(place / "digits")
    if name in ("make_digits", "run_pretraining"):
        (tmp_path / "digits").unlink()
    if name == "read_records" and importlib.util.find_spec("pandas") is None:
        pytest.skip("the example needs pandas")
    monkeypatch.chdir(tmp_path)
    digits = "." if name == "run_pretraining" else "digits"
    monkeypatch.setenv("DETECTRON2_DATASETS", digits)
    text = textwrap.dedent(function.__doc__.partition("Example:")[2])
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert len(test.examples) >= 2, f"{package}.{name} has no example"
    output: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=output.append)
    assert not output, "".join(output)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_lists_of_names_agree(package: str) -> None:
    """Type checkers see the imports below TYPE_CHECKING, Python the places: they are the same."""
    module = PACKAGES[package]
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == module.PLACES
    assert sorted(module.__all__) == sorted(module.PLACES) == list(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    assert module.InputError is InputError
    described = set(module.__doc__.split())
    assert set(module.__all__) <= described, "the package's docstring names them"
    with pytest.raises(AttributeError, match=f"'{package}' has no attribute 'read_wieghts'"):
        module.read_wieghts


def test_importing_costs_no_torch() -> None:
    """Neither does reading records, which a notebook about results needs alone."""
    code = (
        "import sys, pretrain, transfer\n"
        "assert 'read_weights' in dir(transfer) and 'load_config' in dir(pretrain)\n"
        "transfer.InputError, transfer.read_records, pretrain.make_digits\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'timm'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "transfer.read_weights\n"
        "assert 'torch' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
